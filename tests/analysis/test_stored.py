"""The table `comparisons`: what the collector stores is what `analysis` computes, and never old."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from analysis.data import ESTIMANDS, Data
from analysis.pairs import compared, pair_table
from analysis.scores import opened, told_scores
from jobs import answers
from jobs.collect import collect, main
from jobs.run import RunFolder
from tests.analysis.conftest import write_database

SMALL = {"dataset": ["a", "d"], "pruner": ["magnitude", "wanda"], "sparsity": [0.5, 0.6]}
SMALL |= {"size": 8, "seed": [0, 1]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("stored") / "written"
    return write_database(folder, cells=SMALL, replicate=1)


def ask(run: RunFolder, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(run.database), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_what_is_stored_is_what_is_computed(known: Path) -> None:
    with opened(known) as connection:
        for score in told_scores(connection):
            data = Data(connection, score)
            stored, fresh = pair_table(data), compared(data)
            assert len(stored) == len(fresh) > 100
            for a, b in zip(stored, fresh, strict=True):
                assert a == b  # to the last digit, in the same order


def test_anybody_s_sql_reads_verdicts_of_both_estimands(run: RunFolder) -> None:
    found = ask(
        run,
        "SELECT estimand, a, b, verdict, low < difference AND difference < high, p <= p_holm "
        "FROM comparisons WHERE axis = 'dataset' AND sparsity = 0.6 AND pruner = 'wanda' "
        "AND score = 'mean_accuracy' ORDER BY ALL",
    )
    told = [("a", "d", "differs", True, True)]
    assert found == [(ESTIMANDS[e], *row) for e in ("questions", "draws") for row in told]
    same = "score, axis, model, recipe, pattern, sparsity, size, seqlen, sampler, dataset, a, b"
    twice = f"SELECT {same}, estimand FROM comparisons GROUP BY ALL HAVING count(*) > 1"
    assert ask(run, twice) == []
    free = "SELECT a, b, estimand, draws FROM comparisons WHERE axis = 'sparsity' AND size IS NULL"
    assert set(ask(run, free)) == {("0.5", "0.6", ESTIMANDS["models"], 0)}


def test_no_comparison_is_older_than_the_cells(
    run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (before,) = ask(run, "SELECT count(*) FROM comparisons")
    assert ask(run, "SELECT compared FROM runs") == [(True,)]
    cell = ask(run, "SELECT cell FROM results WHERE dataset = 'd' AND sparsity = 0.6 LIMIT 1")[0][0]
    gone = run.path / "evaluations" / str(cell)
    gone.rename(tmp_path / "gone")
    collect(run)
    assert ask(run, "SELECT count(*) FROM comparisons") == [(0,)]
    assert ask(run, "SELECT compared FROM runs") == [(False,)]

    def fails(database: Path, out: Path) -> None:
        raise answers.NoAnswerError("no scipy")

    with monkeypatch.context() as patch:
        patch.setattr(answers, "compare", fails)
        assert main([str(run.path)]) == 0  # the cells are collected all the same
    assert "comparisons is left empty: no scipy" in capsys.readouterr().err
    assert main([str(run.path)]) == 0
    (after,) = ask(run, "SELECT count(*) FROM comparisons")
    assert after < before  # one draw less
    (tmp_path / "gone").rename(gone)
    assert main([str(run.path)]) == 0
    assert ask(run, "SELECT count(*), compared FROM comparisons, runs GROUP BY 2") == [
        (*before, True)
    ]
