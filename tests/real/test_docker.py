"""Cells in real Docker containers: the same rows as processes, and nothing lost or left behind.

`tests/real/docker.sh up` and `base-image` start what this needs; without an engine it is skipped.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import image, local
from cluster.backend import Ended, Job
from cluster.code import ROOT, code_files
from cluster.contained import client, meaning, sandbox
from cluster.container import Sandbox, User
from cluster.docker import DockerBackend
from cluster.profile import Container, Profile, load_profile
from cluster.slurm import SlurmBackend
from cluster.yamlfile import InputError
from tests.real.launching import (
    LISTEN,
    LOOK,
    SMALL,
    docker_answers,
    environment,
    launch,
    launching,
    records,
    rows,
    wait_for,
)
from tests.real.slurm_engine import Engine

SCRIPT = Path(__file__).with_name("docker.sh")


def containers() -> list[str]:
    """The containers of our jobs that there are, running or not."""
    listed = ["docker", "ps", "--all", "--quiet", "--filter", "label=calgrid.job"]
    return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()


def own_engine() -> int | None:
    """The process of the engine, where it is one that `docker.sh up` started: it may be killed."""
    state = Path(os.environ.get("CALGRID_ENGINE_STATE", "/var/tmp/calgrid-docker"))
    try:
        pid = int((state / "pid").read_text())
        return pid if Path("/run/docker.pid").read_text().strip() == str(pid) else None
    except OSError:
        return None


WHY = os.environ.get("CALGRID_NO_DOCKER", "tests/real/docker.sh up starts one, as root on Debian")
pytestmark = pytest.mark.skipif(not docker_answers(), reason=f"no Docker engine answers: {WHY}")


def test_rows_equal_those_of_processes(
    built: str, write_grid: Callable[..., Path], expected: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    """Each cell in a container of its own, also where the grid has them share processes."""
    changes = SMALL | {"{cells_per_job: 9}": "{mem_gb: 4, cells_per_job: 9}"}
    launch(write_grid(changes), tmp_path)
    assert rows(tmp_path) == expected
    digest = image.engine_digest("docker", built)
    found = records(tmp_path)
    for record in found:
        assert record["provenance"]["image"] == digest
        assert record["provenance"]["commit"]
    assert len({json.dumps(r["provenance"]) for r in found}) == 1  # and the host is this one
    logs = [p.stem for p in (tmp_path / "tiny/logs").glob("*.log")]
    assert {r["cell"] for r in found} <= set(logs)
    assert containers() == []
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert all(p.stat().st_uid == os.getuid() for p in files)
    assert not any(b"hf_x" in p.read_bytes() for p in files)


def test_the_same_on_slurm_with_docker_as_the_runtime(
    cluster: object,
    built: str,
    write_grid: Callable[..., Path],
    expected: list[tuple[Any, ...]],
    tmp_path: Path,
) -> None:
    """The job is a child of Slurm's, the container a child of the engine's; signals reach both."""
    profile = tmp_path / "site.yaml"
    profile.write_text(f"backend: slurm\ncontainer: {{runtime: docker, image: '{built}'}}\n")
    changes = SMALL | {"{cells_per_job: 9}": "{mem_gb: 2, gpus: 0, cells_per_job: 2}"}
    launch(write_grid(changes), tmp_path, str(profile))
    assert rows(tmp_path) == expected
    digest = image.engine_digest("docker", built)
    assert {record["provenance"]["image"] for record in records(tmp_path)} == {digest}
    assert containers() == []


class TestImage:
    def test_it_says_what_it_was_made_from(self, built: str) -> None:
        inspect = ["docker", "image", "inspect", "--format", "{{json .Config}}", built]
        config = json.loads(subprocess.run(inspect, capture_output=True, check=True).stdout)
        labels = config["Labels"]
        assert len(labels["org.opencontainers.image.revision"]) == 40
        assert len(labels["calgrid.constraints"]) == 64
        assert config["User"] == "1000:1000"

    def test_every_package_is_as_the_lock_says(self, built: str) -> None:
        listed = ["docker", "run", "--rm", built, "python", "-m", "pip", "freeze", "--all"]
        done = subprocess.run(listed, capture_output=True, text=True, check=True)
        installed = set(re.findall(r"^(\S+==\S+)$", done.stdout, re.M))
        lock = {line.lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
        lock |= {re.sub(r"^torch==.*", r"\g<0>+cpu", line) for line in lock}  # and no CUDA
        apart = {line for line in installed if line.lower() not in lock}
        assert {line.split("==")[0] for line in apart} <= {"pip"}  # of the base image

    def test_other_code_in_it_is_refused_by_name(
        self, built: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        container = Container(runtime="docker", image=built)
        image.check_code(container, built)
        monkeypatch.setattr(image, "code_files", lambda: code_files() | {"jobs/cell.py": "0" * 64})
        with pytest.raises(InputError) as error:
            image.prepare(container, False, Path(), print)
        assert "holds other code than this launcher: jobs/cell.py;" in error.value.lines[0]


class TestNothingIsLost:
    """Something ends in the middle of a run; then all cells are done once, and nothing is left."""

    @pytest.fixture
    def running(
        self, built: str, small_grid: Path, tmp_path: Path
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A launch with two containers at work."""
        process = subprocess.Popen(
            launching(small_grid, tmp_path), env=environment(), stdout=subprocess.DEVNULL
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
        self, running: subprocess.Popen[bytes], small_grid: Path, tmp_path: Path
    ) -> None:
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
        assert containers() == []
        launch(small_grid, tmp_path)
        self.all_done(tmp_path)

    def test_a_killed_launcher(
        self, running: subprocess.Popen[bytes], small_grid: Path, tmp_path: Path
    ) -> None:
        running.kill()
        wait_for(lambda: containers() == [], 30)
        launch(small_grid, tmp_path)
        self.all_done(tmp_path)

    def test_a_killed_container(self, running: subprocess.Popen[bytes], tmp_path: Path) -> None:
        subprocess.run(["docker", "kill", containers()[0]], capture_output=True, check=True)
        assert running.wait(180) == 0
        self.all_done(tmp_path)

    @pytest.mark.skipif(own_engine() is None, reason="docker.sh did not start this engine")
    def test_a_killed_engine(self, running: subprocess.Popen[bytes], tmp_path: Path) -> None:
        pid = own_engine()
        assert pid is not None
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


def start(box: Sandbox, job: Job) -> subprocess.Popen[bytes]:
    """The client of a job in a container, its output in the job's log."""
    with job.log.open("ab") as log:
        return subprocess.Popen(client(box, job, {}), stdin=subprocess.PIPE, stdout=log, stderr=log)


def ended(built: str, job: Job) -> Any:
    """How a job ends in a container."""
    process = start(sandbox(load_profile("docker"), job, built, {}), job)
    return meaning(job, process.wait(60))


def test_what_a_job_finds_inside(built: str, tmp_path: Path) -> None:
    """Seen from a running container, as a user whom the image does not know."""
    tmp_path.chmod(0o777)
    job = python(tmp_path, LOOK.format(answer=tmp_path / "seen.json"), mem_gb=1)
    box = sandbox(load_profile("docker"), job, built, {"OMP_NUM_THREADS": "2"})
    box = replace(box, user=User(12345, 23456, (34567,), "ada"), cpuset="0", shm_gb=2)
    assert start(box, job).wait(60) == 0, job.log.read_text()
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["user"] == [12345, 23456, "ada"]
    assert 34567 in seen["groups"]
    owner = (tmp_path / "seen.json").stat()
    assert (owner.st_uid, owner.st_gid) == (12345, 23456)
    assert seen["root"] == "Read-only file system"
    assert seen["home"] == ["/tmp/home", "tmpfs"]
    assert seen["interfaces"] == ["lo"]
    assert seen["way out"] == "Network is unreachable"
    assert seen["shared memory"] == 2 << 30
    assert seen["memory"] == 1 << 30
    assert seen["cpus"] == 2
    assert seen["cores"] == [0]
    assert int(seen["CapEff"], 16) == 0
    assert seen["NoNewPrivs"] == "1"
    assert not any("TOKEN" in name for name in seen["variables"])


def test_signals_reach_a_job(built: str, tmp_path: Path) -> None:
    """Through the engine, and through its client in the foreground."""
    job = python(tmp_path, LISTEN)
    box = sandbox(load_profile("docker"), job, built, {})
    process = start(box, job)
    wait_for(lambda: "ready" in job.log.read_text())
    subprocess.run(["docker", "kill", "--signal=USR1", str(box.name)], check=True)
    wait_for(lambda: "SIGUSR1" in job.log.read_text())
    process.send_signal(signal.SIGUSR2)
    wait_for(lambda: "SIGUSR2" in job.log.read_text())
    since = time.monotonic()
    subprocess.run(["docker", "stop", "--time=30", str(box.name)], check=True)
    assert process.wait(30) == 85
    assert time.monotonic() - since < 15  # it listened, and was not killed when time was up


def test_a_kill_for_memory_is_told_from_others(built: str, tmp_path: Path) -> None:
    over = ended(built, python(tmp_path, "x = bytearray(2 << 30); print(len(x))", mem_gb=1))
    assert (over.code, over.kind) == (-9, "memory")
    again = "import os; print('again', flush=True); os.kill(os.getpid(), 9)"
    over = ended(built, python(tmp_path, again))  # its log goes on where the first one's ended
    assert over.kind == "lost"
    assert ended(built, python(tmp_path, "raise SystemExit(3)")).code == 3


def test_a_job_whose_time_is_up(
    built: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told; what has no ear for it yet ends by that very signal, and that is its cause."""
    monkeypatch.setattr(local, "signal_seconds", lambda minutes: 60 * minutes - 6)
    backend = DockerBackend(load_profile("docker"), tmp_path)
    backend.image = built
    sleep = "import time; time.sleep(600)"
    hear = f"import signal, sys; signal.signal(signal.SIGUSR2, lambda *_: sys.exit(4)); {sleep}"
    jobs = [python(tmp_path, hear), replace(python(tmp_path, sleep), name="deaf")]
    backend.submit([replace(job, timeout_min=1) for job in jobs])
    ended: dict[str, Ended] = {}
    wait_for(lambda: ended.update({e.job.name: e for e in backend.poll()}) or not backend.live())
    assert (ended["test"].kind, ended["test"].code) == (None, 4)
    assert (ended["deaf"].kind, ended["deaf"].code) == ("timeout", -signal.SIGUSR2)
    assert "raise resources.timeout_min" in str(ended["deaf"].cause)
    assert containers() == []


def test_a_job_whose_time_is_up_on_slurm(engine: Engine, built: str, tmp_path: Path) -> None:
    container = Container(runtime="docker", image=built)
    backend = SlurmBackend(Profile(backend="slurm", container=container), tmp_path)
    deaf = "import time; print('ready', flush=True); time.sleep(600)"
    job = python(tmp_path, deaf, mem_gb=1, timeout_min=1)
    backend.submit([job])
    wait_for(lambda: job.log.is_file() and "ready" in job.log.read_text())
    engine.run("scancel", "--signal=USR2", backend.arrays[0].id)  # as Slurm does near the end
    ended: list[Ended] = []
    wait_for(lambda: ended.extend(backend.poll()) or ended)
    assert [one.kind for one in ended] == ["timeout"]  # and it is not requeued
    assert containers() == []


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
