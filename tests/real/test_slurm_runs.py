"""Runs on a real Slurm: the rows of a grid are those of local processes, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cluster.profile import Profile
from cluster.slurm import SlurmBackend
from jobs import cancel, launch, work
from jobs.drive import State, drive, to_run
from jobs.plan.plan import Plan
from jobs.run import RunFolder
from tests.real.slurm_engine import Engine

ROOT = Path(__file__).parents[2]
SMALL = ["--set", "resources={gpus: 1, mem_gb: 2, timeout_min: 30, cells_per_job: 3}"]
ROWS = "SELECT cell, recipe, dataset, seed, status, similarity, ppl_farm FROM results ORDER BY cell"

Write = Callable[..., Path]


def query(run: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(run / "results.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_grid_gives_the_rows_that_local_processes_give(
    engine: Engine, write_grid: Write, finished_run: Path, tmp_path: Path
) -> None:
    assert (
        launch.main([str(write_grid()), "--cluster", "slurm", "--out", str(tmp_path), *SMALL]) == 0
    )
    run = tmp_path / "tiny"
    assert query(run, ROWS) == query(finished_run, ROWS)
    assert not engine.run("squeue", "-h", "-n", "calgrid-tiny")
    shared = list((tmp_path / "artefacts" / "shared").iterdir())
    assert len(shared) == 2  # the text of each dataset was built once, before the cells
    assert not list((run / "failures").glob("*"))
    packed = [path.name for path in (run / "slurm").glob("2*")]
    assert packed
    assert all(name.endswith(".tar.gz") for name in packed)


def test_nothing_is_lost_when_launcher_and_cell_are_killed(
    engine: Engine, write_grid: Write, finished_run: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "jobs.launch", str(write_grid()), "--cluster", "slurm"]
    command += ["--out", str(tmp_path), *SMALL]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    run = tmp_path / "tiny"
    until(lambda: any((run / "claims").glob("*")))
    process.kill()  # the launcher
    process.wait()
    (claim, *_) = (run / "claims").glob("*")
    victim = claim.name
    os.kill(json.loads(claim.read_text())["pid"], signal.SIGKILL)  # and what it watched
    until(lambda: (run / "results.duckdb").is_file())  # by the job that runs at last
    until(lambda: not engine.run("squeue", "-h", "-n", "calgrid-tiny-collect,calgrid-tiny"))
    status = dict(query(run, "SELECT cell, status FROM results"))
    assert status.pop(victim) == "failed"  # the job that settles leaves it to a person
    assert set(status.values()) == {"done"}
    assert query(run, "SELECT cell, kind FROM failures") == [(victim, "killed")]
    assert (
        launch.main([str(write_grid()), "--cluster", "slurm", "--out", str(tmp_path), *SMALL]) == 0
    )
    assert query(run, ROWS) == query(finished_run, ROWS)


def test_a_cancelled_run_leaves_the_queue(
    engine: Engine, write_grid: Write, tmp_path: Path
) -> None:
    arguments = [str(write_grid()), "--cluster", "slurm", "--out", str(tmp_path), *SMALL]
    assert launch.main([*arguments, "--detach"]) == 0
    assert engine.run("squeue", "-h", "-n", "calgrid-tiny")
    assert cancel.main([str(tmp_path / "tiny")]) == 0
    until(lambda: not engine.run("squeue", "-h"), 40)
    assert not list((tmp_path / "tiny").glob("failures/*"))


CELL = """
import json, shutil, sys, time
from pathlib import Path
run, *keys = sys.argv[1:]
run = Path(run)
deeds = json.loads((run / "deeds.json").read_text())
for key in keys:
    starts = run / f"{key}.starts"
    starts.open("a").write("x")
    deed = deeds.get(key, "")
    if deed == "memory" and len(starts.read_text()) == 1:
        data = b"x" * 1_500_000_000
        time.sleep(60)
    if deed == "slow":
        time.sleep(8)
    if deed == "die":
        print("no luck", flush=True)
        sys.exit(7)
    for part in (f"evaluations/{key}", f"cells/{key}.parquet", f"cells/{key}.json"):
        source = run / "finished" / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, run / part)
"""
"""Stands for jobs.cell where the launcher is what is tested: quick, and dies to order."""


@pytest.fixture
def ordered(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[RunFolder, State]]:
    """Drive the finished run's cells anew, each doing what it is told to."""
    run = RunFolder(tmp_path / "runs" / "tiny")
    for part in ("cells", "evaluations"):
        shutil.copytree(finished_run / part, run.path / "finished" / part)
        (run.path / part).mkdir()
    for part in ("calibration", "similarity", "datasets"):  # it makes no text
        shutil.copytree(finished_run / part, run.path / part)
    plan = RunFolder(finished_run).read_plan()
    run.write_plan(plan.model_copy(update={"keep": "none"}))  # what stands for a cell keeps nothing
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)  # where Slurm starts the jobs, and Python looks first
    (tmp_path / "jobs" / "cell.py").write_text(CELL)
    monkeypatch.setattr(work, "import_path", lambda _: str(tmp_path))
    monkeypatch.setattr(work, "shared_by", lambda *_: {})

    def go(deed: Callable[[int], str], per_job: int, **keys: Any) -> tuple[RunFolder, State]:
        plan = run.read_plan()
        deeds = {key: deed(i) for i, key in enumerate(plan.cells)}
        (run.path / "deeds.json").write_text(json.dumps(deeds))
        resources = plan.resources.model_copy(update={"mem_gb": 1, "cells_per_job": per_job})
        _drive(run, plan.model_copy(update={"resources": resources}), state := State(), keys)
        return run, state

    return go


def _drive(run: RunFolder, plan: Plan, state: State, keys: dict[str, Any]) -> None:
    cells = {key: plan.cell(key) for key in plan.cells}
    vars(state).update(vars(to_run(run, plan, retry_failed=False)))
    drive(run, plan, cells, state, SlurmBackend(Profile(backend="slurm", **keys), run.path))


def test_what_was_killed_for_memory_runs_once_more_with_more(
    engine: Engine, ordered: Callable[..., tuple[RunFolder, State]]
) -> None:
    by_kernel = {"nodelist": "n3"} if engine.kernel_limits else {}  # test_slurm_jobs.py polls
    run, state = ordered(lambda i: "memory" if i == 1 else "", per_job=3, sbatch=by_kernel)
    assert (len(state.done), len(state.failed)) == (6, 0)
    (failure,) = [json.loads(path.read_text()) for path in (run.path / "failures").iterdir()]
    assert failure["kind"] == "memory"
    if engine.kernel_limits:
        until(lambda: "OUT_OF_MEMORY" in engine.run("sacct", "-n", "-o", "State%20"))
    assert {p.read_text() for p in run.path.glob("*.starts")} == {"x", "xx"}


def test_five_cells_that_fail_alike_hold_the_run(
    engine: Engine, ordered: Callable[..., tuple[RunFolder, State]]
) -> None:
    run, state = ordered(lambda i: "die" if i < 5 else "slow", per_job=1, concurrency=1)
    assert len(state.failed) == 5
    assert len(state.queued) + len(state.done) == 1  # Slurm may have started it before the hold
    stop = run.read_stop()
    assert stop is not None
    assert "5 cells in a row" in stop["cause"]
    assert "no luck" in stop["cause"]
