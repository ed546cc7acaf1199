"""What a site says of itself: Slurm's limits and partitions, container runtimes, quota, driver."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.container import RUNTIMES
from cluster.local import gpu_count

SECONDS = 60.0
"""Time that one question may take."""


@dataclass
class Site:
    """What was found.

    Attributes:
        slurm: the settings that matter, by Slurm's names; empty without Slurm.
        partitions: each with its time limit, GPUs, cores and memory, as sinfo prints them.
        accounts: account and qos that the user may name.
        qos: limits of each.
        runtimes: container runtimes that are installed here.
        notes: anything else, a line each.
    """

    slurm: dict[str, str] = field(default_factory=dict)
    partitions: list[dict[str, str]] = field(default_factory=list)
    accounts: list[tuple[str, str]] = field(default_factory=list)
    qos: list[str] = field(default_factory=list)
    runtimes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def max_array_size(self) -> int | None:
        """Slurm's MaxArraySize."""
        return int(self.slurm["MaxArraySize"]) if "MaxArraySize" in self.slurm else None


def ask(folder: Path) -> Site:
    """Ask the site; what it does not answer stays empty.

    Args:
        folder: where runs will lie, for its free space.
    """
    site = Site(runtimes=[r for r in RUNTIMES if _installed(r)])
    if shutil.which("sbatch"):
        _ask_slurm(site)
    free = shutil.disk_usage(folder).free
    site.notes.append(f"{folder.resolve()} has {free / 1e9:,.0f} GB free")
    quota = _say(["quota", "-s"])
    if quota:
        site.notes += [f"quota: {line.strip()}" for line in quota.splitlines()]
    gpus = gpu_count()
    driver = _say(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    site.notes.append(
        f"this machine has {gpus} GPUs" + "".join(f"\n{g}" for g in driver.split("\n"))
    )
    return site


SETTINGS = (
    *("ClusterName", "SLURM_VERSION", "MaxArraySize", "MaxJobCount", "KillWait", "JobRequeue"),
    *("PreemptMode", "PreemptType", "SlurmctldParameters", "AccountingStorageType"),
    *("AccountingStorageEnforce", "SelectType", "GresTypes"),
)


def _ask_slurm(site: Site) -> None:
    config = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", _say(["scontrol", "show", "config"]), re.M))
    site.slurm = {name: config[name] for name in SETTINGS if name in config}
    columns = {"name": "%R", "default": "%P", "time": "%l", "gres": "%G", "cpus": "%c", "mem": "%m"}
    for line in _say(["sinfo", "--noheader", "-o", "|".join(columns.values())]).splitlines():
        found = dict(zip(columns, line.split("|"), strict=False))
        found["default"] = "yes" if found.get("default", "").endswith("*") else ""
        if found not in site.partitions:
            site.partitions.append(found)
    user = os.environ.get("USER") or str(os.getuid())
    listed = _sacctmgr("assoc", "account,qos", f"user={user}")
    site.accounts = [(row[0], row[1]) for row in listed if len(row) > 1]
    limits = _sacctmgr("qos", "name,maxsubmitjobsperuser,maxtresperuser,maxwall")
    names = ("", "at most submitted", "at most in use", "time")
    for row in limits:
        said = [f"{n} {v}" for n, v in zip(names[1:], row[1:], strict=False) if v]
        site.qos.append(f"{row[0]}: {', '.join(said) or 'no limits'}")


def _sacctmgr(what: str, columns: str, *where: str) -> list[list[str]]:
    command = ["sacctmgr", "-nP", "show", what, *(["where", *where] if where else [])]
    lines = _say([*command, f"format={columns}"]).splitlines()
    return [line.split("|") for line in lines if line]


def _installed(runtime: str) -> bool:
    if runtime == "pyxis":  # a plugin of srun, which then knows its flags
        return "--container-image" in _say(["srun", "--help"])
    return shutil.which(runtime) is not None


def _say(command: Sequence[str]) -> str:
    """What a command prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def profile_of(site: Site) -> tuple[dict[str, Any], list[str]]:
    """A profile for a site, and comments on what else could be in it."""
    comments = [*site.notes, f"container runtimes here: {', '.join(site.runtimes) or 'none'}"]
    if not site.slurm:
        return {"backend": "local"}, comments
    profile: dict[str, Any] = {"backend": "slurm", "container": {"runtime": "none"}}
    with_gpus = [p for p in site.partitions if "gpu" in p.get("gres", "")]
    for partition in site.partitions:
        words = ", ".join(f"{k} {v}" for k, v in partition.items() if v and k != "name")
        comments.append(f"partition {partition['name']}: {words}")
    chosen = next((p for p in with_gpus if p["default"]), with_gpus[0] if with_gpus else None)
    if chosen is not None and not chosen["default"]:
        profile["partition"] = chosen["name"]
    if not with_gpus:
        profile["gpu_request"] = "none"
        comments.append("no partition has GPUs that Slurm counts, so none are asked for")
    accounts = sorted({account for account, _ in site.accounts})
    if len(accounts) == 1:
        profile["account"] = accounts[0]
    elif accounts:
        comments.append(f"accounts: {', '.join(accounts)}; set `account:`")
    comments += [f"qos {line}" for line in site.qos]
    comments += [f"Slurm: {name} = {value}" for name, value in site.slurm.items()]
    if site.max_array_size is not None:
        profile["max_array_size"] = site.max_array_size
    if "slurmdbd" not in site.slurm.get("AccountingStorageType", ""):
        comments.append("no accounting: how a job ended is known only while Slurm remembers it")
    return profile, comments
