"""The Slurm backend: arrays by submitit; progress from files, Slurm asked to explain silence."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from signal import Signals

from cluster import contained, image, squeue
from cluster.arrays import Array
from cluster.backend import Ended, Job, Say
from cluster.profile import Profile
from cluster.sending import Sender
from cluster.silence import Silence
from cluster.squeue import AwayError, Verdict
from cluster.submission import FullError, RefusedError, submit
from cluster.yamlfile import InputError

RETRY_SECONDS = 15.0
"""Time between two tries to submit where Slurm was away, or the user's limit reached."""

PATIENCE_SECONDS = 60.0
"""How long a launch that has nothing in the queue waits for a Slurm that does not answer."""

KILLED = (-9, 137)
"""Exit codes that need Slurm's word on why."""


class SlurmBackend:
    """Submits jobs as arrays and watches the files that they leave."""

    interval = 1.0
    stays = True

    def __init__(self, profile: Profile, run: Path) -> None:
        self.profile = profile
        self.name = f"calgrid-{run.name}"
        self.folder = run / "slurm"
        self.note = self._warning = ""
        self._sender = Sender(profile, self.name, self.folder)
        self.arrays = self._sender.arrays
        self._silence = Silence(self.name, self.arrays)
        self._last: Job | None = None  # what is to run when all is over, not submitted yet
        self._stopped = False
        self._retry_at = 0.0

    @property
    def slots(self) -> int | None:
        """Unknown: that is the cluster's to say."""
        return None

    def describe(self) -> str:
        """Where jobs run, in a few words for people."""
        place = f"partition {self.profile.partition}" if self.profile.partition else "Slurm"
        runtime = self.profile.container.runtime
        return place if runtime == "none" else f"{place}, in containers of {runtime}"

    def prepare(self, say: Say) -> None:
        """See that Slurm answers, and that the image is there and holds this code.

        Raises:
            InputError: no job could run, as far as this machine can tell.
        """
        if not self.arrays:  # else jobs of the run go on meanwhile, however long Slurm is away
            _await_answer(say)
        container = self.profile.container
        if container.runtime != "none" and shutil.which(container.runtime):
            image.prepare(container, False, self.folder.parent.parent, say, build=False)

    def live(self) -> list[Job]:
        """The jobs that are queued or running, those of earlier launchers too."""
        return [array.jobs[i] for array in self.arrays for i in array.unsettled()]

    def queued(self) -> int:
        """How many jobs of the run Slurm has in its queue; asks it.

        Raises:
            AwayError: it does not answer.
        """
        return sum(entry.live for entry in squeue.queue(self.name).values())

    # -- submitting

    def resume(self, anew: bool) -> None:
        """Take over what an earlier launcher left; `anew`: forget what was cancelled since."""
        try:
            self._sender.adopt()
            self._silence.doubt()
            if anew and self.arrays:
                self._silence.forget_cancelled()
        except AwayError as error:
            self._is_away(error)

    def submit(self, jobs: Sequence[Job]) -> list[Job]:
        """Submit jobs as arrays, up to the cluster's limits; returns those that do not fit yet.

        Raises:
            InputError: Slurm refuses the first of them, whatever its load.
        """
        if time.monotonic() < self._retry_at:
            return list(jobs)
        try:
            if not self._sender.send(self._unsent(jobs)):
                self._retry_at = time.monotonic() + RETRY_SECONDS
        except AwayError as error:
            self._is_away(error)
        self._silence.end()
        return self._unsent(jobs)

    def _unsent(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of the jobs that Slurm has not been given."""
        sent = {job.name for job in self.live()} | {e.job.name for e in self._sender.refused}
        return [job for job in jobs if job.name not in sent]

    def _is_away(self, error: AwayError) -> None:
        self.note = f"Slurm does not answer ({error}); jobs that run go on"
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def preview(self, jobs: Sequence[Job]) -> Iterator[str]:
        """The scripts that `sbatch` would be given."""
        for array, chunk, script in self._sender.preview(jobs):
            first = shlex.join(["python", *chunk[0].command])
            if self.profile.container.runtime != "none":
                first = contained.preview(self.profile, chunk[0])
            yield f"# {array}: {len(chunk):,} jobs; the first: {first}"
            yield script

    # -- the job that runs at last

    def at_last(self, job: Job) -> None:
        """Submit the job that runs when all others are over, in place of the one before."""
        self._last = job
        self._forget_last()
        array = Array.create(self.folder / "last", [job], self.profile)
        before = [a.id for a in self.arrays]
        try:
            submit(array, self.profile, f"{self.name}-collect", before)
        except (AwayError, FullError):
            array.discard()  # `poll` tries again
        except RefusedError as error:
            array.discard()
            self._last = None
            self._warning = f"Slurm refuses the job that collects at last ({error})"
            self.note = self._warning
        else:
            self._last = None

    def finish(self) -> None:
        """Cancel the job that was to run at last: what it does is done."""
        self._last = None
        self._forget_last()

    def _forget_last(self) -> None:
        for array in Array.all_in(self.folder / "last"):
            if not array.id or array.id != os.environ.get("CALGRID_SLURM_JOB"):  # not this very one
                if array.id:
                    squeue.tell("scancel", array.id)
                array.discard()

    # -- watching

    def poll(self) -> Iterator[Ended]:
        """The jobs that are over: those that said so, and those that Slurm says it of."""
        while self._sender.refused:
            yield self._sender.refused.pop()
        for array in list(self.arrays):
            for index, words in list(array.said()):
                if words["code"] in KILLED and words["kind"] is None:
                    continue  # Slurm knows whether it was for memory
                self._silence.end()
                yield from self._end(array, index, Verdict(words["code"], words["kind"]))
        if self.arrays and self._silence.is_long:
            for array, index, verdict in self._explained():
                yield from self._end(array, index, verdict)
        for array in [a for a in self.arrays if not a.unsettled()]:
            self.arrays.remove(array)
            array.close()
        now = time.monotonic()
        if self._last is not None and self.arrays and now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            self.at_last(self._last)

    def _explained(self) -> list[tuple[Array, int, Verdict]]:
        """The silent jobs that are over, and why; asks Slurm."""
        try:
            verdicts = self._silence.explained()
        except AwayError as error:
            self._is_away(error)
            return []
        self.note = "; ".join(filter(None, [self._warning, self._silence.note]))
        return verdicts

    def _end(self, array: Array, index: int, verdict: Verdict) -> Iterator[Ended]:
        """Tell of a job that is over, and then settle it."""
        job = array.jobs[index]
        bad = verdict.kind is not None or verdict.code
        if bad and (log := array.log(index).strip()):
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with job.log.open("a", encoding="utf-8") as file:
                file.write(f"\n-- Slurm's log of job {array.element(index)}:\n{log}\n")
        if not (self._stopped and verdict.kind == "cancelled"):
            yield Ended(job, verdict.code, verdict.kind, verdict.cause)
        array.settle(index)

    # -- stopping

    def drop(self) -> None:
        """Cancel the jobs that have not started."""
        self._cancel("--state=PENDING")

    def send(self, number: Signals) -> None:
        """Send a signal to every job that runs."""
        who = ("--user", getpass.getuser(), "--name", self.name)
        squeue.tell("scancel", f"--signal={number.name}", *who)

    def stop(self) -> None:
        """Cancel every job, and the one that was to run at last."""
        self._cancel()
        self._last = None
        self._forget_last()

    def _cancel(self, *only: str) -> None:
        self._stopped = True
        self._silence.hurry()
        who = ("--user", getpass.getuser(), "--name", self.name)  # by name: also what has no id yet
        squeue.tell("scancel", *who, *only)


def _await_answer(say: Say) -> None:
    """Return once Slurm answers.

    Raises:
        InputError: it is not there, or stays away.
    """
    here = "`--cluster local` runs the grid on this machine"
    if shutil.which("sbatch") is None:
        raise InputError([f"there is no Slurm here: `sbatch` is not on the PATH; {here}"])
    until, told = time.monotonic() + PATIENCE_SECONDS, False
    while True:
        try:
            squeue.max_array_size()
            return
        except AwayError as error:
            wrong = f"Slurm does not answer ({error})"
        if time.monotonic() >= until:
            raise InputError([f"{wrong}; launch again when it does; {here}"])
        if not told:
            say(f"{wrong}; for {PATIENCE_SECONDS:.0f} s this waits for it")
            told = True
        time.sleep(RETRY_SECONDS)
