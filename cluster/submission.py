"""Submitting an array of jobs with submitit: its parameters, its script, and Slurm's refusals."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import DelayedSubmission, FailedJobError, JobPaths

from cluster import task
from cluster.arrays import Array
from cluster.backend import Job, job_environment, signal_seconds
from cluster.code import import_path
from cluster.profile import Profile
from cluster.squeue import AWAY_WORDS, FULL_WORDS, AwayError

REQUEUES = 10_000
"""How often submitit may requeue a job; never, since `cluster.task` does it instead."""


class RefusedError(Exception):
    """Slurm does not take a submission, whenever it is asked."""


class FullError(Exception):
    """The user has as many jobs queued and running as they may."""


class _Executor(SlurmExecutor):
    """submitit's executor, which can also be made where there is no Slurm, to show its scripts."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    def script(self, count: int) -> str:
        """What `sbatch` is given for an array of `count` jobs."""
        if count > 1:
            self.parameters["map_count"] = count
        return self._make_submission_file_text(self._submitit_command_str, "")


def submit(array: Array, profile: Profile, name: str, after: Sequence[str]) -> None:
    """Submit an array, and note its id.

    Args:
        array: the jobs, written down.
        profile: where.
        name: what the jobs are called in the queue.
        after: ids of jobs that have to be over first, however they end.

    Raises:
        AwayError: Slurm does not answer; whether it took the array is not known.
        FullError: the user's limit is reached.
        RefusedError: Slurm does not want it.
    """
    executor = _executor(array.folder, array.jobs, profile, name, array.token, after)
    indices = range(len(array.jobs))
    try:
        with _clean_environment(), contextlib.redirect_stderr(io.StringIO()):
            jobs = executor.map_array(task.run, [str(array.folder)] * len(indices), indices)
    except FailedJobError as error:
        text = " ".join(str(error).replace("sbatch: error:", " ").split())
        if FULL_WORDS.search(text):
            raise FullError(text) from error
        if AWAY_WORDS.search(text):
            raise AwayError(text) from error
        raise RefusedError(text) from error
    array.accepted(jobs[0].job_id.partition("_")[0])


def adopt(array: Array, slurm_id: str) -> None:
    """Go on with an array that Slurm took, but whose id never arrived here."""
    array.accepted(slurm_id)
    for index in range(len(array.jobs)):
        submission = DelayedSubmission(task.run, str(array.folder), index)
        submission.set_timeout(array.jobs[index].timeout_min, REQUEUES)
        submission.dump(JobPaths(array.folder, array.element(index)).submitted_pickle)


def script(
    folder: Path, jobs: Sequence[Job], profile: Profile, name: str, after: Sequence[str]
) -> str:
    """The script that `submit` would give to `sbatch`."""
    executor = _executor(folder, jobs, profile, name, f"calgrid {folder.name}", after)
    return executor.script(len(jobs))


def _executor(
    folder: Path,
    jobs: Sequence[Job],
    profile: Profile,
    name: str,
    token: str,
    after: Sequence[str],
) -> _Executor:
    executor = _Executor(folder, max_num_timeout=REQUEUES, python=shlex.quote(sys.executable))
    executor.update_parameters(**parameters(profile, jobs, name, token, after))
    return executor


def parameters(
    profile: Profile, jobs: Sequence[Job], name: str, token: str, after: Sequence[str]
) -> dict[str, Any]:
    """What jobs that ask for the same are submitted with, in submitit's words."""
    job = jobs[0]
    flags: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes", **profile.sbatch}
    if profile.reservation:
        flags["reservation"] = profile.reservation
    wanted: dict[str, Any] = {
        "job_name": name,
        "comment": token,
        "wckey": None,  # submitit's own would be refused where sites keep a list
        "time": job.timeout_min,
        "signal_delay_s": signal_seconds(job.timeout_min),
        "nodes": 1,
        "ntasks_per_node": 1,
        "account": profile.account,
        "partition": profile.partition,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "exclude": profile.exclude,
        "array_parallelism": profile.concurrency or len(jobs),
        "setup": list(profile.setup) or None,
        "stderr_to_stdout": True,
        "dependency": f"afterany:{':'.join(after)}" if after else None,
        "use_srun": profile.container.runtime != "pyxis",  # there the container is srun's
    }
    if profile.mem == "request":
        wanted["mem"] = f"{job.mem_gb}GB"
    arguments = list(profile.srun_args)
    if profile.cpus is not None:
        wanted["cpus_per_task"] = profile.cpus
        arguments.insert(0, f"--cpus-per-task={profile.cpus}")  # srun does not inherit it
    wanted["srun_args"] = arguments or None
    if job.gpus and profile.gpu_request != "none":
        kind = [profile.gpu_type] if profile.gpu_type else []
        if profile.gpu_request == "gres":
            wanted["gres"] = ":".join(["gpu", *kind, str(job.gpus)])
        elif kind:
            flags["gpus-per-node"] = f"{kind[0]}:{job.gpus}"
        else:
            wanted["gpus_per_node"] = job.gpus
    return wanted | {"additional_parameters": flags}


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Submit with what jobs may inherit; all else stays on this machine."""
    before = dict(os.environ)
    inherited = job_environment(before)
    inherited.pop("CUDA_VISIBLE_DEVICES", None)  # those of an allocation that one launches from
    try:
        os.environ.clear()
        os.environ.update(inherited | {"PYTHONPATH": import_path(inherited)})
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
