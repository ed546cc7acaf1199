"""Jobs that say nothing: when Slurm is asked about them, and which of them it says are over."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from typing import Any

from cluster import squeue
from cluster.arrays import Array
from cluster.squeue import LIVE, Account, Entry, Verdict

QUIET_SECONDS, MOST_QUIET_SECONDS = 15.0, 120.0
"""Silence after which Slurm is asked; it doubles while Slurm says that all is well."""

HURRY_SECONDS = 2.0
"""The same once the jobs were told to stop: what is not in the queue any more is over."""

ABSENT_SECONDS = 10.0
"""Time that a job has to be out of the queue, for the records of accounting to be complete."""

VANISHED_SECONDS = 60.0
"""Time after which a job that no record tells of was cancelled while it waited: of single elements
of an array that end so, Slurm keeps none."""

RELEASES = 3
"""How often a job is released that Slurm held because a node failed to launch it."""


class Silence:
    """Watches the clock while jobs say nothing, and asks Slurm why.

    Attributes:
        note: what keeps jobs from starting, for people; as of the last answer.
    """

    def __init__(self, name: str, arrays: list[Array]) -> None:
        """Watch the jobs of `arrays`, a list that others fill; `name` is theirs in the queue."""
        self.name = name
        self.arrays = arrays
        self.note = ""
        self._news = self._asked = time.monotonic()
        self._quiet = QUIET_SECONDS
        self._absent: dict[str, float] = {}  # since when a job is in the queue no more
        self._released: Counter[str] = Counter()
        self._hurried = False

    def end(self) -> None:
        """A job spoke, or was submitted: what it says is taken first."""
        self._news, self._quiet = time.monotonic(), QUIET_SECONDS

    def doubt(self) -> None:
        """The jobs are an earlier launcher's, and may be over long since: ask at once."""
        self._news = self._asked = time.monotonic() - self._quiet

    def hurry(self) -> None:
        """The jobs are told to stop: wait for no records."""
        self._hurried, self._quiet = True, HURRY_SECONDS

    @property
    def is_long(self) -> bool:
        """Has nothing been heard for so long that Slurm should be asked?

        Or not asked for so long: where some jobs talk all the time, others may have died.
        """
        unasked = time.monotonic() - self._asked
        return unasked >= MOST_QUIET_SECONDS or (
            min(unasked, time.monotonic() - self._news) >= self._quiet
        )

    def explained(self) -> list[tuple[Array, int, Verdict]]:
        """The silent jobs that are over, and why; asks Slurm.

        Raises:
            AwayError: it does not answer.
        """
        self._asked = time.monotonic()
        self._quiet = min(2 * self._quiet, MOST_QUIET_SECONDS)
        entries = self.entries()
        self.note = squeue.stuck(entries)
        gone = list(self._gone(entries))
        if self._absent:
            self._quiet = ABSENT_SECONDS  # ask again soon
        known = squeue.accounts({array.id for array, _ in gone}) if gone else {}
        verdicts = []
        for array, index in gone:
            element = array.element(index)
            account = known.get(element) or known.get(array.id)  # cancelled whole: one line for all
            verdict = self._judge(array, index, account, entries.get(element))
            if verdict is not None:
                self._absent.pop(element)
                verdicts.append((array, index, verdict))
        return verdicts

    def entries(self) -> dict[str, Entry]:
        """The jobs of the arrays in the queue; asks Slurm.

        A controller that lost its memory gives the id of one job to another: that is left out.

        Raises:
            AwayError: it does not answer.
        """
        tokens = {array.id: array.token for array in self.arrays}
        return {
            job: entry
            for job, entry in squeue.queue(self.name).items()
            if entry.comment == tokens.get(job.partition("_")[0])
        }

    def forget_cancelled(self) -> None:
        """Settle the jobs that were cancelled while nobody looked, without a word of them.

        Raises:
            AwayError: Slurm does not answer.
        """
        entries = self.entries()
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

    def _gone(self, entries: dict[str, Entry]) -> list[tuple[Array, int]]:
        """The jobs that left the queue some time ago."""
        now, patience = time.monotonic(), 0.0 if self._hurried else ABSENT_SECONDS
        gone = []
        for array in self.arrays:
            for index in array.unsettled():
                element = array.element(index)
                entry = entries.get(element)
                if entry is not None and entry.live:
                    self._absent.pop(element, None)
                    self._release(element, entry)
                elif now - self._absent.setdefault(element, now) >= patience:
                    gone.append((array, index))
        return gone

    def _release(self, element: str, entry: Entry) -> None:
        """Let a job start anew that Slurm itself held since its node could not launch it."""
        if squeue.LAUNCH_FAILED.search(entry.reason) and self._released[element] < RELEASES:
            self._released[element] += 1
            squeue.tell("scontrol", "release", element)

    def _judge(
        self, array: Array, index: int, account: Account | None, entry: Entry | None
    ) -> Verdict | None:
        """Why a job that left the queue is over; None while records may still come."""
        words: dict[str, Any] = {}
        with suppress(FileNotFoundError):
            words = array.words(index)
        if account is None or account.state.partition(" ")[0] in LIVE:
            if self._hurried:
                return Verdict(None, "cancelled")
            if time.monotonic() - self._absent[array.element(index)] < VANISHED_SECONDS:
                return None
            if words:
                return Verdict(words["code"], words["kind"])
            if entry is None:
                cause = "it vanished from the queue: cancelled while it waited; launch again"
                return Verdict(None, "cancelled", cause)
            account = Account(entry.state, "")  # no accounting: the queue knows for a while
        verdict = squeue.judge(account, array.log(index), array.jobs[index].mem_gb)
        if verdict.kind is not None:
            return verdict
        if words:
            return Verdict(words["code"], words["kind"])
        if said := squeue.NOT_STARTED.findall(array.log(index)):
            return Verdict(None, "lost", f"Slurm could not start it: {said[-1][0]}")
        return verdict
