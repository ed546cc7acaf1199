"""The Slurm backend: arrays by submitit; progress from files, Slurm asked to explain silence."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from signal import Signals
from typing import Any

from cluster import contained, image, squeue
from cluster.arrays import Array
from cluster.backend import Ended, Job, Say
from cluster.profile import Profile
from cluster.squeue import LIVE, Account, AwayError, Entry, Verdict
from cluster.submission import FullError, RefusedError, adopt, script, submit
from cluster.yamlfile import InputError

QUIET_SECONDS, MOST_QUIET_SECONDS = 15.0, 120.0
"""Silence after which Slurm is asked; it doubles while Slurm says that all is well."""

ABSENT_SECONDS = 10.0
"""Time that a job has to be out of the queue, for the records of accounting to be complete."""

VANISHED_SECONDS = 60.0
"""Time after which a job that no record tells of was cancelled while it waited: of single elements
of an array that end so, Slurm keeps none."""

RETRY_SECONDS = 15.0
"""Time between two tries to submit where Slurm was away, or the user's limit reached."""

RELEASES = 3
"""How often a job is released that Slurm held because a node failed to launch it."""

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
        self.arrays = Array.all_in(self.folder)
        self._largest_array = profile.max_array_size
        self._refused: list[Ended] = []
        self._last: Job | None = None  # what is to run when all is over, not submitted yet
        self._stopped = False
        self._absent: dict[str, float] = {}
        self._released: Counter[str] = Counter()
        self._news = self._asked = time.monotonic()
        self._quiet = QUIET_SECONDS
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
        """See that the image is there and holds this code, as far as this machine can tell.

        Raises:
            InputError: no job could run.
        """
        container = self.profile.container
        if container.runtime != "none" and shutil.which(container.runtime):
            image.prepare(container, False, self.folder.parent.parent, say, build=False)

    def live(self) -> list[Job]:
        """The jobs that are queued or running, those of earlier launchers too."""
        return [array.jobs[i] for array in self.arrays for i in array.unsettled()]

    def resume(self, anew: bool) -> None:
        """Take over what an earlier launcher left; `anew`: forget what was cancelled since."""
        try:
            self._adopt()
            if anew and self.arrays:
                self._forget_cancelled()
        except AwayError as error:
            self._is_away(error)

    def _forget_cancelled(self) -> None:
        """Settle the jobs that were cancelled while nobody looked, without a word of them."""
        entries = self._entries()
        known = squeue.accounts({array.id for array in self.arrays})
        for array in self.arrays:
            spoke = {index for index, _ in array.said()}
            for index in array.unsettled():
                element = array.element(index)
                queued = element in entries and entries[element].live
                account = known.get(element)
                cancelled = account is None or account.state.startswith("CANCELLED")
                if not queued and index not in spoke and cancelled:
                    array.settle(index)

    def _entries(self) -> dict[str, Entry]:
        """The jobs of this run in the queue; asks Slurm.

        A controller that lost its memory gives the id of one job to another: that is left out.
        """
        tokens = {array.id: array.token for array in self.arrays}
        return {
            job: entry
            for job, entry in squeue.queue(self.name).items()
            if entry.comment == tokens.get(job.partition("_")[0])
        }

    def queued(self) -> int:
        """How many jobs of the run Slurm has in its queue; asks it.

        Raises:
            AwayError: it does not answer.
        """
        return sum(entry.live for entry in squeue.queue(self.name).values())

    # -- submitting

    def submit(self, jobs: Sequence[Job]) -> list[Job]:
        """Submit jobs as arrays, up to the cluster's limits; returns those that do not fit yet.

        Raises:
            InputError: Slurm refuses the first of them, whatever its load.
        """
        left = list(jobs)
        if time.monotonic() < self._retry_at:
            return left
        try:
            self._adopt()
            names = {job.name for job in self.live()}
            left = [job for job in jobs if job.name not in names]
            room = self._room()
            for chunk in self._chunks(left):
                sent = self._send(chunk if room is None else chunk[:room])
                names = {job.name for job in sent}
                left = [job for job in left if job.name not in names]
                room = None if room is None else room - len(sent)
                if len(sent) < len(chunk):
                    self._retry_at = time.monotonic() + RETRY_SECONDS
                    break
        except AwayError as error:
            self._is_away(error)
        return left

    def _chunks(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Cut jobs into arrays: of those that ask for the same, and no larger than allowed."""
        if self._largest_array is None:
            self._largest_array = squeue.max_array_size()
        for _, alike in groupby(jobs, lambda j: (bool(j.after), j.gpus, j.mem_gb, j.timeout_min)):
            group = list(alike)
            for i in range(0, len(group), self._largest_array):
                yield group[i : i + self._largest_array]

    def _room(self) -> int | None:
        """How many jobs the user may still submit, one of them left for the last; None = any."""
        limit = self.profile.submit_limit
        if limit is None:
            limit = squeue.submit_limit(self.profile.account, self.profile.qos)
        if limit is None:
            return None
        return max(0, limit - 1 - sum(entry.live for entry in squeue.queue().values()))

    def _send(self, chunk: list[Job]) -> list[Job]:
        """Submit one array, or as much of it as the user's limit allows; returns what was sent."""
        while chunk:
            array = Array.create(self.folder, chunk, self.profile)
            try:
                submit(array, self.profile, self.name, self._before(chunk))
            except FullError:
                array.discard()
                chunk = chunk[: len(chunk) // 2]
            except RefusedError as error:
                array.discard()
                self._is_refused(chunk, error)
                return chunk
            else:
                self.arrays.append(array)
                self._news = time.monotonic()
                return chunk
        return []

    def _before(self, chunk: list[Job]) -> list[str]:
        """The ids of the arrays that have to be over first.

        Those that the jobs need; and of arrays that were split, the one before, since Slurm
        throttles each for itself.
        """
        needed = {name for job in chunk for name in job.after}
        before = [a.id for a in self.arrays if needed & {job.name for job in a.jobs}]
        if self.profile.concurrency is not None and self.arrays:
            before.append(self.arrays[-1].id)
        return sorted(set(before))

    def _is_refused(self, chunk: Sequence[Job], error: RefusedError) -> None:
        """Slurm will never take these: wrong input, or, while others run, a failure of theirs."""
        if not self.arrays:
            raise InputError([f"Slurm refuses the jobs: {error}; see the profile and `resources`"])
        kind: Any = "memory" if "emory" in str(error) else "error"
        cause = f"Slurm refuses the job: {error}"
        self._refused += [Ended(job, None, kind, cause) for job in chunk]

    def _is_away(self, error: AwayError) -> None:
        self.note = f"Slurm does not answer ({error}); jobs that run go on"
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _adopt(self) -> None:
        """Deal with arrays that were being submitted when a launcher or Slurm went away."""
        lost = [array for array in Array.all_in(self.folder) if not array.id]
        if not lost:
            return
        ids = {e.comment: job.partition("_")[0] for job, e in squeue.queue(self.name).items()}
        self.arrays = [array for array in self.arrays if array.id]
        for array in lost:
            if array.token in ids:
                adopt(array, ids[array.token])
                self.arrays.append(array)
            else:
                array.discard()

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
                    _run("scancel", array.id)
                array.discard()

    # -- watching

    def poll(self) -> Iterator[Ended]:
        """The jobs that are over: those that said so, and those that Slurm says it of."""
        while self._refused:
            yield self._refused.pop()
        for array in list(self.arrays):
            for index, words in list(array.said()):
                if words["code"] in KILLED and words["kind"] is None:
                    continue  # Slurm knows whether it was for memory
                self._news, self._quiet = time.monotonic(), QUIET_SECONDS
                yield from self._end(array, index, Verdict(words["code"], words["kind"]))
        now = time.monotonic()
        if self.arrays and now - max(self._news, self._asked) >= self._quiet:
            self._asked = now
            self._quiet = min(2 * self._quiet, MOST_QUIET_SECONDS)
            for array, index, verdict in self._explained():
                yield from self._end(array, index, verdict)
        for array in [a for a in self.arrays if not a.unsettled()]:
            self.arrays.remove(array)
            array.close()
        if self._last is not None and self.arrays and now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            self.at_last(self._last)

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
        self._absent.pop(array.element(index), None)

    def _explained(self) -> list[tuple[Array, int, Verdict]]:
        """The silent jobs that are over, and why; asks Slurm."""
        try:
            entries = self._entries()
        except AwayError as error:
            self._is_away(error)
            return []
        self.note = "; ".join(filter(None, [self._warning, squeue.stuck(entries)]))
        now = time.monotonic()
        gone: list[tuple[Array, int]] = []
        for array in self.arrays:
            for index in array.unsettled():
                element = array.element(index)
                entry = entries.get(element)
                if entry is not None and entry.live:
                    self._absent.pop(element, None)
                    self._release(element, entry)
                elif now - self._absent.setdefault(element, now) >= self._patience():
                    gone.append((array, index))
        if self._absent:
            self._quiet = ABSENT_SECONDS  # ask again soon
        known = squeue.accounts({array.id for array, _ in gone}) if gone else {}
        verdicts = []
        for array, index in gone:
            element = array.element(index)
            account = known.get(element) or known.get(array.id)  # cancelled whole: one line for all
            verdict = self._judge(array, index, account, entries.get(element))
            if verdict is not None:
                verdicts.append((array, index, verdict))
        return verdicts

    def _release(self, element: str, entry: Entry) -> None:
        """Let a job start anew that Slurm itself held since its node could not launch it."""
        if squeue.LAUNCH_FAILED.search(entry.reason) and self._released[element] < RELEASES:
            self._released[element] += 1
            _run("scontrol", "release", element)

    def _patience(self) -> float:
        return 0.0 if self._stopped else ABSENT_SECONDS

    def _judge(
        self, array: Array, index: int, account: Account | None, entry: Entry | None
    ) -> Verdict | None:
        """Why a job that left the queue is over; None while records may still come."""
        element = array.element(index)
        words: dict[str, Any] = {}
        with suppress(FileNotFoundError):
            words = array.words(index)
        if account is None or account.state.partition(" ")[0] in LIVE:
            if self._stopped:
                return Verdict(None, "cancelled")
            if time.monotonic() - self._absent[element] < VANISHED_SECONDS:
                return None
            if words:
                return Verdict(words["code"], words["kind"])
            if entry is None:
                cause = "it vanished from the queue: cancelled while it waited; launch again"
                return Verdict(None, "cancelled", cause)
            account = Account(entry.state, "")  # no accounting: the queue knows for a while
        verdict = squeue.judge(account, array.log(index), array.jobs[index].mem_gb)
        if words and verdict.kind is None:
            return Verdict(words["code"], words["kind"])
        return verdict

    # -- stopping

    def drop(self) -> None:
        """Cancel the jobs that have not started."""
        self._cancel("--state=PENDING")

    def send(self, number: Signals) -> None:
        """Send a signal to every job that runs."""
        who = ("--user", getpass.getuser(), "--name", self.name)
        _run("scancel", f"--signal={number.name}", *who)

    def stop(self) -> None:
        """Cancel every job, and the one that was to run at last."""
        self._cancel()
        self._last = None
        self._forget_last()

    def _cancel(self, *only: str) -> None:
        self._stopped, self._quiet = True, 2.0
        who = ("--user", getpass.getuser())
        _run("scancel", *who, "--name", self.name, *only)  # by name: also one that has no id yet

    def preview(self, jobs: Sequence[Job]) -> Iterator[str]:
        """The scripts that `sbatch` would be given."""
        if self._largest_array is None:
            self._largest_array = 1001
        arrays: dict[str, str] = {}
        for number, chunk in enumerate(self._chunks(jobs), 1):
            array = f"ARRAY-{number}"
            after = sorted({arrays[n] for job in chunk for n in job.after if n in arrays})
            if self.profile.concurrency is not None and number > 1:
                after = sorted({*after, f"ARRAY-{number - 1}"})
            arrays |= dict.fromkeys((job.name for job in chunk), array)
            first = shlex.join(["python", *chunk[0].command])
            if self.profile.container.runtime != "none":
                first = contained.preview(self.profile, chunk[0])
            yield f"# {array}: {len(chunk):,} jobs; the first: {first}"
            yield script(self.folder / array, chunk, self.profile, self.name, after)


def _run(*command: str) -> None:
    """Run a command of Slurm whose failure changes nothing here."""
    subprocess.run(command, capture_output=True, check=False, timeout=squeue.ANSWER_SECONDS)
