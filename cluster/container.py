"""The command line that runs a program in a container, for every runtime: a pure function.

What is asked for is the same everywhere: a root that cannot be written, the invoking user, no
network unless the profile wants it, no variable that was not named, folders at the same path
inside and outside, temporary files on memory or on the node's own disk. What each runtime needs
to get there differs; the reasons stand beside the flags.
"""

from __future__ import annotations

import csv
import io
import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Runtime = Literal["docker", "podman", "apptainer", "pyxis"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

LIFELINE = "CALGRID_LIFELINE"
"""Tells `cluster.pid1` to end when its standard input does: then its launcher is gone."""

INSIDE_HOME = "/tmp/home"
"""HOME in a container: the invoking user has no entry, and no folder, in the image."""


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine that a container sees.

    Attributes:
        source: on this machine. target: inside; None = the same path.
        writable: may it be changed from inside?
    """

    source: str
    target: str | None = None
    writable: bool = False

    @property
    def inside(self) -> str:
        """Its path inside."""
        return self.target or self.source

    @classmethod
    def parse(cls, text: str) -> Mount:
        """`/folder`, `/source:/target` or `/source:/target:ro`, as a profile writes it."""
        source, _, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        return cls(source, target or None, writable=mode != "ro")


@dataclass(frozen=True)
class User:
    """Whose files a container writes.

    Attributes:
        uid, gid: of the user. groups: further groups, which shared folders of a site go by.
        name: what USER is set to, since the image has no entry for the uid.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    name: str = "calgrid"

    @classmethod
    def invoking(cls) -> User:
        """The user of this process."""
        uid, gid = os.getuid(), os.getgid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = "calgrid"
        return cls(uid, gid, tuple(sorted(set(os.getgroups()) - {gid})), name)


@dataclass(frozen=True)
class Sandbox:
    """What a program is run in.

    Attributes:
        runtime: which program starts containers.
        image: a tag (docker, podman), a SIF file (apptainer), a squashfs or a tag (pyxis).
        mounts: what it sees of this machine.
        user: whose files it writes.
        gpus: GPUs by index or UUID, as `visible_gpus` names them; ("all",) = every one.
        cpus: cores it may use in time. cpuset: which ones, as `0-3,6`.
        memory_gb: it is killed above so much. shm_gb: size of /dev/shm.
        network: may it reach the network?
        local_disk: folder of this node for temporary files; None = memory (docker, podman).
            apptainer needs one, which has to be there.
        name: of the container; its client may be killed and the container live on, and is then
            found by this.
        labels: what else it is found by.
        lifeline: end the program when the standard input of the client ends (docker, podman).
        srun_args: further arguments of the srun that starts the container (pyxis).
    """

    runtime: Runtime
    image: str
    user: User
    mounts: Sequence[Mount] = ()
    gpus: Sequence[str] = ()
    cpus: float | None = None
    cpuset: str | None = None
    memory_gb: float | None = None
    shm_gb: float = 1
    network: bool = False
    local_disk: str | None = None
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    lifeline: bool = False
    srun_args: Sequence[str] = ()


def command(box: Sandbox, program: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """The command line that runs `program` in `box`.

    Args:
        box: what it runs in.
        program: program and arguments, as they are inside.
        env: its variables. Nothing else of this process's environment gets in, but with pyxis,
            which starts from all of it.

    Raises:
        ValueError: a path cannot be told to this runtime.
    """
    return _BUILDERS[box.runtime](box, program, env)


def kill_command(box: Sandbox) -> list[str] | None:
    """The command that ends the container by name, where killing its client does not."""
    if box.name is None or box.runtime not in ("docker", "podman"):
        return None
    return [box.runtime, "rm", "--force", box.name]


def _docker(box: Sandbox, program: Sequence[str], env: Mapping[str, str]) -> list[str]:
    gpus = []
    if box.gpus:
        names = ",".join(box.gpus)
        gpus = ["--gpus", "all" if names == "all" else f'"device={names}"']  # its value is CSV
    groups = [part for g in box.user.groups for part in ("--group-add", str(g))]
    identity = ["--user", f"{box.user.uid}:{box.user.gid}", *groups]
    return ["docker", "run", *_oci_flags(box, env), *identity, *gpus, *_rest(box, program)]


def _podman(box: Sandbox, program: Sequence[str], env: Mapping[str, str]) -> list[str]:
    # CDI, whose names are indices, and since version 1.15 of NVIDIA's toolkit UUIDs as well
    gpus = [part for g in box.gpus for part in ("--device", f"nvidia.com/gpu={g}")]
    identity = ["--user", f"{box.user.uid}:{box.user.gid}"]
    if box.user.uid:  # without root, ids are mapped: keep the user's own, and all their groups
        identity += ["--userns=keep-id", "--group-add=keep-groups"]
    else:
        identity += [part for g in box.user.groups for part in ("--group-add", str(g))]
    # SELinux would have every mounted folder relabelled, and refuses CDI devices
    return [
        *("podman", "run", *_oci_flags(box, env), *identity, *gpus),
        *("--security-opt=label=disable", *_rest(box, program)),
    ]


def _oci_flags(box: Sandbox, env: Mapping[str, str]) -> list[str]:
    """The flags that docker and podman share."""
    flags = ["--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    # a temporary file system forbids programs unless told; compiled kernels are loaded from there
    flags += ["--tmpfs", "/tmp:rw,exec,nosuid,nodev,mode=1777", "--workdir", "/tmp"]
    flags += [f"--shm-size={_bytes(box.shm_gb)}"]  # the default of 64 MB is too little for torch
    if not box.network:
        flags += ["--network=none"]
    if box.name is not None:
        flags += ["--name", box.name]
    for key, value in box.labels.items():
        flags += ["--label", f"{key}={value}"]
    if box.memory_gb is not None:  # no swap beyond it, which only delays the end
        flags += [f"--memory={_bytes(box.memory_gb)}", f"--memory-swap={_bytes(box.memory_gb)}"]
    if box.cpus is not None:
        flags += [f"--cpus={box.cpus:g}"]
    if box.cpuset is not None:  # --cpus alone leaves os.cpu_count() and torch's threads as they are
        flags += [f"--cpuset-cpus={box.cpuset}"]
    if box.lifeline:
        flags += ["--interactive"]
    mounts = list(box.mounts)
    if box.local_disk is not None:
        mounts.append(Mount(box.local_disk, writable=True))
    for mount in mounts:  # -v would make a missing folder, owned by root; --mount fails instead
        flags += ["--mount", _mount(mount, "source", "target")]
    for name, value in _variables(box, env).items():
        flags += ["--env", f"{name}={value}"]
    return flags


def _rest(box: Sandbox, program: Sequence[str]) -> list[str]:
    return [box.image, *program]


def _apptainer(box: Sandbox, program: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """Apptainer: a child of the caller, so a batch system's limits and signals reach it.

    It shares the node's process ids and host name, by which claims tell the living from the dead.
    Limits of memory and cores are the batch system's too: without it, they need root or cgroups v2.
    """
    if box.local_disk is None:
        raise ValueError("apptainer needs a folder for temporary files: its own /tmp has 64 MB")
    flags = ["exec", "--contain", "--cleanenv", "--no-home", "--workdir", box.local_disk]
    if not box.network:
        flags += ["--net", "--network", "none"]
    if box.gpus:
        flags += ["--nv"]
    for mount in box.mounts:
        flags += ["--mount", _mount(mount, "source", "destination")]
    # `--env` splits its value at commas, so variables come through its own environment
    variables = _variables(box, env)
    home = variables.pop("HOME")  # not to be set this way
    inside = [f"APPTAINERENV_{k}={v}" for k, v in variables.items()]
    return [
        *("env", *inside, "apptainer", *flags, "--pwd", "/tmp", box.image),
        *("env", f"HOME={home}", *program),
    ]


def _pyxis(box: Sandbox, program: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """A step of the Slurm job that this runs in, which srun starts inside the container.

    enroot shares the node's network, and only its newest versions have a flag against that. Its
    /tmp is on memory.
    """
    wrong = [p for m in box.mounts for p in (m.source, m.inside) if set(p) & set(":,")]
    if wrong:
        raise ValueError(f"pyxis cannot mount a path with a colon or comma: {', '.join(wrong)}")
    mounts = [f"{m.source}:{m.inside}" + ("" if m.writable else ":ro") for m in box.mounts]
    # enroot puts the driver into a container that is asked for it before it starts, by what srun
    # was started with or by the image; which GPUs are seen then is for Slurm's device cgroup to say
    driver = ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]
    return [
        *(("env", *driver) if box.gpus else ()),
        *("srun", "--ntasks=1", "--overlap"),  # the job's own step has all its cores
        *([f"--cpus-per-task={box.cpus:g}"] if box.cpus else []),  # or it is one
        f"--container-image={box.image}",
        *([f"--container-mounts={','.join(mounts)}"] if mounts else []),
        "--container-workdir=/tmp",
        "--container-readonly",
        "--no-container-mount-home",
        "--no-container-remap-root",  # the invoking user, not a pretended root
        "--no-container-entrypoint",  # the sites' defaults differ: always say which
        *box.srun_args,
        *("env", *(f"{k}={v}" for k, v in _variables(box, env).items()), *program),
    ]


_BUILDERS = {
    "docker": _docker,
    "podman": _podman,
    "apptainer": _apptainer,
    "pyxis": _pyxis,
}


def _variables(box: Sandbox, env: Mapping[str, str]) -> dict[str, str]:
    """The variables inside: the caller's, and those that an unknown user needs."""
    variables = {
        "HOME": INSIDE_HOME,
        "USER": box.user.name,  # without it, getpass.getuser() fails on a uid without an entry
        "TMPDIR": "/tmp" if box.runtime == "apptainer" else box.local_disk or "/tmp",
        "CALGRID_IMAGE": box.image,
    }
    if box.lifeline and box.runtime in ("docker", "podman"):
        variables[LIFELINE] = "stdin"
    variables |= env
    if box.runtime in ("docker", "podman"):
        # only these GPUs are inside, where they are numbered from 0
        variables.pop("CUDA_VISIBLE_DEVICES", None)
    return variables


def _mount(mount: Mount, source: str, target: str) -> str:
    """A mount as a line of CSV, since a path may hold a comma."""
    fields = ["type=bind", f"{source}={mount.source}", f"{target}={mount.inside}"]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields + ([] if mount.writable else ["ro"]))
    return line.getvalue()


def _bytes(gigabytes: float) -> str:
    return f"{round(gigabytes * 1024)}m"


def outermost(paths: Sequence[Path]) -> list[Path]:
    """The paths that lie in no other of them, without repeats."""
    distinct = sorted(set(paths))
    return [p for p in distinct if not any(q in p.parents for q in distinct)]


def visible_gpus(
    environment: Mapping[str, str], driver: Path = Path("/proc/driver/nvidia")
) -> tuple[str, ...]:
    """The GPUs that this process was given, by UUID where the driver tells, for `Sandbox.gpus`.

    A batch system that confines a job to its devices numbers them from 0 within the job; an engine
    outside the job would take that number for the node's first GPU. UUIDs mean the same to both.
    Nothing where the node has no driver, whatever the variable says.
    """
    present = [p for p in (driver / "gpus").glob("*") if p.is_dir()]
    if not present:
        return ()
    wanted = environment.get("CUDA_VISIBLE_DEVICES")
    if wanted is not None and not wanted.strip():
        return ()
    uuids = _uuids()
    if wanted is None:
        return tuple(uuids.values()) or ("all",)
    return tuple(uuids.get(name.strip(), name.strip()) for name in wanted.split(","))


def _uuids() -> dict[str, str]:
    """UUIDs of the GPUs that this process may see, by index; empty where nvidia-smi is missing."""
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return {}
    rows = [line.split(", ") for line in listed.stdout.splitlines() if listed.returncode == 0]
    return {row[0]: row[1].strip() for row in rows if len(row) == 2}
