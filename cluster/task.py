"""What a Slurm job does on its node: run one `Job` as a child that signals reach.

Runs outside any container, where `scontrol` is: so a job that is preempted, or out of time, is
requeued from here, and goes on with what it had not finished.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from cluster.arrays import job_from_json
from cluster.backend import Job, job_environment, signal_seconds
from cluster.contained import finish, start
from cluster.image import digest_of
from cluster.profile import Profile, expand

SWEEP_SECONDS = 65
"""Slurm looks at time limits every 30 s, and may tell a job up to 60 s early."""

CHILD_SECONDS = 20.0
"""Time that the work has to end by itself before it is killed."""

LINGER_SECONDS = 300.0
"""Time that a job waits for Slurm to kill it, once Slurm has said that it will."""

EXIT_INTERRUPTED = 130


def run(folder: str, index: int) -> None:
    """Run the job `index` of the array in `folder`; leaves `ended/INDEX.json` when it is over."""
    array = Path(folder)
    data = json.loads((array / "array.json").read_text("utf-8"))
    profile = Profile.model_validate(data["profile"])
    _Task(array, index, job_from_json(data["jobs"][index]), profile).run()


class _Task:
    def __init__(self, array: Path, index: int, job: Job, profile: Profile) -> None:
        self.marker = array / "ended" / f"{index}.json"
        self.job = job
        self.profile = profile
        self.asked: signal.Signals | None = None
        self.asked_at = 0.0
        self.kind: str | None = None
        limit = job.timeout_min * 60 - signal_seconds(job.timeout_min) - SWEEP_SECONDS
        self.late = time.time() + limit

    def run(self) -> None:
        _remove_stale_result()
        self.marker.unlink(missing_ok=True)  # of a start before this one
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT):
            signal.signal(number, self._hear)
        code = self._work()
        if self.asked is not None and code not in (0, 1):
            code = self._leave(code)
        self._say(code, self.kind)
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        """Note what Slurm says; its own word that time is up counts more than a plain SIGTERM."""
        if number == signal.SIGCONT:
            return
        if self.asked != signal.SIGUSR2:
            self.asked = signal.Signals(number)
        self.asked_at = self.asked_at or time.monotonic()

    def _work(self) -> int:
        """Run the job to its end; returns its exit code, negative for a signal."""
        environment = job_environment() | dict(self.job.env) | {"CALGRID_LATE": str(self.late)}
        environment["CALGRID_SLURM_JOB"] = _slurm_id()
        cpus = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
        if cpus:
            environment.setdefault("OMP_NUM_THREADS", cpus)
        if self.profile.scratch:
            environment["CALGRID_SCRATCH"] = expand(self.profile.scratch)
        if self.profile.local_disk:
            environment["TMPDIR"] = os.path.expandvars(self.profile.local_disk)
        if self.profile.container.runtime != "none" and not self.job.bare:
            return self._work_contained(cpus)
        self.job.log.parent.mkdir(parents=True, exist_ok=True)
        with self.job.log.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, *self.job.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        return self._wait(child)

    def _work_contained(self, cpus: str | None) -> int:
        """The same in a container; a container outlives its client, and is ended by name."""
        container = self.profile.container
        share = {"CALGRID_LATE": str(self.late)}
        if cpus:
            share |= {"OMP_NUM_THREADS": cpus, "MKL_NUM_THREADS": cpus}
        digest = digest_of(container, Path(self.job.writes[0]))
        child, box = start(self.profile, self.job, expand(container.image or ""), digest, share)
        ended = finish(box, self.job, self._wait(child))
        self.kind = ended.kind
        return -9 if ended.code is None else ended.code

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        told = False
        while True:
            try:
                return child.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                if self.asked is None:
                    continue
            if not told:
                child.send_signal(self.asked)
                told = True
            elif time.monotonic() - self.asked_at > CHILD_SECONDS:
                child.kill()

    def _leave(self, code: int) -> int:
        """After an interruption: requeue the job where nobody else does; returns its exit code."""
        if self.asked == signal.SIGUSR2 and code < 0 and time.time() >= self.late:
            self._say(code, "timeout")  # it did not listen, and would not the next time
            sys.exit(EXIT_INTERRUPTED)
        if self.asked == signal.SIGUSR2 or _is_running():
            if _requeue():
                print("requeued: what is unfinished goes on when the job starts again", flush=True)
                time.sleep(LINGER_SECONDS)
            return EXIT_INTERRUPTED
        # cancelled, or requeued by somebody: a job that ended now by itself would count as over
        time.sleep(LINGER_SECONDS)
        return EXIT_INTERRUPTED

    def _say(self, code: int, kind: str | None = None) -> None:
        self.marker.parent.mkdir(exist_ok=True)
        partial = self.marker.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps({"code": code, "kind": kind, "time": time.time()}), "utf-8")
        partial.replace(self.marker)


def _slurm_id() -> str:
    """The id of this job as scontrol takes it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _is_running() -> bool:
    """Does Slurm want this job to go on: is it preempted rather than cancelled or over?"""
    show = ["scontrol", "show", "job", "--oneliner", _slurm_id()]
    done = subprocess.run(show, capture_output=True, text=True, check=False)
    return " JobState=RUNNING " in done.stdout


def _requeue() -> bool:
    done = subprocess.run(["scontrol", "requeue", _slurm_id()], check=False)
    return done.returncode == 0


def _remove_stale_result() -> None:
    """Remove what a start before this one left half-written; submitit would fail over it."""
    from submitit import JobEnvironment

    result = JobEnvironment().paths.result_pickle
    result.with_name(result.name + ".save_tmp").unlink(missing_ok=True)
