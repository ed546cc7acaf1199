"""The local backend: jobs as processes on this machine, so many at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

POLL_SECONDS = 0.1
STOP_SECONDS = 10.0
"""Time that a job has to end by itself once it was interrupted."""


@dataclass(frozen=True)
class Job:
    """One command to run.

    Attributes:
        name: for people. command: program and arguments.
        log: where its output goes. env: variables beside those of this process.
    """

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """A job that ended: its exit code, negative where a signal killed it."""

    job: Job
    code: int


def gpu_count() -> int:
    """GPUs of this machine, as the driver lists them."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


class LocalBackend:
    """Runs jobs as processes, `concurrency` at a time, each with its share of cores and GPUs."""

    def __init__(self, concurrency: int | None = None) -> None:
        gpus = gpu_count()
        self.concurrency = concurrency or gpus or max(1, min(cores(), 8))
        self._slots = list(range(self.concurrency))
        self._running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}

    def start(self, job: Job) -> bool:
        """Start a job if a slot is free; says whether it did."""
        if not self._slots:
            return False
        slot = self._slots.pop(0)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            process = subprocess.Popen(
                list(job.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(slot) | dict(job.env),
                start_new_session=True,  # Ctrl-C reaches the launcher, which then stops the jobs
            )
        self._running[slot] = (job, process)
        return True

    def _environment(self, slot: int) -> dict[str, str]:
        threads = str(max(1, cores() // self.concurrency))
        shares = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        gpus = gpu_count()
        if gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = visible.split(",") if visible else [str(i) for i in range(gpus)]
            shares["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]
        return {**os.environ, **shares}

    def poll(self) -> Iterator[Ended]:
        """The jobs that ended since the last call."""
        for slot, (job, process) in list(self._running.items()):
            code = process.poll()
            if code is not None:
                del self._running[slot]
                self._slots.append(slot)
                yield Ended(job, code)

    @property
    def busy(self) -> bool:
        """Is any job running?"""
        return bool(self._running)

    def stop(self) -> None:
        """Interrupt every job, wait a moment, kill what is left."""
        for number in (signal.SIGINT, signal.SIGKILL):
            for _, process in self._running.values():
                if process.poll() is None:
                    os.killpg(process.pid, number)
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline and any(
                p.poll() is None for _, p in self._running.values()
            ):
                time.sleep(POLL_SECONDS)
        self._running.clear()
