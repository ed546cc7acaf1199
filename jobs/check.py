"""Compute a finished cell anew, beside its results, and print every difference."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

from jobs.files import read_json
from jobs.heartbeat import Heartbeat
from jobs.plan.plan import Plan
from jobs.run import RunFolder

NOT_SCIENCE = {
    *("stages", "prune_seconds", "gpu_seconds", "seconds", "peak_memory_bytes"),
    *("attempt", "time", "log", "job", "provenance", "run", "resumed_blocks"),
}
"""Keys of records that may differ from one computation to the next."""


def check(run: RunFolder, plan: Plan, key: str) -> bool:
    """Run a cell again in a folder of its own, sharing text with the run; True if it differs."""
    from jobs.cell import run_cell

    if not run.is_done(plan, key):
        print(f"cell {key} is not done: there is nothing to compare with")
        return True
    again = RunFolder(run.path.parent / f".check-{key}-{os.getpid()}")
    beat = Heartbeat(again.heartbeat(key), f"check of {plan.label(key)}")
    try:
        run_cell(again, plan, key, beat)
        found = list(_differences(run, again, plan, key))
    finally:
        beat.remove()
        shutil.rmtree(again.path, ignore_errors=True)
    for line in found:
        print(f"cell {key}: {line}")
    print(f"cell {key}: {len(found)} differences")
    return bool(found)


def _differences(run: RunFolder, again: RunFolder, plan: Plan, key: str) -> Iterator[str]:
    """Every figure that differs, as `place: before -> now`."""
    paths = [(run.record(key), again.record(key), "record")]
    for evaluation in plan.evaluations(plan.cells[key]["model"]):
        name = evaluation.key(key)
        paths.append((run.evaluation(key, name), again.evaluation(key, name), evaluation.name))
    for before, now, name in paths:
        yield from _compare(read_json(before), read_json(now), name)
        yield from _compare(_rows(before), _rows(now), f"{name} rows")


def _rows(path: Path) -> Any:
    """The long table beside a record."""
    table = path.with_suffix(".parquet")
    return pyarrow.parquet.read_table(table).to_pylist() if table.is_file() else []


def _compare(before: Any, now: Any, place: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now} - NOT_SCIENCE):
            yield from _compare(before.get(name), now.get(name), f"{place}.{name}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _compare(one, other, f"{place}[{i}]")
    elif before != now:
        yield f"{place}: {before!r} -> {now!r}"
