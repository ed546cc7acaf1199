"""How fast records become a database: `python -m tests.bench.collect [--cells N] [--documents N]`.

Writes a run of that many cells, collects it into a new database, again with nothing new, and again
with one more record; then a run with full-size sidecars, for the rate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from jobs.collect import collect
from jobs.run import RunFolder
from tests.written_run import make_plan, write_run

FULL_DOCUMENTS = 34_000
"""Documents of the study's seven tasks, about."""


def main(arguments: list[str] | None = None) -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.collect", description=__doc__)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--documents", type=int, default=10, help="of each, in the first run")
    parser.add_argument("--full-cells", type=int, default=300, help="with full-size sidecars")
    options = parser.parse_args(arguments)
    print("wall seconds (CPU seconds of all threads)")
    with tempfile.TemporaryDirectory(prefix="calgrid-bench-") as folder:
        run = _write(Path(folder) / "small", options.cells, options.documents)
        size = len(list(run.path.glob("cells/*.json")))
        print(f"{size:,} cells, as many evaluations: {_timed(run)}")
        print(f"  again, nothing new: {_timed(run)}")
        _fail(run)
        print(f"  again, one record more: {_timed(run)}")
        run = _write(Path(folder) / "full", options.full_cells, FULL_DOCUMENTS)
        size = len(list(run.path.glob("cells/*.json")))
        rows = size * FULL_DOCUMENTS
        started = time.perf_counter()
        told = _timed(run)
        rate = rows / (time.perf_counter() - started) / 1e6
        print(
            f"{size:,} cells of {FULL_DOCUMENTS:,} documents: {told}, {rate:.2f} million rows/s, "
            f"{run.database.stat().st_size / rows:.1f} bytes a row"
        )
        _fail(run)
        print(f"  again, one record more: {_timed(run)}")


def _timed(run: RunFolder) -> str:
    wall, cpu = time.perf_counter(), time.process_time()
    assert collect(run, compare=True) == []
    return f"{time.perf_counter() - wall:.1f} s ({time.process_time() - cpu:.1f})"


def _write(folder: Path, cells: int, documents: int) -> RunFolder:
    seeds = list(range(-(-cells // 4)))
    axes = {"dataset": list("abcd"), "pruner": "wanda", "sparsity": 0.5, "size": 8, "seed": seeds}
    random = np.random.default_rng(0)

    def outcomes(cell: Any, name: str) -> Any:
        return random.integers(0, 2, documents).astype(float)

    return write_run(folder, make_plan(cells=axes), outcomes)


def _fail(run: RunFolder) -> None:
    cell = next(iter(run.path.glob("cells/*.json"))).stem
    failure = {"cell": cell, "attempt": 1, "kind": "error", "stage": None, "cause": "x"}
    path = run.path / "failures" / f"{cell}.1.json"
    path.parent.mkdir()
    path.write_text(json.dumps(failure | {"signature": "x", "log": None}))


if __name__ == "__main__":
    main()
