"""Driving a run: hand its cells to a backend until each is done or failed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.local import POLL_SECONDS, Ended, Job, LocalBackend
from jobs.cells import Cell
from jobs.claims import is_held
from jobs.run import Plan, RunFolder

REPEATS = 2
"""A cell that failed so many times in the same way is not tried again by itself."""


@dataclass
class State:
    """How far a run is, for the display.

    Attributes:
        queued, running, done, failed: keys of cells.
    """

    queued: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)


def to_run(run: RunFolder, plan: Plan, retry_failed: bool) -> State:
    """Sort the cells of a plan into those to run, those done, and those that keep failing."""
    state = State()
    for key in plan.cells:
        if run.is_done(plan, key):
            state.done.add(key)
        elif not retry_failed and _keeps_failing(run, key):
            state.failed.add(key)
        else:
            state.queued.append(key)
    return state


def _keeps_failing(run: RunFolder, key: str) -> bool:
    """Did the latest attempts all end with the same error? Lost and killed work does not count."""
    errors = [f for f in run.failures(key) if f["kind"] == "error"][-REPEATS:]
    return len(errors) == REPEATS and len({f["signature"] for f in errors}) == 1


def drive(
    run: RunFolder,
    plan: Plan,
    cells: dict[str, Cell],
    state: State,
    backend: LocalBackend,
    tick: Callable[[State], None],
) -> None:
    """Run every queued cell; returns when all are done or failed, and `state` says which.

    Interrupted (KeyboardInterrupt), it stops the jobs first and raises again: what is recorded
    stays, and the next launch goes on from there.
    """
    driver = _Driver(run, plan, cells, state, backend)
    try:
        while driver.step():
            tick(state)
            time.sleep(POLL_SECONDS)
        tick(state)
    except BaseException:
        backend.stop()
        raise


class _Driver:
    def __init__(
        self,
        run: RunFolder,
        plan: Plan,
        cells: dict[str, Cell],
        state: State,
        backend: LocalBackend,
    ) -> None:
        self.run = run
        self.plan = plan
        self.cells = cells
        self.state = state
        self.backend = backend
        self.batches: dict[str, list[str]] = {}
        self.failures_before = {key: len(run.failures(key)) for key in state.queued}
        self.log_sizes: dict[Path, int] = {}

    def step(self) -> bool:
        """Start what can start, settle what ended; False when nothing is left."""
        for ended in self.backend.poll():
            self._settle(ended)
        free = [key for key in self.state.queued if not is_held(self.run.claim(key))]
        while free and self.backend.start(job := self._job(batch := self._batch(free))):
            self.batches[job.name] = batch
            for key in batch:
                free.remove(key)
                self.state.queued.remove(key)
                self.state.running.add(key)
        for key in list(self.state.queued):  # what another launch of this run finished
            if key not in free and self.run.is_done(self.plan, key):
                self.state.queued.remove(key)
                self.state.done.add(key)
        return bool(self.state.queued or self.backend.busy)

    def _batch(self, free: Sequence[str]) -> list[str]:
        """The next cells of one process: of one model, an even share, `cells_per_job` at most."""
        model = self.cells[free[0]].model
        same = [key for key in free if self.cells[key].model == model]
        share = -(-len(same) // self.backend.concurrency)
        return same[: min(self.plan.resources.cells_per_job, share)]

    def _job(self, batch: Sequence[str]) -> Job:
        log = self.run.log(batch[0])
        command = [sys.executable, "-m", "jobs.cell", str(self.run.path), *batch]
        relative = str(log.relative_to(self.run.path))
        root = str(Path(__file__).parent.parent)
        env = {"CALGRID_LOG": relative, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}
        return Job(batch[0], command, log, env)

    def _settle(self, ended: Ended) -> None:
        """Sort the cells of a process that ended; the one it died in is charged, the rest wait."""
        batch = self.batches.pop(ended.job.name)
        self.state.running.difference_update(batch)
        self.state.done.update(key for key in batch if self.run.is_done(self.plan, key))
        failed = [k for k in batch if len(self.run.failures(k)) > self.failures_before[k]]
        left = [key for key in batch if key not in self.state.done and key not in failed]
        if left and (ended.code < 0 or (ended.code and not failed)):
            victim = left.pop(0)
            self.run.write_failure(victim, _death(self.run, victim, ended))
            failed.append(victim)
        self.state.failed.update(failed)
        self.state.queued.extend(left)  # not begun, or being run by another launch


def _death(run: RunFolder, key: str, ended: Ended) -> dict[str, object]:
    """The failure record of a cell whose process died without saying why."""
    tail = ended.job.log.read_text("utf-8", "replace").strip().split("\n")[-1]
    if ended.code < 0:
        kind, cause = "killed", f"the process was killed by signal {-ended.code}"
        if ended.code == -9:
            cause += " (often by the system, for want of memory)"
    else:
        kind, cause = "error", f"the process ended with exit code {ended.code}: {tail}"
    run.heartbeat(key).unlink(missing_ok=True)
    return {
        "kind": kind,
        "stage": None,
        "cause": cause,
        "signature": f"exit {ended.code}",
        "log": str(ended.job.log.relative_to(run.path)),
        "time": time.time(),
    }
