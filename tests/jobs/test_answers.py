"""What the launcher says by asking `analysis`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import answers, launch
from jobs.plan.grid import Compare
from tests.written_run import make_plan

WANDA = {"pruner": ["wanda"], "sparsity": 0.5, "size": 8}


@pytest.mark.parametrize(
    ("datasets", "seeds", "said"),
    [
        (["a", "b", "c"], [0, 1, 2], "3 draws a dataset detect a gap of"),
        (["a", "b"], [0], "One draw a dataset"),
        (["a"], [0, 1], ""),
    ],
)
def test_the_smallest_gap_that_a_grid_can_detect(
    datasets: list[str], seeds: list[int], said: str
) -> None:
    plan = make_plan(cells=WANDA | {"dataset": datasets, "seed": seeds})
    told = answers.smallest_gap([plan.cell(key) for key in plan.cells], Compare(delta=0.5))
    assert told.startswith(said)
    assert ("delta, 0.5 points" in told) == bool(said)


def test_gaps_of_perplexities_are_told_in_percent() -> None:
    plan = make_plan(cells=WANDA | {"dataset": ["a", "b", "c"], "seed": [0, 1]})
    told = answers.smallest_gap(
        [plan.cell(key) for key in plan.cells], Compare(primary="ppl_wikitext2", delta=1)
    )
    assert "% between two of 3 datasets" in told
    assert "differ by 0.5 % of perplexity" in told
    assert "would detect delta, 1 %" in told
    assert "points" not in told


def test_the_dry_run_says_it(
    write_grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main([str(write_grid()), "--dry-run", "--out", str(tmp_path)]) == 0
    assert "2 draws a dataset detect a gap of" in capsys.readouterr().out


def test_an_answer_that_fails_says_why(tmp_path: Path) -> None:
    assert "none.duckdb" in answers.headline(tmp_path / "none.duckdb")


def test_the_main_finding_of_a_run(finished_run: Path) -> None:
    told = answers.headline(finished_run / "results.duckdb")
    assert told.startswith("ppl_farm: wanda, 50 %: ")
    assert " beats " in told
    assert "95 % CI" in told
