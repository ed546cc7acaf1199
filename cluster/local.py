"""The local backend: jobs as processes on this machine, so many at a time."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.backend import Ended, Job, Say, job_environment, signal_seconds
from cluster.profile import Profile, expand

STOP_SECONDS = 10.0
"""Time that a job has to end by itself once it was interrupted."""


@dataclass
class Running:
    """A job that runs: its process, and when (by `time.monotonic`) its time is over.

    Attributes:
        told: was it told that its time is nearly up?
        killed: was it killed since it went on all the same?
    """

    job: Job
    process: subprocess.Popen[bytes]
    limit: float
    told: bool = False
    killed: bool = False


def gpu_count() -> int:
    """GPUs of this machine, as the driver lists them."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


class LocalBackend:
    """Runs jobs as processes, `concurrency` at a time, each with its share of cores and GPUs.

    A subclass that runs them otherwise, for example in containers, overrides `_launch`, `line`,
    `kill` and `meaning`.
    """

    interval = 0.1
    stays = False
    note = ""

    def __init__(self, profile: Profile, run: Path) -> None:
        self.profile = profile
        self.run = run
        self.slots = profile.concurrency or gpu_count() or max(1, min(cores(), 8))
        self._free = list(range(self.slots))
        self._waiting: list[Job] = []
        self._running: dict[int, Running] = {}

    def prepare(self, say: Say) -> None:
        """Nothing: this very Python runs the jobs."""

    def describe(self) -> str:
        """Where jobs run, in a few words for people."""
        return f"{self.slots} processes on this machine"

    def submit(self, jobs: Sequence[Job]) -> list[Job]:
        """Queue jobs; there is room for all."""
        self._waiting += jobs
        self._start()
        return []

    def poll(self) -> Iterator[Ended]:
        """The jobs that ended since the last call; starts those that have room now."""
        ended = []
        for slot, running in list(self._running.items()):
            code = running.process.poll()
            if code is None:
                self._keep_time(running)
                continue
            del self._running[slot]
            self._free.append(slot)
            ended.append(_in_time(running, self.meaning(running.job, code)))
        self._start()
        yield from ended

    def _keep_time(self, running: Running) -> None:
        """Tell a job whose time is nearly up, as Slurm does; kill one whose time is over."""
        left = running.limit - time.monotonic()
        if left <= 0 and not running.killed:
            running.told = running.killed = True
            self.kill(running.job, running.process, signal.SIGKILL)
        elif left <= signal_seconds(running.job.timeout_min) and not running.told:
            running.told = True
            self.kill(running.job, running.process, signal.SIGUSR2)

    def live(self) -> list[Job]:
        """The jobs that run, then those that wait."""
        return [running.job for running in self._running.values()] + self._waiting

    def drop(self) -> None:
        """Forget the jobs that have not started."""
        self._waiting.clear()

    def at_last(self, job: Job) -> None:
        """Nothing: without its launcher no job of this backend starts."""

    def resume(self, anew: bool) -> None:
        """Nothing: what an earlier launcher left goes on by itself, and claims its cells."""

    def finish(self) -> None:
        """Nothing is left behind."""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to every job that runs."""
        for running in self._running.values():
            self.kill(running.job, running.process, number)

    def stop(self) -> None:
        """Drop what waits; interrupt every job, wait a moment, kill what is left."""
        self.drop()
        for number in (signal.SIGINT, signal.SIGKILL):
            for running in self._running.values():
                if running.process.poll() is None:
                    self.kill(running.job, running.process, number)
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline and any(
                r.process.poll() is None for r in self._running.values()
            ):
                time.sleep(self.interval)
        self._running.clear()

    def preview(self, jobs: Sequence[Job]) -> Iterator[str]:
        """The command line of the first job of each kind, and how many more are alike."""
        kinds: dict[tuple[object, ...], list[Job]] = {}
        for job in jobs:
            kinds.setdefault((job.command[1], job.gpus, job.mem_gb), []).append(job)
        for first, *more in kinds.values():
            yield self.line(first)
            if more:
                yield f"# and {len(more):,} more alike"

    def line(self, job: Job) -> str:
        """The command line of a job, with the variables that it is given."""
        given = [f"{name}={value}" for name, value in (self._share(0) | dict(job.env)).items()]
        return shlex.join(["env", *given, *self.command(job, {})])

    def command(self, job: Job, environment: dict[str, str]) -> list[str]:
        """The program that runs a job, and its arguments."""
        return [sys.executable, *job.command]

    def meaning(self, job: Job, code: int) -> Ended:
        """What the exit code of a job's process says."""
        return Ended(job, code)

    def kill(self, job: Job, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Send a signal to all processes of a job."""
        with suppress(ProcessLookupError):  # it ended in this moment
            os.killpg(process.pid, number)

    def _start(self) -> None:
        """Start the first jobs that wait for nothing, while there is room."""
        unfinished = {job.name for job in self.live()}
        for job in list(self._waiting):
            if not self._free:
                return
            if unfinished.isdisjoint(job.after):
                self._waiting.remove(job)
                slot = self._free.pop(0)
                seconds = 60 * job.timeout_min
                late = time.time() + seconds - signal_seconds(job.timeout_min)
                share = self._share(slot) | {"CALGRID_LATE": str(late)}
                limit = time.monotonic() + seconds
                self._running[slot] = Running(job, self._launch(job, share), limit)

    def _launch(self, job: Job, share: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a job, with its `share` of this machine among its variables."""
        environment = job_environment() | share | dict(job.env)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            return subprocess.Popen(
                self.command(job, environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the launcher, which then stops the jobs
            )

    def _share(self, slot: int) -> dict[str, str]:
        """What a slot has of this machine: its threads and its GPU."""
        threads = str(self.profile.cpus or max(1, cores() // self.slots))
        shares = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if self.profile.scratch:
            shares["CALGRID_SCRATCH"] = expand(self.profile.scratch)
        gpus = gpu_count()
        if gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = visible.split(",") if visible else [str(i) for i in range(gpus)]
            shares["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]
        return shares


def _in_time(running: Running, ended: Ended) -> Ended:
    """The same, unless it was ended by a signal since it did not heed that its time was up."""
    if not running.told or ended.code is None or ended.code >= 0 or ended.kind == "memory":
        return ended
    minutes = running.job.timeout_min
    cause = f"its {minutes} minutes were over, and it did not stop; raise resources.timeout_min"
    return replace(ended, kind="timeout", cause=cause)
