"""A part of the demo that ships: on Slurm and in containers, the numbers that processes give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.real.launching import ROOT, launch
from tests.real.slurm_engine import Engine

GRID = ROOT / "jobs/grids/demo.yaml"
PART = (
    "cells.dataset=[demo_docstrings, synthetic]",
    "cells.pruner=[magnitude, sparsegpt]",
    "cells.sparsity=[0.6]",
    "cells.seed=[0]",
)
"""Four cells: dense, magnitude, and SparseGPT on real text and on text that the model writes."""

TABLES = ("results", "metrics", "outcomes", "linears", "masks", "windows", "similarity", "texts")
DIFFERENT = ("run", "gpu_seconds", "seconds")
"""Columns that are not of science."""

Tables = dict[str, list[tuple[Any, ...]]]


def tables(out: Path) -> Tables:
    """All that the database says of science."""
    with duckdb.connect(str(out / "demo/results.duckdb"), read_only=True) as database:
        return {name: _rows(database, name) for name in TABLES}


def _rows(database: duckdb.DuckDBPyConnection, table: str) -> list[tuple[Any, ...]]:
    names = [name for name, *_ in database.execute(f"DESCRIBE {table}").fetchall()]
    kept = ", ".join(f'"{name}"' for name in names if name not in DIFFERENT)
    return database.execute(f"SELECT {kept} FROM {table} ORDER BY ALL").fetchall()


@pytest.fixture(scope="module")
def by_processes(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    out = tmp_path_factory.mktemp("processes")
    launch(GRID, out, "local", *PART)
    found = tables(out)
    assert len(found["results"]) == 4
    assert all(found.values())
    return found


def test_on_slurm(engine: Engine, by_processes: Tables, tmp_path: Path) -> None:
    launch(GRID, tmp_path, "slurm", *PART, "resources={mem_gb: 2, cells_per_job: 2}")
    assert tables(tmp_path) == by_processes


def test_in_docker(built: str, by_processes: Tables, tmp_path: Path) -> None:
    launch(GRID, tmp_path, "docker", *PART, "resources={mem_gb: 4}")
    assert tables(tmp_path) == by_processes
