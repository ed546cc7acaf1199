"""A whole run: launch, relaunch, collect, keep, fail, interrupt."""

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
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs import cancel, collect, launch
from jobs.run import RunFolder
from jobs.store import schema

ROOT = Path(__file__).parents[2]


def query(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(database), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def contents(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {t: sorted(query(database, f"FROM {t}"), key=repr) for t in [*schema.TABLES, "results"]}


def stamps(run: Path) -> dict[str, int]:
    paths = [*run.glob("cells/*"), *run.glob("evaluations/*/*")]
    return {str(p): p.stat().st_mtime_ns for p in paths}


def test_results_have_one_row_a_cell(finished_run: Path) -> None:
    rows = query(
        finished_run / "results.duckdb",
        "SELECT pruner, dataset, seed, size, seqlen, status, achieved_sparsity, similarity, "
        "mean_accuracy, ppl_farm, gpu_seconds FROM results",
    )
    assert len(rows) == 6
    assert all(row[5] == "done" and row[9] > 1 for row in rows)
    shared = {row[0]: row[1:5] for row in rows if row[0] in ("dense", "magnitude")}
    assert shared == {"dense": (None,) * 4, "magnitude": (None,) * 4}
    wanda = {row[1:3] for row in rows if row[0] == "wanda"}
    assert wanda == {("farm", 0), ("farm", 1), ("city", 0), ("city", 1)}
    assert all(row[6] == 0.5 for row in rows if row[0] != "dense")
    near = {row[1]: row[7] for row in rows if row[0] == "wanda"}
    assert near["farm"] > near["city"]


def test_every_column_has_a_comment(finished_run: Path) -> None:
    silent = query(
        finished_run / "results.duckdb",
        "SELECT table_name, column_name FROM duckdb_columns() "
        "WHERE comment IS NULL AND NOT internal",
    )
    assert silent == []


def test_calibration_sets_are_stored_and_readable(finished_run: Path, tiny_model: Path) -> None:
    folders = list((finished_run / "calibration").iterdir())
    assert len(folders) == 4
    for folder in folders:
        with safe_open(folder / "ids.safetensors", "pt") as file:
            ids = file.get_tensor("input_ids")
        assert ids.dtype == torch.int32
        assert ids.shape == (4, 32)
        manifest = json.loads((folder / "manifest.json").read_text())
        assert [sum(n for _, _, n in window) for window in manifest["windows"]] == [32] * 4
        readable = query(
            finished_run / "results.duckdb",
            f"SELECT text FROM windows WHERE calibration = '{folder.name}' ORDER BY number",
        )
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        assert [t for (t,) in readable] == [*tokenizer.batch_decode(ids[:3]), None]


def test_a_kept_model_is_the_masked_dense_model(finished_run: Path, tiny_model: Path) -> None:
    dense = dict(AutoModelForCausalLM.from_pretrained(tiny_model).named_parameters())
    wanted = "SELECT cell FROM results WHERE pruner = 'magnitude'"
    ((cell,),) = query(finished_run / "results.duckdb", wanted)
    pruned = AutoModelForCausalLM.from_pretrained(finished_run / "models" / cell)
    for name, weight in pruned.named_parameters():
        masked = dense[name].masked_fill(weight == 0, 0) if "proj" in name else dense[name]
        assert torch.equal(weight, masked)
        if "proj" in name:
            assert int((weight == 0).sum()) == weight.numel() // 2
    kept = {p.name for p in (finished_run / "models").iterdir() if not p.name.startswith(".")}
    ((dense_cell,),) = query(
        finished_run / "results.duckdb", "SELECT cell FROM results WHERE pruner = 'dense'"
    )
    assert len(kept) == 5
    assert dense_cell not in kept


def test_collecting_again_gives_the_same_database(finished_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs" / "tiny"
    shutil.copytree(finished_run, copy)
    first = contents(copy / "results.duckdb")
    assert collect.main([str(copy)]) == 0
    assert contents(copy / "results.duckdb") == first
    (copy / "results.duckdb").unlink()
    assert collect.main([str(copy)]) == 0
    assert contents(copy / "results.duckdb") == first


@pytest.mark.usefixtures("here")
class TestRelaunch:
    def launch(self, grid: Path, out: Path, *options: str) -> int:
        return launch.main([str(grid), "--out", str(out), *options])

    def test_nothing_runs_twice(self, write_grid: Callable[..., Path], tmp_path: Path) -> None:
        grid = write_grid()
        assert self.launch(grid, tmp_path) == 0
        before, first = stamps(tmp_path / "tiny"), contents(tmp_path / "tiny" / "results.duckdb")
        assert self.launch(grid, tmp_path) == 0
        assert stamps(tmp_path / "tiny") == before
        assert contents(tmp_path / "tiny" / "results.duckdb") == first

    @pytest.mark.parametrize("keep", ["masks", "models"])
    def test_a_new_text_prunes_nothing_that_was_kept(
        self,
        write_grid: Callable[..., Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        keep: str,
    ) -> None:
        kept = {"keep: none": f"keep: {keep}"}
        assert self.launch(write_grid(kept), tmp_path) == 0
        more = write_grid(kept | {"perplexity: [farm]": "perplexity: [farm, city]"})
        assert self.launch(more, tmp_path / "anew") == 0
        before = stamps(tmp_path / "tiny")
        with monkeypatch.context() as patch:
            patch.setattr("jobs.stages.prune.prune_model", None)  # pruning would raise
            assert self.launch(more, tmp_path) == 0
        after = stamps(tmp_path / "tiny")
        assert {k: after[k] for k in before} == before
        wanted = "SELECT cell, ppl_farm, ppl_city FROM results ORDER BY ALL"
        found = [
            query(d / "tiny" / "results.duckdb", wanted) for d in (tmp_path, tmp_path / "anew")
        ]
        assert found[0] == found[1]

    def test_keep_on_a_finished_run_keeps_and_scores_nothing_again(
        self, write_grid: Callable[..., Path], tmp_path: Path
    ) -> None:
        assert self.launch(write_grid(), tmp_path) == 0
        before = stamps(tmp_path / "tiny")
        for keep in ("masks", "models"):
            assert self.launch(write_grid({"keep: none": f"keep: {keep}"}), tmp_path) == 0
            kept = [p for p in (tmp_path / "tiny" / keep).iterdir() if p.name[0] != "."]
            assert len(kept) == 5
        assert stamps(tmp_path / "tiny") == before

    def test_cells_that_left_the_grid_leave_the_results(
        self, write_grid: Callable[..., Path], tmp_path: Path
    ) -> None:
        assert self.launch(write_grid(), tmp_path) == 0
        assert self.launch(write_grid({"seed: [0, 1]": "seed: [0]"}), tmp_path) == 0
        database = tmp_path / "tiny" / "results.duckdb"
        assert len(query(database, "FROM results")) == 4
        assert query(database, "SELECT count(*) FROM cells WHERE NOT in_grid") == [(2,)]

    def test_a_failing_cell_does_not_stop_the_others(
        self,
        write_grid: Callable[..., Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        from jobs.stages.calibration import Stages

        whole = Stages.calibration

        def broken(self: Stages, draw: Any, model: str) -> Any:
            if draw.dataset == "city":
                raise ValueError("the city is closed")
            return whole(self, draw, model)

        with monkeypatch.context() as patch:
            patch.setattr(Stages, "calibration", broken)
            assert self.launch(write_grid(), tmp_path) == 1
        assert "2 failed: ValueError: the city is closed" in capsys.readouterr().out
        database = tmp_path / "tiny" / "results.duckdb"
        assert query(database, "SELECT count(*) FROM results WHERE status = 'done'") == [(4,)]
        assert query(database, "SELECT DISTINCT cause FROM failures") == [
            ("ValueError: the city is closed",)
        ]
        assert self.launch(write_grid(), tmp_path) == 0  # whole again, it succeeds

    def test_what_fails_twice_alike_is_not_tried_again_unasked(
        self, write_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from jobs.stages.calibration import Stages

        def broken(self: Stages, draw: Any, model: str) -> Any:
            raise ValueError("always")

        monkeypatch.setattr(Stages, "calibration", broken)
        run = tmp_path / "tiny"
        for launches, attempts in ((1, 4), (2, 8), (3, 8)):
            assert self.launch(write_grid(), tmp_path) == 1, launches
            assert len(list((run / "failures").iterdir())) == attempts
        assert self.launch(write_grid(), tmp_path, "--retry-failed") == 1
        assert len(list((run / "failures").iterdir())) == 12

    def test_a_damaged_record_is_left_out_and_named(
        self, write_grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.launch(write_grid(), tmp_path) == 0
        record = sorted((tmp_path / "tiny" / "cells").glob("*.json"))[0]
        record.write_text("{")
        assert collect.main([str(tmp_path / "tiny")]) == 1
        assert str(record) in capsys.readouterr().err
        rows = query(
            tmp_path / "tiny" / "results.duckdb", "SELECT status, count(*) FROM results GROUP BY 1"
        )
        assert dict(rows) == {"done": 5, "missing": 1}


def start(grid: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs.launch", str(grid), "--out", str(out)]
    command += ["--cluster", "local"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_interrupted_run_resumes(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    grid, run = write_grid(), tmp_path / "tiny"
    process = start(grid, tmp_path)
    wait_for(lambda: any(run.glob("cells/*.json")))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert not list((run / "claims").glob("*"))
    done = stamps(run)
    assert start(grid, tmp_path).wait(120) == 0
    after = stamps(run)
    assert {k: after[k] for k in done} == done
    assert len(query(run / "results.duckdb", "FROM results WHERE status = 'done'")) == 6


def test_a_killed_worker_is_charged_for_one_cell_only(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    grid, run = write_grid(), tmp_path / "tiny"
    process = start(grid, tmp_path)
    wait_for(lambda: any((run / "claims").glob("*")))
    (claim, *_) = (run / "claims").glob("*")
    os.kill(json.loads(claim.read_text())["pid"], signal.SIGKILL)
    assert process.wait(120) == 1
    (failure,) = [json.loads(p.read_text()) for p in (run / "failures").iterdir()]
    assert "signal 9" in failure["cause"]
    assert len(query(run / "results.duckdb", "FROM results WHERE status = 'done'")) == 5
    assert start(grid, tmp_path).wait(120) == 0  # lost work runs again


def test_a_local_run_is_cancelled_by_a_word_to_its_launcher(
    finished_run: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "tiny")
    run.path.mkdir()
    shutil.copy(finished_run / "launch.json", run.path)
    assert cancel.main([str(run.path)]) == 0
    stop = run.read_stop()
    assert stop is not None
    assert stop["reason"] == "cancelled"


def test_two_launches_at_once_do_no_harm(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    grid = write_grid()
    launches = [start(grid, tmp_path) for _ in range(2)]
    assert [process.wait(180) for process in launches] == [0, 0]
    run = RunFolder(tmp_path / "tiny")
    assert len(query(run.database, "FROM results WHERE status = 'done'")) == 6
    assert query(run.database, "SELECT count(*) FROM evaluations") == [(6,)]
    assert not (run.path / "failures").exists()
