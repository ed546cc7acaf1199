"""Window lengths and samplers that a grid lists are settings of their own, never draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis.compare import main
from analysis.data import ESTIMANDS, Data, Row
from analysis.query import ask, named_queries
from analysis.report.data import read
from analysis.results import Results
from analysis.scores import opened, scores
from analysis.tables import TABLES
from jobs.show import example_query, results_table
from tests.analysis.conftest import write_database

CELLS = {"dataset": ["a", "b", "c", "d"], "pruner": ["magnitude", "wanda", "sparsegpt"]}
CELLS |= {"sparsity": 0.5, "size": [8, 16], "seed": [0, 1, 2]}
SETTINGS = [(n, s) for n in (32, 64) for s in ("document", "stream")]
AVERAGED = ("datasets", "errors", "gaps", "masks", "sizes", "similarity", "synthetic", "variance")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every dataset in two window lengths, and with both samplers."""
    both = {"seqlen": [32, 64], "sampler": ["stream", "document"]}
    folder = tmp_path_factory.mktemp("several") / "written"
    return write_database(folder, cells=CELLS, calibration=both).database


def asked(database: Path, name: str, **wanted: Any) -> list[Row]:
    columns, found = ask(database, named_queries()[name])
    records = [dict(zip(columns, row, strict=True)) for row in found]
    return [r for r in records if all(r[key] == value for key, value in wanted.items())]


@pytest.mark.parametrize("name", AVERAGED)
def test_queries_keep_them_apart(several: Path, name: str) -> None:
    found = asked(several, name)
    if name == "errors":  # of methods without data too
        found = [r for r in found if r["dataset"] is not None]
    samplers = "sampler_a" if name == "masks" else "sampler"
    assert {(r["seqlen"], r[samplers]) for r in found} == set(SETTINGS)
    if "draws" in found[0]:
        assert {r["draws"] for r in found} == {3}


def test_planted_effects_of_both_are_in_the_means_not_in_the_spread(several: Path) -> None:
    of = {"score": "sciq", "recipe": "wanda", "size": 8, "dataset": "a"}
    found = {(r["seqlen"], r["sampler"]): r for r in asked(several, "datasets", **of)}
    base = found[32, "stream"]["mean"]
    assert found[64, "stream"]["mean"] - base == pytest.approx(0.05, abs=0.02)
    assert found[32, "document"]["mean"] - base == pytest.approx(0.03, abs=0.02)
    assert all(r["sd"] < 0.01 for r in found.values())
    repeated = asked(several, "replicates", score="sciq", recipe="wanda", dataset="a", size=8)
    assert len(repeated) == 4 * 3
    assert {r["repetitions"] for r in repeated} == {2}


def test_statistics_keep_them_apart(several: Path) -> None:
    with opened(several) as connection:
        data = Data(connection, scores(connection)["mean_accuracy"])
        tables = {name: rows(data) for name, (rows, _) in TABLES.items()}
    for name, rows in tables.items():
        drawn = [r for r in rows if r["sampler"] is not None]
        assert {(r["seqlen"], r["sampler"]) for r in drawn} == set(SETTINGS), name
    pairs = [r for r in tables["pairs"] if r["axis"] == "dataset"]
    assert {r["family"] for r in pairs} == {6}  # the pairs of four datasets, in one setting
    assert {r["draws"] for r in pairs} == {3}
    assert {(r["a"], r["b"]) for r in pairs} >= {("a", "b"), ("a", "d")}
    assert not any("sampler" in r["mixed"] for r in tables["pairs"])
    assert {r["verdict"] for r in pairs if "d" in (r["a"], r["b"])} == {"differs"}


def test_sentences_and_tables_name_them(several: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(several), "--score", "sciq"]) == 0
    said = capsys.readouterr().out
    assert "wanda, 50 %, 8 windows, 64 tokens a window, document sampler: best" in said
    console = Console(width=300, record=True)
    console.print(results_table(several, 300))
    head = console.export_text()
    assert "seqlen" in head
    assert "sampler" in head
    assert "dataset, sparsity, size, seqlen, sampler, avg" in example_query(several)
    assert len(ask(several, example_query(several))[1]) == 4 * 2 * 4


def test_the_report_keeps_them_apart(several: Path) -> None:
    page = read(several)
    drawn = [b for b in page["blocks"] if b["dataset"] is not None]
    assert {(b["seqlen"], b["sampler"]) for b in drawn} == set(SETTINGS)
    assert len(drawn) == 2 * 2 * 4 * 4
    for rows in (*page["gaps"].values(), *page["ties"].values()):
        assert {tuple(r["where"][-2:]) for r in rows} == set(SETTINGS)
    with opened(several) as connection:
        results = Results.read(connection)
    groups = results.conditions(results.primary)
    assert {(g.where["seqlen"], g.where["sampler"]) for g in groups} == set(SETTINGS)
    assert all(len(draws) == 3 for g in groups for draws in g.scores.values())


def test_one_sampler_each_is_compared_across_and_flagged(tmp_path: Path) -> None:
    paired = CELLS | {"sampler": ["stream", "document", "stream", "document"], "size": 8}
    run = write_database(tmp_path / "mix", cells=paired | {"zip": ["dataset", "sampler"]})
    (found,) = asked(run.database, "gaps", score="sciq", recipe="wanda")
    assert (found["sampler"], found["datasets"], found["worst"]) == ("document, stream", 4, "d")
    with opened(run.database) as connection:
        data = Data(connection, scores(connection)["sciq"])
        rows = {name: table(data) for name, (table, _) in TABLES.items()}
    assert {r["datasets"] for r in rows["gaps"]} == {4}
    assert {r["datasets"] for r in rows["shares"]} == {"a, b, c, d"}
    pairs = [r for r in rows["pairs"] if r["axis"] == "dataset"]
    assert {r["family"] for r in pairs} == {6}
    draws = [r for r in pairs if r["estimand"] == ESTIMANDS["draws"]]
    assert {(r["a"], r["b"]): r["mixed"] for r in draws}["a", "c"] == "commit"
    assert {(r["a"], r["b"]): r["mixed"] for r in draws}["a (stream)", "b (document)"] == "sampler"
