"""Real engines, where this machine has them running; otherwise these tests are skipped, and say so.

`.ci/run` starts them. By hand: eval "$(python3 tests/real/slurm_engine.py up)"
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster import image, silence, slurm
from cluster.code import PACKAGES, ROOT
from cluster.profile import load_profile
from tests.real.launching import BASE_IMAGE, SMALL, docker_answers, launch, rows
from tests.real.slurm_engine import Engine


@pytest.fixture(scope="session")
def cluster() -> Engine:
    """The Slurm that `slurm_engine.py up` started."""
    root = os.environ.get("CALGRID_SLURM_ROOT")
    if root is None:
        start = 'eval "$(python3 tests/real/slurm_engine.py up)" starts one, as root'
        pytest.skip(f"no Slurm: {os.environ.get('CALGRID_NO_SLURM', start)}")
    return Engine(Path(root), int(os.environ.get("CALGRID_SLURM_PORT", "26817")))


@pytest.fixture
def engine(cluster: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The cluster, empty and whole again after each test; silence is short here."""
    monkeypatch.setattr(silence, "QUIET_SECONDS", 2.0)
    monkeypatch.setattr(silence, "MOST_QUIET_SECONDS", 4.0)
    monkeypatch.setattr(silence, "ABSENT_SECONDS", 3.0)
    monkeypatch.setattr(silence, "VANISHED_SECONDS", 8.0)
    monkeypatch.setattr(slurm, "RETRY_SECONDS", 2.0)
    yield cluster
    cluster.run("scancel", "--user=root", check=False)
    cluster.run("scancel", "--user=root", "--signal=KILL", "--full", check=False)
    cluster.wait("empty queue", lambda: not cluster.run("squeue", "-h"))
    cluster.run("scontrol", "update", "nodename=n[1-3]", "state=resume", check=False)


@pytest.fixture(scope="session")
def built() -> str:
    """The Docker image of this code, built if it is missing."""
    if not docker_answers():
        pytest.skip("no Docker engine answers here: tests/real/docker.sh up starts one, as root")
    if image.engine_digest("docker", BASE_IMAGE) is None:
        pytest.skip(f"no image {BASE_IMAGE} to build on: tests/real/docker.sh base-image makes it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASE_IMAGE", BASE_IMAGE)
        steps: list[str] = []
        name, digest = image.prepare(load_profile("docker").container, False, Path(), steps.append)
    assert digest.startswith("sha256:")
    return name


SOURCES = (*PACKAGES, "apptainer.def", "constraints.txt", "pyproject.toml", "README.md", "LICENSE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the image for Apptainer comes last: it is built while others wait for Slurm."""
    items.sort(key=_needs_sif)


def _needs_sif(item: pytest.Item) -> bool:
    return "sif" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session", autouse=True)
def _sif_in_time(request: pytest.FixtureRequest) -> None:
    """Start to build that image before the first test, where any test wants it and it can be."""
    if shutil.which("apptainer") and any(map(_needs_sif, request.session.items)):
        with suppress(pytest.skip.Exception):
            request.getfixturevalue("sif_build")


@pytest.fixture(scope="session")
def sif_build(built: str) -> Iterator[Future[Path]]:
    """The image of this code for Apptainer, being built."""
    with (
        tempfile.TemporaryDirectory(prefix="calgrid-", dir="/var/tmp") as folder,
        ThreadPoolExecutor(1) as thread,
    ):
        yield thread.submit(build_sif, built, Path(folder))


@pytest.fixture(scope="session")
def sif(sif_build: Future[Path]) -> Path:
    """The image of this code for Apptainer."""
    return sif_build.result()


def build_sif(built: str, folder: Path) -> Path:
    """Build by apptainer.def, which nobody needs to be root for; not compressed, which is faster.

    It starts from what `docker save` wrote, in which its steps find every package already.
    """
    folder.chmod(0o755)
    for source in (ROOT / part for part in SOURCES):
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / source.name)
    base = folder / "base.tar"
    subprocess.run(["docker", "save", built, "--output", str(base)], check=True)
    user = {"user": "nobody", "group": "nogroup"} if os.getuid() == 0 else {}
    if user:
        subprocess.run(["chown", "--recursive", "nobody:nogroup", str(folder)], check=True)
    arguments = {"BOOTSTRAP": "docker-archive", "BASE_IMAGE": str(base), "TORCH": "cpu"}
    options = [part for k, v in arguments.items() for part in ("--build-arg", f"{k}={v}")]
    options += ["--mksquashfs-args", "-noI -noD -noF -noX"]
    temporary = dict.fromkeys(("HOME", "APPTAINER_TMPDIR", "APPTAINER_CACHEDIR"), str(folder))
    done = subprocess.run(
        ["nice", "-n", "19", "apptainer", "build", *options, "calgrid.sif", "apptainer.def"],
        cwd=folder,
        env=os.environ | temporary,
        capture_output=True,
        text=True,
        check=False,
        **user,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    base.unlink()
    return folder / "calgrid.sif"


@pytest.fixture
def small_grid(write_grid: Callable[..., Path]) -> Path:
    """A grid of three cells."""
    return write_grid(SMALL)


@pytest.fixture(scope="session")
def expected(grid_text: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """The rows of that grid, by processes on this machine."""
    folder = tmp_path_factory.mktemp("expected")
    for old, new in SMALL.items():
        grid_text = grid_text.replace(old, new)
    (folder / "grid.yaml").write_text(grid_text, "utf-8")
    launch(folder / "grid.yaml", folder / "runs", "local")
    found = rows(folder / "runs")
    assert len(found) == 3
    return found
