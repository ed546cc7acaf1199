"""Cells that cannot be measured are failures with a cause that a person understands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from transformers import AutoModelForCausalLM

from jobs import cell, collect, launch

Write = Callable[..., Path]


@pytest.fixture
def nan_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model, whose last norm holds a NaN."""
    shutil.copytree(tiny_model, tmp_path / "nan")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.model.norm.weight.data[3] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    return tmp_path / "nan"


def causes(run: Path) -> set[str]:
    return {json.loads(path.read_text())["cause"] for path in (run / "failures").iterdir()}


@pytest.mark.usefixtures("here")
def test_a_model_of_nans_has_no_perplexity(
    write_grid: Write, tiny_model: Path, nan_model: Path, tmp_path: Path
) -> None:
    assert launch.main([str(write_grid({str(tiny_model): str(nan_model)})), "--out", str(tmp_path)])
    (cause,) = causes(tmp_path / "tiny")
    assert "NaN" in cause
    assert "log-likelihoods" in cause
    assert list((tmp_path / "tiny").glob("evaluations/*/*")) == []


@pytest.mark.usefixtures("here")
def test_a_text_that_went_away_fails_its_own_cells_only(
    write_grid: Write, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs import drive

    shutil.copytree(corpora, tmp_path / "texts")
    city = tmp_path / "texts" / "city.jsonl"
    grid = write_grid({f"{corpora}/city.jsonl": str(city)})
    whole = drive.to_run

    def planned_then_deleted(*arguments: object) -> object:
        city.unlink()
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(drive, "to_run", planned_then_deleted)
    assert launch.main([str(grid), "--out", str(tmp_path)]) == 1
    assert len(list((tmp_path / "tiny" / "cells").glob("*.json"))) == 4
    assert all("city.jsonl" in cause for cause in causes(tmp_path / "tiny"))


@pytest.mark.usefixtures("here")
def test_a_damaged_record_is_no_success(
    write_grid: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = write_grid()
    assert launch.main([str(grid), "--out", str(tmp_path)]) == 0
    record = min((tmp_path / "tiny" / "cells").glob("*.json"))
    record.write_text("{")
    assert launch.main([str(grid), "--out", str(tmp_path)]) == 1
    assert f"set aside, since it cannot be read: {record}" in capsys.readouterr().out
    assert not record.exists()
    assert launch.main([str(grid), "--out", str(tmp_path)]) == 0
    assert json.loads(record.read_text())["cell"] == record.stem


LOSSES: dict[str, Callable[[Path], None]] = {
    "a record": lambda run: min(run.glob("datasets/*.json")).write_text("{"),
    "a table": lambda run: min(run.glob("datasets/*.parquet")).write_bytes(b"PAR1"),
    "a manifest": lambda run: min(run.glob("calibration/*/manifest.json")).unlink(),
    "half a set": lambda run: min(run.glob("calibration/*/ids.safetensors")).write_bytes(b"x"),
    "a folder": lambda run: shutil.rmtree(min(run.glob("calibration/*"))),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("lost", LOSSES)
def test_what_is_lost_of_text_is_made_again_and_nothing_else(
    finished_run: Path, tmp_path: Path, lost: str
) -> None:
    shutil.copytree(finished_run.parent, tmp_path / "runs")
    run, grid = tmp_path / "runs" / "tiny", finished_run.parents[1] / "grid.yaml"
    before, texts = _times(run), _contents(run)
    LOSSES[lost](run)
    collect.main([str(run)])  # finds what is damaged, and sets it aside
    assert _contents(run) != texts
    assert launch.main([str(grid), "--out", str(tmp_path / "runs")]) == 0
    assert _contents(run) == texts
    assert _times(run) == before
    with duckdb.connect(str(run / "results.duckdb"), read_only=True) as connection:
        sets = "SELECT count(DISTINCT calibration) FROM windows"
        counts = f"SELECT (SELECT count(*) FROM pools), ({sets})"
        assert connection.execute(counts).fetchall() == [(2, 4)]


def _times(run: Path) -> dict[str, int]:
    """When what was computed with a model was written."""
    paths = [*run.glob("cells/*"), *run.glob("evaluations/*/*"), *run.glob("models/*/*")]
    return {str(path): path.stat().st_mtime_ns for path in paths}


def _contents(run: Path) -> dict[str, bytes]:
    """What is kept of text."""
    paths = [*run.glob("datasets/*"), *run.glob("calibration/*/[a-z]*")]
    return {str(path): path.read_bytes() for path in paths}


def test_unknown_cells_and_runs_are_refused(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in (
        ([str(finished_run), "0123456789abcdef"], "not in the grid"),
        ([str(tmp_path), "0123456789abcdef"], "no plan.json"),
    ):
        with pytest.raises(SystemExit) as stop:
            cell.main(arguments)
        assert stop.value.code == 2
        assert said in capsys.readouterr().err


def test_a_cell_that_is_done_is_left_alone(finished_run: Path) -> None:
    record = min((finished_run / "cells").glob("*.json"))
    before = record.stat().st_mtime_ns
    assert cell.main([str(finished_run), record.stem]) == 0
    assert record.stat().st_mtime_ns == before


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["texts/city.jsonl", "model/config.json"])
def test_what_changes_after_the_plan_is_not_taken_for_what_was_planned(
    write_grid: Write,
    corpora: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    from jobs import drive

    shutil.copytree(corpora, tmp_path / "texts")
    shutil.copytree(tiny_model, tmp_path / "model")
    grid = write_grid({f"{corpora}/city": f"{tmp_path}/texts/city", str(tiny_model): "model"})
    whole, planned = drive.to_run, (tmp_path / name).read_text()
    assert launch.main([str(grid), "--out", str(tmp_path / "first")]) == 0

    def planned_then_changed(*arguments: object) -> object:
        (tmp_path / name).write_text(planned + planned[-1])
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(drive, "to_run", planned_then_changed)
    assert launch.main([str(grid), "--out", str(tmp_path / "second")]) == 1
    assert any(f"{name} changed since" in x for x in causes(tmp_path / "second" / "tiny"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(planned)  # written anew: another time, the same content
    assert launch.main([str(grid), "--out", str(tmp_path / "second"), "--retry-failed"]) == 0
    assert _science(tmp_path / "first") == _science(tmp_path / "second")


def _science(runs: Path) -> dict[str, object]:
    read = (json.loads(path.read_text()) for path in (runs / "tiny" / "cells").glob("*.json"))
    return {record["cell"]: record["calibration"] for record in read}
