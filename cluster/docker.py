"""The docker backend: each job in a container of its own on this machine (or podman, apptainer)."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from cluster import contained, image
from cluster.backend import Ended, Job, Say
from cluster.container import Sandbox
from cluster.local import LocalBackend, gpu_count
from cluster.profile import Profile


class DockerBackend(LocalBackend):
    """Runs jobs as containers, as many at a time as the local backend runs processes.

    The launcher holds the other end of each container's standard input: should it be killed, the
    containers notice, and end.
    """

    def __init__(self, profile: Profile, run: Path) -> None:
        super().__init__(profile, run)
        self.image = profile.container.image or ""
        self.digest = self.image
        self._boxes: dict[str, Sandbox] = {}

    def describe(self) -> str:
        """Where jobs run, in a few words for people."""
        runtime = self.profile.container.runtime
        return f"{self.slots} containers of {runtime} on this machine, image {self.image}"

    def prepare(self, say: Say) -> None:
        """See that the engine answers, and that the image is there and holds this code.

        Raises:
            InputError: no job could run.
        """
        gpus = bool(gpu_count())
        self.image, self.digest = image.prepare(self.profile.container, gpus, self.run.parent, say)

    def line(self, job: Job) -> str:
        """The command line of a job; the names of containers and of temporary folders vary."""
        return contained.preview(self.profile, job, self._share(0))

    def meaning(self, job: Job, code: int) -> Ended:
        """What the exit code of a job's client says; what is left of the container goes."""
        return contained.finish(self._boxes.pop(job.name), job, code)

    def kill(self, job: Job, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Send a signal to a job; a container outlives its client, and is removed by name."""
        super().kill(job, process, number)
        if number == signal.SIGKILL:
            contained.remove(self._boxes[job.name])

    def _launch(self, job: Job, share: dict[str, str]) -> subprocess.Popen[bytes]:
        process, box = contained.start(self.profile, job, self.image, self.digest, share)
        self._boxes[job.name] = box
        return process
