"""A job in a container: what it is run in, and what its end means."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from cluster.backend import Ended, Job, Kind, job_environment
from cluster.code import code_hash, commit
from cluster.container import Mount, Sandbox, User, command, kill_command, visible_gpus
from cluster.logfile import tail
from cluster.pid1 import MEMORY_MESSAGE
from cluster.profile import Profile, expand

EXIT_ENGINE = (125, 126)
"""Exit codes of docker and podman for a failure of their own; podman's, where a device is missing,
is the second."""

ENGINE_SECONDS = 900.0
"""How long an engine that does not answer is waited for."""

EXIT_SIGNALLED, EXIT_INTERRUPTED = 128, 130
"""A program that signal n ended, as a container gives it, is this + n; 130 is a cell that was asked
to stop, and did."""

FROM_OUTSIDE = (-9, -15)
"""Exit codes of a program that SIGKILL or SIGTERM ended."""

WENT_AWAY = re.compile(
    r"unexpected EOF|cannot connect to the docker daemon|connection (refused|reset)|broken pipe|"
    r"error during connect|error waiting for container",
    re.IGNORECASE,
)
"""What a client says when the engine behind it stopped."""


def sandbox(
    profile: Profile,
    job: Job,
    image: str,
    environment: Mapping[str, str] = os.environ,
    local_disk: str | None = None,
) -> Sandbox:
    """What a job of a profile is run in, on this node.

    Args:
        profile: the place. job: what to run.
        image: as the runtime takes it.
        environment: where the batch system, or the launcher, says which GPUs are the job's.
        local_disk: a folder of this node for temporary files, made for this job.
    """
    container = profile.container
    assert container.runtime != "none"
    writes = [Path(p) for p in job.writes]
    if profile.scratch:
        writes.append(Path(expand(profile.scratch)))
    reads = [Path(p) for p in job.reads]
    reads = [p for p in reads if not any(w == p or w in p.parents for w in writes)]
    mounts = [Mount(str(p), writable=True) for p in writes] + [Mount(str(p)) for p in reads]
    mounts += [Mount.parse(expand(text)) for text in container.mounts]
    cores = sorted(os.sched_getaffinity(0))
    confined = len(cores) < (os.cpu_count() or 1)
    threads = environment.get("OMP_NUM_THREADS")
    return Sandbox(
        container.runtime,
        image,
        User.invoking(),
        mounts=mounts,
        gpus=visible_gpus(environment) if job.gpus else (),
        cpus=float(threads) if threads else None,
        cpuset=",".join(map(str, cores)) if confined else None,
        memory_gb=job.mem_gb if profile.mem == "request" else None,
        shm_gb=container.shm_gb,
        network=container.network,
        local_disk=local_disk,
        name=f"calgrid-{job.name}-{os.urandom(4).hex()}",
        labels={"calgrid.job": job.name},
        lifeline=container.runtime in ("docker", "podman"),
        srun_args=profile.srun_args,
    )


def client(box: Sandbox, job: Job, share: Mapping[str, str]) -> list[str]:
    """The command line that runs a job in a sandbox.

    Args:
        box: of `sandbox`. job: what to run. share: variables beside the job's own.
    """
    env = {**share, **job.env, "CALGRID_HOST": platform.node()}
    env.pop("PYTHONPATH", None)  # the image has the code: the same, or the job ends
    env["CALGRID_CODE"] = code_hash()
    revision, dirty = commit()
    if revision is not None:
        env |= {"CALGRID_COMMIT": revision, "CALGRID_DIRTY": str(int(bool(dirty)))}
    if not box.network:
        env["HF_HUB_OFFLINE"] = "1"
    return command(box, ["python", "-P", *job.command], env)


def preview(profile: Profile, job: Job, share: Mapping[str, str] | None = None) -> str:
    """The command line of a job, for people; names and temporary folders vary."""
    local_disk = "/tmp/calgrid" if profile.container.runtime == "apptainer" else None
    environment = {**os.environ, **(share or {})}
    box = sandbox(profile, job, profile.container.image or "", environment, local_disk)
    return shlex.join(client(box, job, share or {}))


def start(
    profile: Profile, job: Job, image: str, digest: str, share: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], Sandbox]:
    """Start a job in a container, its output appended to its log; `finish` has to follow.

    Args:
        profile: the place. job: what to run.
        image: as the runtime takes it. digest: of it, for the records.
        share: variables of this node beside the job's own, GPUs among them.
    """
    if profile.scratch:
        share = {**share, "CALGRID_SCRATCH": expand(profile.scratch)}
    environment = {**os.environ, **share}
    box = sandbox(profile, job, image, environment, _local_disk(profile))
    gpus = {k: v for k, v in environment.items() if k == "CUDA_VISIBLE_DEVICES"}
    line = client(box, job, {**gpus, **share, "CALGRID_IMAGE": digest})
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        process = subprocess.Popen(
            line,
            stdin=subprocess.PIPE if box.lifeline else subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # srun needs to know the allocation that it makes a step of
            env=dict(os.environ) if box.runtime == "pyxis" else job_environment(),
            start_new_session=True,
        )
    return process, box


def _local_disk(profile: Profile) -> str | None:
    """A folder of this node for the temporary files of one job; None = memory."""
    if profile.local_disk is None and profile.container.runtime != "apptainer":
        return None
    folder = expand(profile.local_disk) if profile.local_disk else None
    return tempfile.mkdtemp(prefix="calgrid-", dir=folder)


def finish(box: Sandbox, job: Job, code: int) -> Ended:
    """Clean up after a client that ended, and say what its exit code means.

    Waits for an engine that went away: until it is back, its containers may go on.
    """
    if box.local_disk is not None:
        shutil.rmtree(box.local_disk, ignore_errors=True)
    if code not in EXIT_ENGINE and code >= 0:
        return meaning(job, code)
    since = time.monotonic()
    while not remove(box) and time.monotonic() - since < ENGINE_SECONDS:
        time.sleep(1.0)
    if code < 0 or time.monotonic() - since > 1.0:
        return Ended(job, code, "lost", "the container engine went away, or its client was killed")
    return meaning(job, code)


def remove(box: Sandbox) -> bool:
    """End the container of a client that is gone; False where the engine does not answer."""
    line = kill_command(box)
    if line is None:
        return True
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.returncode == 0 or "no such container" in done.stderr.lower()


HINT = re.compile(r"(See|Run) '\w+ run --help'")
"""The last line of an engine's refusal, which says nothing."""


def meaning(job: Job, code: int) -> Ended:
    """What the exit code of a job's client says, together with the end of the job's log.

    A container that was killed, but not for memory, was killed by somebody who did not mean the
    cell: the engine went down, or was told to remove it. That is lost work, not a failure.
    """
    kind: Kind | None = None
    cause = None
    if code > EXIT_SIGNALLED and code != EXIT_INTERRUPTED:
        code = EXIT_SIGNALLED - code
    last = tail(job.log)
    said = [line for line in last.splitlines() if line.strip() and not HINT.match(line)] or [""]
    if code and MEMORY_MESSAGE in said[-1]:  # further up it is an earlier attempt's
        code, kind, cause = -9, "memory", f"{MEMORY_MESSAGE} ({job.mem_gb} GB)"
    elif code in FROM_OUTSIDE:
        kind = "lost"
        cause = f"the container was ended from outside (signal {-code})"
    elif code in EXIT_ENGINE and WENT_AWAY.search(last):
        kind, cause = "lost", "the container engine went away"
    elif code in EXIT_ENGINE:
        kind, cause = "error", _explained(said[-1] or "no reason given")
    return Ended(job, code, kind, cause)


def _explained(message: str) -> str:
    """An engine's message, with what to do about it where that is known."""
    if "could not select device driver" in message or "unresolvable CDI devices" in message:
        return (
            f"the engine cannot give GPUs to containers ({message}); install the NVIDIA container "
            "toolkit on this node"
        )
    return f"the container engine refused: {message}"
