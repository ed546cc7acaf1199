"""Cells in real Apptainer containers, on this machine and on Slurm: the same rows as processes.

The image is made by apptainer.def, over one that Docker built (`sif` in conftest.py).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import image
from cluster.backend import Job
from cluster.contained import client, sandbox
from cluster.container import Sandbox, User
from cluster.profile import Container, Profile
from tests.real.launching import LISTEN, LOOK, SMALL, launch, records, rows, wait_for

WHY = os.environ.get("CALGRID_NO_APPTAINER", "tests/real/apptainer.sh installs one, as root")
pytestmark = pytest.mark.skipif(
    shutil.which("apptainer") is None,
    reason=f"no Apptainer: {WHY}",
)


def profile_of(sif: Path, tmp_path: Path, backend: str) -> str:
    path = tmp_path / "site.yaml"
    path.write_text(f"backend: {backend}\ncontainer: {{runtime: apptainer, image: {sif}}}\n")
    return str(path)


def check_records(out: Path, sif: Path) -> None:
    """The records name the very file."""
    digest = image.digest_of(Container(runtime="apptainer", image=str(sif)), out)
    assert digest.startswith("sha256:")
    assert {record["provenance"]["image"] for record in records(out)} == {digest}


def test_rows_equal_those_of_processes(
    sif: Path, small_grid: Path, expected: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    launch(small_grid, tmp_path, profile_of(sif, tmp_path, "docker"))
    assert rows(tmp_path) == expected
    check_records(tmp_path, sif)
    assert not any(b"hf_x" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_the_same_on_slurm(
    cluster: object,
    sif: Path,
    write_grid: Callable[..., Path],
    expected: list[tuple[Any, ...]],
    tmp_path: Path,
) -> None:
    changes = SMALL | {"{cells_per_job: 9}": "{mem_gb: 2, gpus: 0, cells_per_job: 2}"}
    launch(write_grid(changes), tmp_path, profile_of(sif, tmp_path, "slurm"))
    assert rows(tmp_path) == expected
    check_records(tmp_path, sif)


def box_of(sif: Path, job: Job, scratch: Path) -> Sandbox:
    profile = Profile(backend="docker", container=Container(runtime="apptainer", image=str(sif)))
    return sandbox(profile, job, str(sif), {}, str(scratch))


def test_what_a_job_finds_inside(sif: Path, tmp_path: Path) -> None:
    answer = tmp_path / "seen.json"
    job = Job("look", ("-c", LOOK.format(answer=answer)), tmp_path / "log", writes=(str(tmp_path),))
    line = client(box_of(sif, job, tmp_path), job, {})
    subprocess.run(line, check=True, timeout=60, env=os.environ | {"HF_TOKEN": "hf_x"})
    seen = json.loads(answer.read_text())
    assert seen["user"] == [os.getuid(), os.getgid(), User.invoking().name]
    assert seen["root"] == "Read-only file system"
    assert seen["home"][0] == "/tmp/home"
    assert seen["interfaces"] == ["lo"]
    assert seen["way out"] == "Network is unreachable"
    assert seen["shared memory"] > 1 << 30
    assert int(seen["CapEff"], 16) == 0
    assert seen["NoNewPrivs"] == "1"
    assert not any("TOKEN" in name for name in seen["variables"])


def test_signals_reach_a_job_and_its_exit_code_comes_back(sif: Path, tmp_path: Path) -> None:
    """A batch system signals the client: there is no daemon between it and the job."""
    job = Job("listen", ("-c", LISTEN), tmp_path / "log", writes=(str(tmp_path),))
    with job.log.open("ab") as log:
        process = subprocess.Popen(client(box_of(sif, job, tmp_path), job, {}), stdout=log)
    wait_for(lambda: "ready" in job.log.read_text())
    process.send_signal(signal.SIGUSR2)
    wait_for(lambda: "SIGUSR2" in job.log.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 85
