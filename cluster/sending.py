"""Submitting what fits: jobs cut into arrays, up to the limits of the cluster and of the user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from cluster import squeue
from cluster.arrays import Array
from cluster.backend import Ended, Job
from cluster.profile import Profile
from cluster.submission import FullError, RefusedError, adopt, script, submit
from cluster.yamlfile import InputError


class Sender:
    """Cuts jobs into arrays and submits them.

    Attributes:
        arrays: what is submitted and not over, oldest first; shared with whoever watches them.
        refused: jobs that Slurm will never take, while it took others of the run.
    """

    def __init__(self, profile: Profile, name: str, folder: Path) -> None:
        """Open the arrays of a run, which lie in `folder` and are called `name` in the queue."""
        self.profile = profile
        self.name = name
        self.folder = folder
        self.arrays = Array.all_in(folder)
        self.refused: list[Ended] = []
        self._largest = profile.max_array_size

    def send(self, jobs: Sequence[Job]) -> bool:
        """Submit as many of the jobs as the user's limit allows; False where it is reached.

        Raises:
            AwayError: Slurm does not answer; some may have been submitted.
            InputError: Slurm refuses the first of them, whatever its load.
        """
        self.adopt()
        room = self._room()
        if self._largest is None:
            self._largest = squeue.max_array_size()
        for chunk in self.chunks(jobs, self._largest):
            sent = self._send(chunk if room is None else chunk[:room])
            room = None if room is None else room - sent
            if sent < len(chunk):
                return False
        return True

    def adopt(self) -> None:
        """Deal with arrays that were being submitted when a launcher or Slurm went away.

        Raises:
            AwayError: Slurm does not answer.
        """
        lost = [array for array in Array.all_in(self.folder) if not array.id]
        if not lost:
            return
        ids = {e.comment: job.partition("_")[0] for job, e in squeue.queue(self.name).items()}
        self.arrays[:] = [array for array in self.arrays if array.id]
        for array in lost:
            if array.token in ids:
                adopt(array, ids[array.token])
                self.arrays.append(array)
            else:
                array.discard()

    def _room(self) -> int | None:
        """How many jobs the user may still submit, one of them left for the last; None = any."""
        limit = self.profile.submit_limit
        if limit is None:
            limit = squeue.submit_limit(self.profile.account, self.profile.qos)
        if limit is None:
            return None
        return max(0, limit - 1 - sum(entry.live for entry in squeue.queue().values()))

    def _send(self, chunk: list[Job]) -> int:
        """Submit one array, or as much of it as the user's limit allows; how many were taken."""
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
                break
            else:
                self.arrays.append(array)
                break
        return len(chunk)

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
        self.refused += [Ended(job, None, kind, cause) for job in chunk]

    @staticmethod
    def chunks(jobs: Sequence[Job], largest: int) -> Iterator[list[Job]]:
        """Cut jobs into arrays: of those that ask for the same, and no larger than allowed."""
        for _, alike in groupby(jobs, lambda j: (bool(j.after), j.gpus, j.mem_gb, j.timeout_min)):
            group = list(alike)
            for i in range(0, len(group), largest):
                yield group[i : i + largest]

    def preview(self, jobs: Sequence[Job]) -> Iterator[tuple[str, list[Job], str]]:
        """The arrays that `send` would submit: a name for each, its jobs, and its script."""
        arrays: dict[str, str] = {}
        for number, chunk in enumerate(
            self.chunks(jobs, self._largest or squeue.MAX_ARRAY_SIZE), 1
        ):
            array = f"ARRAY-{number}"
            after = sorted({arrays[n] for job in chunk for n in job.after if n in arrays})
            if self.profile.concurrency is not None and number > 1:
                after = sorted({*after, f"ARRAY-{number - 1}"})
            arrays |= dict.fromkeys((job.name for job in chunk), array)
            text = script(self.folder / array, chunk, self.profile, self.name, after)
            yield array, chunk, text
