"""What is missing of a run's text is found, and left to one of the cells that share it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from jobs.collect import collect
from jobs.run import RunFolder
from tests.written_run import make_plan, write_run

JACCARD = {"jaccard": {"value": 0.25, "stderr": None, "n": 9, "units": 9}}


def similarity(run: RunFolder) -> set[float | None]:
    collect(run, print)
    with duckdb.connect(str(run.database), read_only=True) as connection:
        sql = "SELECT similarity FROM results WHERE pruner = 'wanda'"
        return {value for (value,) in connection.execute(sql).fetchall()}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return write_run(
        tmp_path / "written",
        make_plan(),
        lambda cell, name: np.arange(4) % 2,
        lambda cell: {"similarity": JACCARD if cell.draw else None},
    )


def test_nothing_is_missing_of_a_run_that_is_whole(run: RunFolder) -> None:
    plan = run.read_plan()
    assert run.done_cells(plan) == set(plan.cells)
    assert similarity(run) == {0.25}


CHANGES: list[dict[str, Any]] = [{"reference": "b"}, {"reference": None}, {"similarity": {"n": 2}}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_figures_of_another_reference_are_measured_again(
    run: RunFolder, change: dict[str, Any]
) -> None:
    plan = make_plan(**change)
    run.write_plan(plan)
    left = set(plan.cells) - run.done_cells(plan)
    draws = [plan.cell(key).draw for key in left]
    assert len(draws) == len(set(draws)) == 6  # two datasets, three seeds: a cell each
    assert similarity(run) == {None}
    assert not any(run.is_done(plan, key) for key in left)


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_lost_record_of_a_dataset_is_left_to_one_cell(run: RunFolder, suffix: str) -> None:
    plan = run.read_plan()
    for path in (run.path / "datasets").glob(f"*{suffix}"):
        path.unlink()
    left = [plan.cell(key).draw for key in set(plan.cells) - run.done_cells(plan)]
    assert sorted(draw.dataset for draw in left if draw) == ["a", "b"]
