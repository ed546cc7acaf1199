"""What a person is shown: names as they are, recipes that can be read, labels that tell apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jobs import launch
from jobs.collect import collect
from jobs.plan.cells import labels
from jobs.plan.planning import plan_grid
from jobs.show import results_table
from tests.written_run import make_plan, write_run

ODD = 'say "hi" $HOME `x` [z]'


@pytest.mark.usefixtures("here")
def test_names_are_printed_as_they_are_and_the_query_can_be_copied(
    write_grid: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = json.dumps(ODD)
    grid = write_grid(
        {
            "  farm:": f"  {odd}:",
            "dataset: [farm,": f"dataset: [{odd},",
            "perplexity: [farm]": f"perplexity: [{odd}]",
            "reference: farm": "reference: city",
        }
    )
    assert launch.main([str(grid), "--dry-run"]) == 0
    assert "[z]" in capsys.readouterr().out
    assert launch.main([str(grid)]) == 0
    said = capsys.readouterr().out
    assert f"done: {ODD} wanda 0.5" in said
    assert f"{ODD}  " in said  # in the table
    (command,) = [x.strip() for x in said.splitlines() if x.strip().startswith("python -m")]
    command = command.replace("python", sys.executable, 1)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    asked = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    assert ODD in asked.stdout


def test_recipes_are_readable_in_120_columns(tmp_path: Path) -> None:
    pruners = [
        "wanda",
        "sparsegpt",
        {"name": "sparsegpt", "dampening": 0.1},
        {"name": "wanda", "allocation": "owl", "refine": "reconstruct"},
    ]
    names = [f"a_rather_long_name_{i}" for i in range(3)]
    tasks = ["sciq", "arc_easy"]
    cells = {"dataset": names, "pruner": pruners, "sparsity": 0.5, "size": [8, 16], "seed": [0, 1]}
    plan = make_plan(
        datasets={name: {"path": "json", "data_files": "x"} for name in names},
        cells=cells,
        reference=None,
        evaluate={"tasks": tasks, "perplexity": names},
    )
    run = write_run(tmp_path / "run", plan, lambda cell, name: np.linspace(0, 1, 9))
    collect(run)
    console = Console(width=120, record=True)
    console.print(results_table(run.database, 120))
    lines = console.export_text().splitlines()
    assert all(len(line) <= 120 for line in lines)
    for words in ("sparsegpt(dampening=0.1,", "wanda(allocation=owl(lam=0.08,", *names):
        assert any(words in line for line in lines), lines
    assert any("±" in line for line in lines)


def test_labels_tell_cells_apart(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    path = write_grid({"seqlen: 32": "seqlen: [16, 32], sampler: [stream, document]"})
    cells = plan_grid(path, [], tmp_path).cells
    told = labels(cells)
    assert len(set(told.values())) == len(told) == 2 + 4 * 4
    assert "farm wanda 0.5 unstructured n4 l16 document s1" in told.values()
    plain = labels(plan_grid(write_grid(), [], tmp_path).cells)
    assert "farm wanda 0.5 unstructured n4 s1" in plain.values()
