"""Profiles: what a place to run is like, in one small YAML file; see `cluster/profiles/`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cluster.yamlfile import InputError, YamlFile, choices, problems_of

FOLDER = Path(__file__).parent / "profiles"

RESERVED = {
    "array": "cells are arrays already; see concurrency and max_array_size",
    "dependency": "calgrid sets it",
    "job-name": "calgrid sets it",
    "output": "calgrid sets it",
    "error": "calgrid sets it",
    "signal": "calgrid sets it",
    "time": "it is `resources.timeout_min` of the grid",
    "mem": "it is `resources.mem_gb` of the grid; `mem: none` here asks for none",
    "gres": "it is made from `resources.gpus` of the grid and `gpu_request` here",
    "gpus-per-node": "it is made from `resources.gpus` of the grid and `gpu_request` here",
}
"""Flags of sbatch that a profile may not set, since something else does."""

PositiveInt = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A section of a profile: frozen, exactly typed, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Container(Strict):
    """How a cell is put into a container.

    Attributes:
        runtime: which program starts containers; `none` = plain processes.
        image: of docker and podman a tag, of apptainer a SIF file, of pyxis a squashfs or a tag.
        mounts: `FOLDER`, `SOURCE:TARGET` or `SOURCE:TARGET:ro`, beside those that a run needs.
        network: let cells reach it; they do not need it once a grid is prefetched.
        shm_gb: size of /dev/shm, which data loaders and collectives use.
    """

    runtime: Literal["none", "docker", "podman", "apptainer", "pyxis"] = "none"
    image: str | None = None
    mounts: list[str] = []
    network: bool = False
    shm_gb: PositiveInt = 1

    @field_validator("mounts")
    @classmethod
    def _absolute(cls, mounts: list[str]) -> list[str]:
        for mount in mounts:
            source, _, rest = mount.partition(":")
            target, _, mode = rest.partition(":")
            if not source.startswith(("/", "~", "$")) or mode not in ("", "ro", "rw"):
                raise ValueError(
                    f"{mount!r} is no mount; write /folder, /source:/target or /source:/target:ro"
                )
            if rest and not target.startswith("/"):
                raise ValueError(f"{mount!r}: the target {target!r} is no absolute path")
        return mounts

    @model_validator(mode="after")
    def _has_image(self) -> Container:
        if self.runtime != "none" and not self.image:
            raise ValueError(f"runtime {self.runtime} needs an image; add `image:`")
        return self


class Profile(Strict):
    """A place to run.

    Attributes:
        backend: processes or containers on this machine, or a Slurm cluster.
        container: how cells are put into containers.
        concurrency: jobs at once, at most; null = on this machine one for each GPU, or for each
            core without; on Slurm as many as it likes.
        cpus: CPU cores a job; null = this machine's share, or what the site gives.
        scratch: a large folder that all nodes share, for compiled code and caches; null = the
            folder of runs. Variables such as $USER are filled in.
        local_disk: a folder on every node for temporary files; null = the node's own TMPDIR.
        account, partition, qos, constraint, reservation, exclude: the site's words, as sbatch
            has them.
        gpu_request: which option asks for GPUs. gpu_type: which GPUs, as the site calls them.
        mem: `request` asks for the grid's memory, `none` leaves it to the site.
        sbatch: any other flag of sbatch, without dashes; true for a flag without a value.
        srun_args: further arguments of srun.
        setup: shell lines that run before a job, for example `module load cuda`.
        max_array_size, submit_limit: the cluster's MaxArraySize, and how many jobs a user may have
            queued and running; null = ask Slurm.
    """

    backend: Literal["local", "docker", "slurm"]
    container: Container = Container()
    concurrency: PositiveInt | None = None
    cpus: PositiveInt | None = None
    scratch: str | None = None
    local_disk: str | None = None
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclude: str | None = None
    gpu_request: Literal["gpus_per_node", "gres", "none"] = "gpus_per_node"
    gpu_type: str | None = None
    mem: Literal["request", "none"] = "request"
    sbatch: dict[str, str | int | bool] = {}
    srun_args: list[str] = []
    setup: list[str] = []
    max_array_size: Annotated[int, Field(ge=2)] | None = None
    submit_limit: Annotated[int, Field(ge=2)] | None = None

    @field_validator("sbatch")
    @classmethod
    def _free_flags(cls, flags: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        plain = {flag.replace("_", "-"): value for flag, value in flags.items()}
        for flag, value in plain.items():
            if flag.startswith("-"):
                raise ValueError(f"{flag}: write the flag without its dashes")
            if flag in RESERVED:
                raise ValueError(f"{flag}: {RESERVED[flag]}")
            if flag in cls.model_fields:
                raise ValueError(f"{flag}: it is a key of the profile itself; write it there")
            if value is False:
                raise ValueError(f"{flag}: leave a flag out rather than write false")
        return plain

    @model_validator(mode="after")
    def _fits_backend(self) -> Profile:
        runtime = self.container.runtime
        if self.backend == "local" and runtime != "none":
            raise ValueError(f"backend local runs plain processes, not {runtime}; use docker")
        if self.backend == "docker" and runtime not in ("docker", "podman", "apptainer"):
            raise ValueError(
                f"backend docker runs containers on this machine; container.runtime is {runtime}; "
                "allowed: docker, podman, apptainer"
            )
        if self.backend != "slurm":
            foreign = sorted(SLURM_KEYS & self.model_fields_set)
            if foreign:
                raise ValueError(f"{', '.join(foreign)}: of use on backend slurm only; remove it")
        return self


SLURM_KEYS = {
    *("account", "partition", "qos", "constraint", "reservation", "exclude", "gpu_request"),
    *("gpu_type", "mem", "sbatch", "srun_args", "setup", "max_array_size", "submit_limit"),
}


class ProfileFile(YamlFile):
    """A profile file as plain data that remembers where its lines are."""

    kind = "profile"
    keys = "backend, container, partition"


def shipped() -> list[str]:
    """The names of the profiles that come with calgrid."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def default_name() -> str:
    """The profile of a launch that names none: Slurm where this machine can submit to it."""
    return "slurm" if shutil.which("sbatch") else "local"


def load_profile(name: str) -> Profile:
    """The profile of a name, or of the path of a file.

    Raises:
        InputError: with every problem found.
    """
    path = FOLDER / f"{name}.yaml"
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = Path(os.path.expandvars(name)).expanduser()
    elif not path.is_file():
        raise InputError(
            [
                f"--cluster {name}: no such profile; {choices(name, shipped())}; or give the path "
                "of a profile file"
            ]
        )
    file = ProfileFile(path)
    try:
        return Profile.model_validate(file.data)
    except ValidationError as error:
        raise file.error(problems_of(error, Profile)) from None


def expand(path: str) -> str:
    """A path of a profile with its variables filled in.

    Raises:
        InputError: a variable is not set.
    """
    full = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111  (may be no path yet)
    if "$" in full:
        raise InputError([f"profile: {path}: a variable in it is not set"])
    return full
