"""`analysis.compare` on databases with known truth: what it says, and in which form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet
import pytest

from analysis.compare import main
from analysis.data import ESTIMANDS, Data, Row
from analysis.scores import opened, scores
from analysis.sentences import summary
from analysis.tables import TABLES
from jobs.collect import collect
from tests.analysis.conftest import EFFECT, write_database
from tests.written_run import make_plan, write_run


@pytest.fixture(scope="module")
def tables(known: Path) -> dict[tuple[str, str], list[Row]]:
    """Every table, for the accuracy and the perplexity."""
    with opened(known) as connection:
        chosen = [scores(connection)[name] for name in ("mean_accuracy", "ppl_a")]
        data = {score.name: Data(connection, score) for score in chosen}
        return {(t, s): rows(d) for t, (rows, _) in TABLES.items() for s, d in data.items()}


def some(rows: list[Row], **wanted: Any) -> list[Row]:
    return [r for r in rows if all(r.get(name) == value for name, value in wanted.items())]


WANDA = {"recipe": "wanda", "sparsity": 0.5, "size": 8}


@pytest.mark.parametrize("score", ["mean_accuracy", "ppl_a"])
@pytest.mark.parametrize("estimand", ["draws", "questions"])
def test_planted_differences_between_datasets_are_found(
    tables: dict[tuple[str, str], list[Row]], score: str, estimand: str
) -> None:
    rows = some(tables["pairs", score], axis="dataset", estimand=ESTIMANDS[estimand], **WANDA)
    verdicts = {(r["a"], r["b"]): r for r in rows}
    assert len(verdicts) == 6
    for (a, b), row in verdicts.items():
        assert (row["verdict"] == "differs") == ("d" in (a, b)), row
        assert row["family"] == 6
        assert row["mixed"] == ("commit" if "c" in (a, b) else "")
    row = verdicts["a", "d"]
    assert (
        row["low"]
        < (15 if score == "mean_accuracy" else 100 * (2.718281828**-0.15 - 1))
        < (row["high"])
    )


def test_equal_datasets_are_equivalent_within_a_wide_delta(
    tables: dict[tuple[str, str], list[Row]],
) -> None:
    rows = some(tables["pairs", "mean_accuracy"], axis="dataset", a="a", b="b")
    told = {r["verdict"] for r in rows if r["estimand"] == ESTIMANDS["draws"]}
    assert "differs" not in told
    assert "equivalent" in told
    for row in some(rows, verdict="undecided"):
        assert row["bound_by_documents"] or row["more_draws"] is not None


def test_pruners_are_paired_by_draw_and_averaged_over_datasets(
    tables: dict[tuple[str, str], list[Row]],
) -> None:
    rows = some(
        tables["pairs", "mean_accuracy"],
        axis="pruner",
        estimand=ESTIMANDS["draws"],
        size=8,
        sparsity=0.5,
    )
    together = {(r["a"], r["b"]): r for r in rows if r["dataset"] is None}
    assert len(together) == 3
    assert {r["verdict"] for r in together.values()} == {"differs"}
    assert {r["dataset"] for r in rows} == {None, "a", "b", "c", "d"}
    (row,) = [r for (a, b), r in together.items() if "wanda" in (a, b) and "magnitude" in (a, b)]
    sign = 1 if row["a"] == "wanda" else -1
    assert sign * row["difference"] == pytest.approx(20 - 15 / 4, abs=1)
    alone = next(
        r for r in rows if r["dataset"] == "a" and {"wanda", "magnitude"} == {r["a"], r["b"]}
    )
    assert alone["df"] == 2  # three draws cannot tell whether datasets are alike in their noise


def test_gaps_best_shares_similarity_and_noise(
    tables: dict[tuple[str, str], list[Row]],
) -> None:
    for row in some(tables["gaps", "ppl_a"], estimand=ESTIMANDS["draws"]):
        assert row["worst"] == "d"
        assert row["gap"] > row["at_most"]
        assert row["p"] < 0.05
    for row in tables["best", "mean_accuracy"]:
        assert row["may_be_best"] or row["dataset"] in "abcd"
        assert not (row["dataset"] == "d" and row["may_be_best"])
    shares = some(tables["shares", "mean_accuracy"], sparsity=0.5, size=8)
    largest = max(shares, key=lambda r: r["share"])
    assert largest["source"] == "dataset"
    assert largest["low"] < largest["share"] < largest["high"]
    found = some(tables["similarity", "ppl_a"], measure="jaccard", given=None, **WANDA)
    assert [r["datasets"] for r in found] == [4]
    assert found[0]["exact"]
    assert found[0]["low"] is None  # of four datasets, no interval
    assert found[0]["p"] >= 1 / 24
    assert some(tables["similarity", "ppl_a"], measure="jaccard", given="quality")
    (noise,) = some(tables["noise", "ppl_a"], **WANDA)
    assert noise["cells"] == 2 * 4 * 3
    assert 0 < noise["changed_outcomes"] <= 1


def test_sentences(known: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(known)]) == 0
    said = capsys.readouterr().out
    assert "wanda, 50 %, 8 windows: best" in said
    assert "beware, it mixes commit" in said
    assert main([str(known), "--headline"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("mean_accuracy: ")
    assert "beats d by" in first
    assert "differs" in first
    assert second.startswith("ppl_a: ")


def test_tables_are_printed_and_stored(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(known), "gaps", "--format", "csv", "--score", "sciq"]) == 0
    assert capsys.readouterr().out.startswith("score,model,")
    assert main([str(known), "--out", str(tmp_path / "answers")]) == 0
    for name in TABLES:
        assert pyarrow.parquet.read_table(tmp_path / "answers" / f"{name}.parquet").num_rows


@pytest.mark.parametrize(
    ("arguments", "said"), [(["gapz"], "'gaps'"), (["--score", "sicq"], "'sciq'")]
)
def test_unknown_names_are_explained(
    known: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(known), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_databases_of_no_use_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.duckdb")]) == 2
    assert "jobs.collect" in capsys.readouterr().err
    (tmp_path / "x.duckdb").write_text("no database")
    assert main([str(tmp_path / "x.duckdb")]) == 2
    with duckdb.connect(str(tmp_path / "old.duckdb")) as connection:
        connection.execute("CREATE TABLE runs AS SELECT 1 AS schema_version")
    assert main([str(tmp_path / "old.duckdb")]) == 2
    assert "builds it anew" in capsys.readouterr().err


def test_one_draw_and_one_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = {"dataset": ["a", "d"], "pruner": ["wanda"], "sparsity": 0.5, "size": 8, "seed": 0}
    once = write_database(tmp_path / "once", cells=cells, replicate=1)
    assert main([str(once.database)]) == 0
    said = capsys.readouterr().out
    assert "of these calibration sets alone" in said
    alone = write_database(tmp_path / "alone", cells=cells | {"dataset": ["a"]}, replicate=1)
    assert main([str(alone.database)]) == 0
    assert "nothing to compare" in capsys.readouterr().out
    assert main([str(alone.database), "--headline"]) == 0
    assert capsys.readouterr().out == ""


def test_samplers_that_differ_are_flagged(tmp_path: Path) -> None:
    one = {"pruner": ["wanda"], "sparsity": 0.5, "size": 8, "seed": [0, 1]}
    cells = [
        one | {"dataset": ["a"], "sampler": "stream"},
        one | {"dataset": ["b"], "sampler": "document"},
    ]
    run = write_database(tmp_path / "mixed", cells=cells, replicate=1)
    with opened(run.database) as connection:
        data = Data(connection, scores(connection)["sciq"])
        rows, gaps, best = (TABLES[name][0](data) for name in ("pairs", "gaps", "best"))
        assert "it mixes sampler" in summary([data])[0]
    for table in (rows, gaps, best):  # shown, and flagged
        assert {r["mixed"] for r in table} == {"sampler"}
    assert {r["sampler"] for r in gaps} == {"document, stream"}
    assert {r["dataset"] for r in best} == {"a", "b"}
    assert {(r["a"], r["b"]) for r in rows} == {("a (stream)", "b (document)")}


def test_where_nothing_differs_nothing_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EFFECT, "d", 0.0)
    cells = {"dataset": ["a", "b", "c", "d"], "pruner": ["wanda", "sparsegpt"]}
    cells |= {"sparsity": [0.5, 0.6], "size": 8, "seed": [0, 1, 2]}
    run = write_database(tmp_path / "null", cells=cells, replicate=1)
    with opened(run.database) as connection:
        for name in ("mean_accuracy", "ppl_a"):
            data = Data(connection, scores(connection)[name])
            pairs, gaps, best = (TABLES[table][0](data) for table in ("pairs", "gaps", "best"))
            assert not some(pairs, axis="dataset", verdict="differs")
            assert all(row["p"] > 0.05 for row in gaps)
            assert all(row["may_be_best"] for row in best)
            found = some(pairs, axis="pruner", dataset=None, verdict="differs")
            assert len(found) == 2 * 2  # what does differ is found: two sparsities, both estimands


def test_methods_that_need_no_data_are_compared_by_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = {"dataset": "a", "pruner": "magnitude", "sparsity": [0.5, 0.6], "size": 8, "seed": 0}
    run = write_database(tmp_path / "free", cells=cells, replicate=1)
    assert main([str(run.database)]) == 0
    said = capsys.readouterr().out
    assert "magnitude: 0.5 beats 0.6 by 10 points" in said
    assert "(nothing is drawn: of these models alone)" in said


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_ties_decide_nothing(
    tmp_path: Path, seeds: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal losses of every window say nothing of others; equal answers bound what they hide."""
    cells = {"dataset": ["a", "b"], "pruner": "wanda", "sparsity": 0.5, "size": 8, "seed": seeds}
    plan = make_plan(cells=cells, evaluate={"tasks": ["sciq"], "perplexity": ["a"]})

    def outcomes(cell: Any, name: str) -> Any:
        apart = 0.01 * (cell.draw is not None and cell.draw.dataset == "b")
        return np.linspace(1, 2, 40) + apart if name == "a" else np.repeat([0.0, 1.0], 20)

    run = write_run(tmp_path / "ties", plan, outcomes)
    assert collect(run, compare=True) == []
    with opened(run.database) as connection:
        known = scores(connection)
        pairs = {name: TABLES["pairs"][0](Data(connection, known[name])) for name in known}
        gaps = {name: TABLES["gaps"][0](Data(connection, known[name])) for name in known}
    for row in pairs["ppl_a"]:
        if len(seeds) > 1:  # of one draw documents tell: all have the same difference
            assert row["difference"] == pytest.approx(-1, abs=0.01)
        assert (row["verdict"], row["p"], row["p_equivalent"]) == ("undecided", 1, 1)
        assert (row["low"], row["stderr"], row["detectable"]) == (None, None, None)
        assert not row["bound_by_documents"]
    assert {r["verdict"] for r in gaps["ppl_a"]} == {"draws tie" if len(seeds) > 1 else "one draw"}
    for row in pairs["sciq"]:
        assert row["difference"] == 0
        if row["estimand"] == ESTIMANDS["questions"]:  # three of forty may differ unseen
            assert row["high"] > 100 * 3 / 40
        assert row["verdict"] == "undecided"
    for arguments in ([], ["--headline"], ["pairs"], ["gaps", "--format", "json"]):
        assert main([str(run.database), *arguments]) == 0
    said = capsys.readouterr().out
    assert "is level with b (95 % CI -" in said
    assert "tie, which says nothing of others" in said
    assert "0 to 0" not in said
