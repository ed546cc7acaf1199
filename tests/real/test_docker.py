"""Cells in real Docker containers: the same rows as processes, and nothing lost or left behind.

`tests/real/docker.sh up` and `base-image` start what this needs; without an engine it is skipped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cluster import image
from cluster.backend import Job
from cluster.contained import client, meaning, sandbox
from cluster.profile import Container, load_profile

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests/real/docker.sh"
BASE_IMAGE = os.environ.get("BASE_IMAGE", "calgrid-base:test")


def answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def containers() -> list[str]:
    """The containers of our jobs that there are, running or not."""
    listed = ["docker", "ps", "--all", "--quiet", "--filter", "label=calgrid.job"]
    return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()


pytestmark = pytest.mark.skipif(not answers(), reason="no Docker engine answers here")


@pytest.fixture(scope="session")
def built() -> Iterator[str]:
    """The image of this code, built if it is missing."""
    if image.engine_digest("docker", BASE_IMAGE) is None:
        pytest.skip(f"no image {BASE_IMAGE} to build on: tests/real/docker.sh base-image makes it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASE_IMAGE", BASE_IMAGE)
        steps: list[str] = []
        container = load_profile("docker").container
        name, digest = image.prepare(container, False, Path(), steps.append)
        assert digest.startswith("sha256:")
        yield name


SMALL = {
    "dataset: [farm, city]": "dataset: farm",
    "seed: [0, 1]": "seed: 0",
    "{cells_per_job: 9}": "{mem_gb: 4}",
}
"""Three cells, each in a container of its own: dense, magnitude and Wanda."""


def launching(grid: Path, out: Path, cluster: str = "docker") -> list[str]:
    options = ["--out", str(out), "--cluster", cluster]
    return [sys.executable, "-m", "jobs.launch", str(grid), *options]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "BASE_IMAGE": BASE_IMAGE, "HF_TOKEN": "hf_x"}


def launch(grid: Path, out: Path, cluster: str = "docker") -> None:
    done = subprocess.run(
        launching(grid, out, cluster),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def rows(out: Path) -> list[tuple[Any, ...]]:
    """All that `results` says, but for the run's name and the time that it took."""
    with duckdb.connect(str(out / "tiny" / "results.duckdb"), read_only=True) as database:
        query = "SELECT * EXCLUDE (run, gpu_seconds) FROM results ORDER BY cell"
        return database.sql(query).fetchall()


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def test_rows_equal_those_of_processes(
    built: str, write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    grid = write_grid(SMALL)
    launch(grid, tmp_path / "a")
    launch(grid, tmp_path / "b", "local")
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert len(rows(tmp_path / "a")) == 3
    records = [json.loads(p.read_text()) for p in (tmp_path / "a/tiny/cells").glob("*.json")]
    digest = image.engine_digest("docker", built)
    for record in records:
        assert record["provenance"]["image"] == digest
        assert record["provenance"]["commit"]
    assert len({json.dumps(r["provenance"]) for r in records}) == 1  # and the host is this one
    assert containers() == []
    files = [p for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert all(p.stat().st_uid == os.getuid() for p in files)
    assert not any(b"hf_x" in p.read_bytes() for p in files)


def test_the_image_says_what_it_was_made_from(built: str) -> None:
    inspect = ["docker", "image", "inspect", "--format", "{{json .Config}}", built]
    config = json.loads(subprocess.run(inspect, capture_output=True, check=True).stdout)
    labels = config["Labels"]
    assert len(labels["org.opencontainers.image.revision"]) == 40
    assert len(labels["calgrid.constraints"]) == 64
    assert config["User"] == "1000:1000"
    image.check_code(Container(runtime="docker", image=built), built)


def test_the_same_on_slurm_with_docker_as_the_runtime(
    cluster: object, built: str, write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    """The job is a child of Slurm's, the container a child of the engine's; signals reach both."""
    profile = tmp_path / "site.yaml"
    profile.write_text(f"backend: slurm\ncontainer: {{runtime: docker, image: '{built}'}}\n")
    changes = SMALL | {"{cells_per_job: 9}": "{mem_gb: 2, gpus: 0, cells_per_job: 2}"}
    grid = write_grid(changes)
    launch(grid, tmp_path / "a", str(profile))
    launch(grid, tmp_path / "b", "local")
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    record = json.loads(next((tmp_path / "a/tiny/cells").glob("*.json")).read_text())
    assert record["provenance"]["image"] == image.engine_digest("docker", built)
    assert containers() == []


class TestNothingIsLost:
    """Something ends in the middle of a run; then all cells are done once, and nothing is left."""

    @pytest.fixture
    def running(
        self, built: str, write_grid: Callable[..., Path], tmp_path: Path
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A launch with two containers at work."""
        process = subprocess.Popen(
            launching(write_grid(SMALL), tmp_path), env=environment(), stdout=subprocess.DEVNULL
        )
        wait_for(lambda: len(containers()) == 2 and any((tmp_path / "tiny/claims").glob("[!.]*")))
        yield process
        process.kill()
        process.wait()

    def all_done(self, out: Path) -> None:
        assert [row for row in rows(out) if "done" not in row] == []
        assert len(rows(out)) == 3
        assert containers() == []

    def test_ctrl_c(
        self, running: subprocess.Popen[bytes], write_grid: Callable[..., Path], tmp_path: Path
    ) -> None:
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
        assert containers() == []
        launch(write_grid(SMALL), tmp_path)
        self.all_done(tmp_path)

    def test_a_killed_launcher(
        self, running: subprocess.Popen[bytes], write_grid: Callable[..., Path], tmp_path: Path
    ) -> None:
        running.kill()
        wait_for(lambda: containers() == [], 30)
        launch(write_grid(SMALL), tmp_path)
        self.all_done(tmp_path)

    def test_a_killed_container(self, running: subprocess.Popen[bytes], tmp_path: Path) -> None:
        subprocess.run(["docker", "kill", containers()[0]], capture_output=True, check=True)
        assert running.wait(180) == 0
        self.all_done(tmp_path)

    def test_a_killed_engine(self, running: subprocess.Popen[bytes], tmp_path: Path) -> None:
        pid = int(Path("/run/docker.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        subprocess.run([str(SCRIPT), "up"], capture_output=True, check=True, timeout=60)
        assert running.wait(240) == 0
        self.all_done(tmp_path)


def test_the_probe_holds(built: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster.probe", "docker", "--folder", str(tmp_path)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("shared path", "network refused", "read-only root", "C compiler", "signals"):
        assert f"yes  {line}" in done.stdout


def python(tmp_path: Path, code: str, mem_gb: int = 4, **more: Any) -> Job:
    writes = (str(tmp_path),)
    return Job("test", ("-c", code), tmp_path / "log", writes=writes, mem_gb=mem_gb, **more)


def ended(built: str, job: Job) -> Any:
    """How a job ends in a container."""
    box = sandbox(load_profile("docker"), job, built, {})
    with job.log.open("ab") as log:
        process = subprocess.Popen(
            client(box, job, {}), stdin=subprocess.PIPE, stdout=log, stderr=log
        )
        return meaning(job, process.wait(60))


def test_a_kill_for_memory_is_told_from_others(built: str, tmp_path: Path) -> None:
    over = ended(built, python(tmp_path, "x = bytearray(2 << 30); print(len(x))", mem_gb=1))
    assert (over.code, over.kind) == (-9, "memory")
    again = "import os; print('again', flush=True); os.kill(os.getpid(), 9)"
    over = ended(built, python(tmp_path, again))  # its log goes on where the first one's ended
    assert over.kind == "lost"
    assert ended(built, python(tmp_path, "raise SystemExit(3)")).code == 3


def test_a_folder_that_is_not_there_is_not_made(built: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    over = ended(built, python(tmp_path, "pass", reads=(str(missing),)))
    assert over.kind in ("error", None)
    assert not missing.exists()


def test_an_engine_that_cannot_give_gpus_is_explained(built: str, tmp_path: Path) -> None:
    job = python(tmp_path, "pass")
    line = client(sandbox(load_profile("docker"), job, built, {}), job, {})
    line[2:2] = ["--gpus", "all"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    job.log.write_text(done.stderr)
    over = meaning(job, done.returncode)
    assert over.kind == "error"
    assert "NVIDIA container toolkit" in str(over.cause)
