"""Published figures are read whole, and a difference stands only against a like row."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import duckdb
import pytest

from analysis import published
from jobs import launch
from tests.analysis.databases import make_database

GRIDS = Path(launch.__file__).parent / "grids"


def test_every_pack_with_published_figures_is_a_grid() -> None:
    assert set(published.packs()) <= {p.stem for p in GRIDS.glob("*.yaml")}
    assert len(published.packs()) > 9


@pytest.mark.parametrize("pack", published.packs())
def test_published_figures_are_whole(pack: str) -> None:
    rows = published.read(pack)
    assert rows
    for row in rows:
        assert all([row.source, row.where, row.trust, row.model, row.metric])
        assert row.value is not None or (row.low is not None and row.high is not None)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A run of some/model-7B, with settings as the publication below has them."""
    path = make_database(tmp_path / "made.duckdb", cells=405)
    with duckdb.connect(str(path)) as connection:
        task = {"bos": "none", "limit": None, "harness": "0.4.13", "num_fewshot": 0}
        text = {"bos": "none", "limit": None, "seqlen": 2048}
        for kind, settings in (("task", task), ("text", text)):
            connection.execute(
                "UPDATE evaluations SET settings = ? WHERE kind = ?", [json.dumps(settings), kind]
            )
    return path


def line(database: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> dict[str, str]:
    """The row that a published figure like the run's, but for `changes`, gets."""
    like: dict[str, object] = dict.fromkeys(published.Published.__dataclass_fields__)
    like |= {"source": "S", "where": "W", "trust": "T", "model": "model-7B", "dataset": "c4"}
    like |= {"pruner": "wanda", "sparsity": 0.6, "pattern": "unstructured", "size": 128}
    like |= {"seqlen": 2048, "sampler": "stream", "draws": 2, "metric": "ppl_wikitext2"}
    like |= {"value": 8.0, "eval_seqlen": 2048, "bos": "none"}
    row = published.Published(**(like | changes))  # type: ignore[arg-type]
    monkeypatch.setattr(published, "read", lambda pack: [row])
    monkeypatch.setattr(published, "packs", lambda: ["made"])
    out = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", out)
        assert published.main([str(database), "--format", "csv"]) == 0
    (found,) = csv.DictReader(io.StringIO(out.getvalue()))
    return found


def test_a_like_row_has_a_difference(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = line(made, monkeypatch)
    with duckdb.connect(str(made), read_only=True) as connection:
        ((ours,),) = connection.execute(
            "SELECT avg(ppl_wikitext2) FROM results WHERE recipe = 'wanda' AND dataset = 'c4' "
            "AND sparsity = 0.6 AND size = 128"
        ).fetchall()
    assert found["difference"] == f"{ours - 8.0:+.2f}"
    assert found["not comparable because"] == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seqlen": 4096}, "seqlen 2048 here, 4096 published"),
        ({"bos": "add"}, "BOS none here, add published"),
        ({"bos": None}, "does not say the BOS"),
        ({"sampler": "document"}, "sampler stream here, document published"),
        ({"draws": 20}, "2 draws here, 20 published"),
        ({"draws": None}, "does not say how many draws"),
        ({"eval_seqlen": 4096}, "window length 2048 here, 4096 published"),
        ({"dataset": "any"}, "names no source"),
        (
            {"metric": "mean_accuracy", "value": 60.0, "harness": "0.3", "tasks": "boolq arc_easy"},
            "lm-eval 0.4.13 here, 0.3 published",
        ),
        (
            {"metric": "mean_accuracy", "value": 60.0, "harness": "0.4", "tasks": "boolq piqa"},
            "the mean is over arc_easy, boolq here",
        ),
    ],
)
def test_an_unlike_row_has_none_and_says_why(
    made: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], reason: str
) -> None:
    found = line(made, monkeypatch, **changes)
    assert found["difference"] == ""
    assert reason in found["not comparable because"]
    assert found["ours"] != "not run"


def test_accuracies_are_compared_in_points(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = {"metric": "mean_accuracy", "harness": "0.4", "tasks": "arc_easy boolq"}
    found = line(made, monkeypatch, value=60.0, **same)
    assert found["not comparable because"] == ""
    assert abs(float(found["difference"])) < 20


def test_what_was_not_run_is_said(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert line(made, monkeypatch, sparsity=0.9)["ours"] == "not run"


def test_a_run_without_published_figures(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        published.main([str(made)])
    assert stop.value.code == 2
    assert "ji2025-gaps" in capsys.readouterr().err
