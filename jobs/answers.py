"""What `analysis` says, for the launcher to print and the collector to store.

`analysis` imports nothing of `jobs` but the schema, and `jobs` nothing of `analysis`: what a
person would run as a command, the launcher and the collector run as one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cluster.code import import_path
from jobs.plan.cells import Cell, Draw
from jobs.plan.grid import Compare


def headline(database: Path) -> str:
    """The main finding of a run in a line or two; empty where it compares nothing."""
    return _ask("analysis.compare", str(database), "--headline")


def smallest_gap(cells: Iterable[Cell], compare: Compare) -> str:
    """The smallest gap between datasets that a grid can detect; empty where it compares none."""
    drawn: dict[tuple[object, ...], list[Draw]] = defaultdict(list)
    for cell in cells:
        if cell.draw is not None and not cell.replicate:
            setting = (cell.model, cell.recipe, cell.sparsity, cell.pattern)
            drawn[*setting, cell.draw.size, cell.draw.seqlen].append(cell.draw)
    seeds = (by_dataset for draws in drawn.values() for by_dataset in _seeds(draws))
    compared = [by_dataset for by_dataset in seeds if len(by_dataset) > 1]
    if not compared:
        return ""
    draws = min(len(s) for by_dataset in compared for s in by_dataset.values())
    datasets = max(len(by_dataset) for by_dataset in compared)
    unit = "%" if compare.primary.startswith("ppl_") else "points"
    options = ["--draws", str(draws), "--datasets", str(datasets), "--unit", unit]
    options += ["--delta", str(compare.delta)]
    return _ask("analysis.power", *options)


def _seeds(draws: Sequence[Draw]) -> Iterator[dict[str, set[int]]]:
    """The seeds of each dataset: within a sampler, or across them where datasets have one each."""
    samplers: dict[str, set[str]] = defaultdict(set)
    for d in draws:
        samplers[d.dataset].add(d.sampler)
    across = all(len(found) == 1 for found in samplers.values())
    groups: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for d in draws:
        groups["" if across else d.sampler][d.dataset].add(d.seed)
    yield from groups.values()


def compare(database: Path, out: Path) -> None:
    """Write every comparison that a database allows to a Parquet file.

    Raises:
        NoAnswerError: they could not be made.
    """
    _run("analysis.pairs", str(database), str(out))


class NoAnswerError(RuntimeError):
    """A command of `analysis` failed."""


def _ask(module: str, *arguments: str) -> str:
    """What a command of `analysis` prints; where it fails, that and why: the run itself is done."""
    try:
        return _run(module, *arguments)
    except NoAnswerError as error:
        return str(error)


def _run(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"PYTHONPATH": import_path(os.environ)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise NoAnswerError(f"python -m {module} {' '.join(arguments)} failed: {why}")
    return done.stdout.strip()
