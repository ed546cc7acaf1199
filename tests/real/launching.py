"""Launching a grid of three cells as a user does, and what came of it; jobs in containers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

ROOT = Path(__file__).parents[2]
BASE_IMAGE = os.environ.get("BASE_IMAGE", "calgrid-base:test")

SMALL = {
    "dataset: [farm, city]": "dataset: farm",
    "seed: [0, 1]": "seed: 0",
    "{cells_per_job: 9}": "{mem_gb: 4}",
}
"""Three cells, each in a container of its own: dense, magnitude and Wanda."""


LOOK = """
import getpass, json, os, socket
from pathlib import Path

def numbers(*files):
    for file in files:
        path = Path("/sys/fs/cgroup") / file
        if path.is_file():
            return [int(n) for n in path.read_text().split() if n != "max"]

def refusal(action):
    try:
        action()
    except OSError as error:
        return os.strerror(error.errno)

mounts = dict(line.split()[1:3] for line in open("/proc/mounts"))
home = Path(os.environ["HOME"])
status = dict(line.strip("\\n").split(":\\t", 1) for line in open("/proc/self/status"))
memory = numbers("memory/memory.limit_in_bytes", "memory.max")
quota = numbers("cpu/cpu.cfs_quota_us", "cpu.max")
period = numbers("cpu/cpu.cfs_period_us", "cpu.max")
shared = os.statvfs("/dev/shm")
outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
seen = {{
    "user": [os.getuid(), os.getgid(), getpass.getuser()],
    "groups": os.getgroups(),
    "root": refusal(Path("/x").touch),
    "home": [str(home), next(mounts[str(p)] for p in (home, *home.parents) if str(p) in mounts)],
    "interfaces": [name for _, name in socket.if_nameindex()],
    "way out": refusal(lambda: outside.connect(("192.0.2.1", 9))),
    "shared memory": shared.f_frsize * shared.f_blocks,
    "memory": memory and memory[0],
    "cpus": quota and quota[0] / period[-1],
    "cores": sorted(os.sched_getaffinity(0)),
    "variables": sorted(os.environ),
    **{{key: status[key] for key in ("CapEff", "NoNewPrivs")}},
}}
Path("{answer}").write_text(json.dumps(seen))
"""
"""A program that writes down what its place is like."""


LISTEN = """
import signal, sys, time
for number in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda n, frame: print(signal.Signals(n).name, flush=True))
signal.signal(signal.SIGTERM, lambda n, frame: sys.exit(85))
print("ready", flush=True)
time.sleep(60)
"""
"""A program that says which signals it hears, and ends with code 85 when it is asked to."""


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def docker_answers() -> bool:
    """Is there an engine on this machine?"""
    try:
        return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def launching(grid: Path, out: Path, cluster: str = "docker", *changes: str) -> list[str]:
    options = ["--out", str(out), "--cluster", cluster]
    options += [part for change in changes for part in ("--set", change)]
    return [sys.executable, "-m", "jobs.launch", str(grid), *options]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "BASE_IMAGE": BASE_IMAGE, "HF_TOKEN": "hf_x"}


def launch(grid: Path, out: Path, cluster: str = "docker", *changes: str) -> None:
    done = subprocess.run(
        launching(grid, out, cluster, *changes),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,  # on a busy machine
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def records(out: Path) -> list[dict[str, Any]]:
    """The records of the run's cells."""
    return [json.loads(path.read_text()) for path in (out / "tiny/cells").glob("*.json")]


def rows(out: Path) -> list[tuple[Any, ...]]:
    """All that `results` says, but for the run's name and the time that it took."""
    with duckdb.connect(str(out / "tiny" / "results.duckdb"), read_only=True) as database:
        query = "SELECT * EXCLUDE (run, gpu_seconds) FROM results ORDER BY cell"
        return database.sql(query).fetchall()
