"""Driving a run: hand its cells to a backend until each is done or failed."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cluster.backend import Backend, Ended, Job
from cluster.profile import Profile
from jobs.claims import held, is_held, release_of, take
from jobs.failures import death, keeps_failing, record_failure, unbegun_losses, worth_another
from jobs.plan.cells import Cell
from jobs.plan.plan import Plan
from jobs.run import RunFolder
from jobs.work import cells_of, collect_job, jobs_for

LOOK_SECONDS = 1.0
"""Time between two looks at who works on what."""

FRUITLESS = 5
"""Jobs of a cell that end well and leave neither a result nor a failure, before it is one."""

PAUSE_SECONDS = 30.0
"""Before what was lost unbegun is submitted again, times its losses: what kept Slurm from starting
it (a controller that has just come back, a node that is ill) lasts longer than submitting does."""

EXIT_INTERRUPTED = 130
"""A job that was asked to stop, and left its cells for later."""


@dataclass
class State:
    """How far a run is, for the display.

    Attributes:
        queued: cells that are neither done nor failed, in order; running ones too.
        running, done, failed: cells.
        note: what keeps jobs from starting, for people.
    """

    queued: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    note: str = ""


def to_run(run: RunFolder, plan: Plan, retry_failed: bool) -> State:
    """Sort the cells of a plan into those to run, those done, and those that keep failing."""
    state = State(done=run.done_cells(plan))
    failed = run.failed_cells()
    for key in plan.cells:
        if key in state.done:
            continue
        if not retry_failed and key in failed and keeps_failing(run, key):
            state.failed.add(key)
        else:
            state.queued.append(key)
    return state


@contextmanager
def lead(run: RunFolder, profile: Profile, waiting: Callable[[], None]) -> Iterator[None]:
    """Be the one that settles and submits, where jobs outlive launchers and several may look on.

    Waits for whoever leads; `waiting` is called once, when it comes to that.
    """
    if profile.backend != "slurm":
        yield
        return
    claim = take(run.driver)
    if claim is None:
        waiting()
    while claim is None:
        time.sleep(LOOK_SECONDS)
        claim = take(run.driver)
    with claim:
        yield


def drive(
    run: RunFolder,
    plan: Plan,
    cells: dict[str, Cell],
    state: State,
    backend: Backend,
    tick: Callable[[State], None] = lambda _: None,
) -> None:
    """Run every queued cell; returns when all are done or failed, and `state` says which.

    Interrupted (KeyboardInterrupt), it stops the jobs where they cannot outlive it, and raises
    again: what is recorded stays, and the next launch goes on from there.
    """
    driver = Driver(run, plan, cells, state, backend)
    try:
        driver.start()
        while driver.step():
            tick(state)
            time.sleep(backend.interval)
        backend.finish()
        tick(state)
    except BaseException:
        if not backend.stays:
            backend.stop()
        raise


class Driver:
    """Hands the cells of a run to a backend, and sorts what becomes of them."""

    def __init__(
        self,
        run: RunFolder,
        plan: Plan,
        cells: dict[str, Cell],
        state: State,
        backend: Backend,
    ) -> None:
        self.run = run
        self.plan = plan
        self.cells = cells
        self.state = state
        self.backend = backend
        self.unsent: list[Job] = []
        self.again: list[str] = []  # cells to submit anew
        self.paused: dict[str, float] = {}  # cells to submit anew, and when
        self.elsewhere: dict[str, int] = {}  # cells of other launches, and their failures so far
        self.fruitless: Counter[str] = Counter()
        self.looked = 0.0
        self.stopped = False

    def start(self, anew: bool = True) -> None:
        """Submit every queued cell that nobody runs already.

        Args:
            anew: a person launches the run again, so that what was cancelled runs again too.
        """
        self.backend.resume(anew)
        if anew and self.backend.live():
            self.backend.at_last(collect_job(self.run, self.plan))
        live = {key for job in self.backend.live() for key in cells_of(job)}
        claimed = held(self.run.claims)
        self._leave(key for key in self.state.queued if key in claimed and key not in live)
        self._submit([k for k in self.state.queued if k not in live and k not in claimed])

    def step(self) -> bool:
        """Settle what ended, start what can start; False when nothing is left."""
        for ended in self.backend.poll():
            self._settle(ended)
        over = [key for key, until in self.paused.items() if until <= time.monotonic()]
        again, self.again = self.again + over, []
        for key in over:
            del self.paused[key]
        self._submit(again)
        if time.monotonic() - self.looked >= LOOK_SECONDS:
            self.looked = time.monotonic()
            self._look()
        if self.unsent:
            self._send(self.unsent)
        self.state.note = self.backend.note
        if self.paused and not self.state.note:
            count = len(self.paused)
            self.state.note = f"{count} could not be started, and will be tried again in a moment"
        return bool(self.unsent or self.paused or self.elsewhere or self.backend.live())

    def _submit(self, keys: list[str]) -> None:
        """Queue jobs for some cells, and one that collects them where the launcher may leave."""
        if keys and not self.stopped:
            cells = {key: self.cells[key] for key in keys}
            live = [*self.backend.live(), *self.unsent]
            self._send(
                [*self.unsent, *jobs_for(self.run, self.plan, cells, self.backend.slots, live)]
            )

    def _send(self, jobs: list[Job]) -> None:
        self.unsent = self.backend.submit(jobs)
        if len(self.unsent) < len(jobs):
            self.backend.at_last(collect_job(self.run, self.plan))

    def _look(self) -> None:
        """See who works on what, and whether somebody wants the run to stop."""
        stop = self.run.read_stop()
        if stop is not None and not self.stopped:
            self.stopped = True
            self.unsent.clear()
            self.paused.clear()
            self.elsewhere.clear()
            self.backend.stop() if stop["reason"] == "cancelled" else self.backend.drop()
        before, self.state.running = self.state.running, self._claimed()
        for key in before - self.state.running:
            if self.run.is_done(self.plan, key):
                self._done(key)
        free = []
        for key, failures in list(self.elsewhere.items()):
            if key in self.state.running and is_held(self.run.claim(key)):
                continue
            del self.elsewhere[key]
            if self.run.is_done(self.plan, key):
                self._done(key)
            elif len(self.run.failures(key)) > failures:
                self._failed(key)
            else:
                free.append(key)
        self._submit(free)

    def _claimed(self) -> set[str]:
        """The cells of this run that somebody claims; a listing, since it is asked often."""
        try:
            names = os.listdir(self.run.claims)  # noqa: PTH208  (names are all that is needed)
        except FileNotFoundError:
            return set()
        return {name for name in names if name in self.cells and name not in self.state.done}

    def _settle(self, ended: Ended) -> None:
        """Sort the cells of a job that is over; the one it died in is charged, the rest go on."""
        token = ended.job.env.get("CALGRID_JOB", "")
        left, failed = [], False
        for key in self._unfinished(ended.job):
            if any(f.get("job") == token for f in self.run.failures(key)):
                failed = True
                self._charge(key)
            else:
                left.append(key)
        bad = ended.kind is not None or ended.code not in (0, EXIT_INTERRUPTED)
        charged = [key for key in left if release_of(self.run.claim(key), token)]
        if ended.kind == "cancelled":
            charged = left
        elif bad and not charged and not failed:
            charged = left[:1]  # it died before it had begun with any
        if ended.code == 0:
            self.fruitless.update(left)
            charged += [key for key in left if self.fruitless[key] >= FRUITLESS]
        for key in charged:
            record_failure(self.run, key, death(self.run, key, ended))
            self._charge(key)
        rest = [key for key in left if key not in charged]
        self._leave(key for key in rest if is_held(self.run.claim(key)))
        self.again += [key for key in rest if key not in self.elsewhere]

    def _unfinished(self, job: Job) -> list[str]:
        """The cells of a job that is over that are not done, nor in another job by now."""
        cells = [key for key in cells_of(job) if key in self.cells]
        for key in cells:
            if key not in self.state.done and self.run.is_done(self.plan, key):
                self._done(key)
        cells = [key for key in cells if key not in self.state.done]
        if not cells:
            return []
        others = {k for other in self.backend.live() if other != job for k in cells_of(other)}
        return [key for key in cells if key not in others]

    def _charge(self, key: str) -> None:
        """A cell failed: it runs again, or that was it."""
        if not worth_another(self.run, key):
            self._failed(key)
        elif losses := unbegun_losses(self.run, key):
            self.paused[key] = time.monotonic() + PAUSE_SECONDS * losses
        else:
            self.again.append(key)

    def _leave(self, keys: Iterable[str]) -> None:
        """Leave cells to the other launch that runs them, and watch."""
        self.elsewhere.update({key: len(self.run.failures(key)) for key in keys})

    def _done(self, key: str) -> None:
        self.state.done.add(key)
        self.state.failed.discard(key)
        self._over(key)

    def _failed(self, key: str) -> None:
        self.state.failed.add(key)
        self._over(key)

    def _over(self, key: str) -> None:
        self.state.running.discard(key)
        if key in self.state.queued:
            self.state.queued.remove(key)
