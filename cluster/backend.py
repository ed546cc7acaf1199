"""What a backend is: it takes jobs, runs them somewhere, says which ended and why, and stops them.

To add one: a file with a class like `cluster.local.LocalBackend`, and its line in `BACKENDS`.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Literal, Protocol

from cluster.profile import Profile

BACKENDS = {
    "local": "cluster.local:LocalBackend",
    "docker": "cluster.docker:DockerBackend",
    "slurm": "cluster.slurm:SlurmBackend",
}

Kind = Literal["error", "killed", "memory", "timeout", "cancelled", "lost"]
"""Why a job ended badly: by itself, by a signal, for memory, time, by a person, with its node."""


SIGNAL_SECONDS = 120
"""How long before its time limit a job is told."""


def signal_seconds(timeout_min: int) -> int:
    """How long before its time limit a job of so many minutes is told."""
    return min(SIGNAL_SECONDS, timeout_min * 60 // 4)


Say = Callable[[str], None]
"""Tells people something, a line."""


@dataclass(frozen=True)
class Job:
    """One Python command to run somewhere.

    Attributes:
        name: unique among the jobs of a run that are not over; a file name.
        command: arguments of Python, for example ("-m", "jobs.cell", RUN, CELL).
        log: where its output is appended.
        env: variables beside those of the place it runs in.
        after: names of jobs of the same backend that have to be over before it starts, however
            they end.
        reads, writes: folders and files that it needs, at the same path wherever it runs.
        gpus, mem_gb, timeout_min: what it asks for.
        bare: it speaks to the batch system, so it runs in no container.
    """

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    after: Sequence[str] = ()
    reads: Sequence[str] = ()
    writes: Sequence[str] = ()
    gpus: int = 0
    mem_gb: int = 4
    timeout_min: int = 60
    bare: bool = False


@dataclass(frozen=True)
class Ended:
    """A job that is over.

    Attributes:
        code: its exit code, negative where a signal killed it, None where nobody knows.
        kind, cause: why, where the backend knows better than the code: for example the queue
            says that it was killed for memory. None = the code says all.
    """

    job: Job
    code: int | None
    kind: Kind | None = None
    cause: str | None = None


class Backend(Protocol):
    """A place where jobs run.

    Attributes:
        interval: seconds between two calls of `poll` that make sense.
        stays: jobs outlive the launcher, so that leaving it is no interruption.
        note: what keeps jobs from starting, for people; empty where nothing is amiss.
    """

    interval: float
    stays: bool
    note: str

    def __init__(self, profile: Profile, run: Path) -> None:
        """Open the backend of a profile for one run folder."""

    def prepare(self, say: Say) -> None:
        """See that jobs can run here, before any is submitted; may take long, and says so.

        Raises:
            InputError: they cannot, and what to do.
        """

    def describe(self) -> str:
        """Where jobs run, in a few words for people."""

    @property
    def slots(self) -> int | None:
        """How many jobs run at once; None where that is not known here."""

    def submit(self, jobs: Sequence[Job]) -> list[Job]:
        """Queue jobs; returns those that there was no room for, to be submitted later."""

    def resume(self, anew: bool) -> None:
        """Take over what an earlier launcher of the run left queued or running.

        Args:
            anew: a person launches the run again: what was cancelled meanwhile is forgotten.
        """

    def live(self) -> list[Job]:
        """The jobs that are queued or running, those of an earlier launcher too."""

    def poll(self) -> Iterator[Ended]:
        """The jobs that ended since the last call; starts what waits for room here."""

    def drop(self) -> None:
        """Forget the jobs that have not started."""

    def send(self, number: Signals) -> None:
        """Send a signal to every job that runs."""

    def stop(self) -> None:
        """End every job, those queued too."""

    def at_last(self, job: Job) -> None:
        """Run a job when all that was submitted is over, where jobs outlive their launcher."""

    def finish(self) -> None:
        """All is done: forget the job of `at_last`."""

    def preview(self, jobs: Sequence[Job]) -> Iterator[str]:
        """What `submit` would run, word for word, of jobs that are alike the first; asks nobody."""


def open_backend(profile: Profile, run: Path) -> Backend:
    """The backend of a profile, for a run folder."""
    module, _, name = BACKENDS[profile.backend].partition(":")
    backend: Backend = getattr(importlib.import_module(module), name)(profile, run)
    return backend


SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
ALLOCATION = re.compile(r"SLURM_(?!CONF$|CLUSTERS$)|SBATCH_EXPORT$|SRUN_|SUBMITIT_|PMIX?_")


def job_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that a job inherits: no tokens, and nothing of an allocation launched from."""
    return {
        name: value
        for name, value in environment.items()
        if not SECRET.search(name) and not ALLOCATION.match(name)
    }
