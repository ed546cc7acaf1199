"""What a grid reads, by its names: datasets, texts, the demo's collected text."""

from __future__ import annotations

from pathlib import Path

from calib import sources
from calib.spec import LOADERS, DatasetSpec
from jobs.evaluate.tasks import perplexity_texts
from jobs.plan.grid import Grid
from prune.model import hub


def used_datasets(grid: Grid) -> set[str]:
    """The datasets that the grid's cells, reference or perplexities read, and their parents."""
    used = {v for block in grid.cells for d in block.dataset or [] for v in grid.variants(d)}
    used |= {r for m in grid.model if (r := grid.reference_of(m)) is not None}
    used |= {t for t in grid.evaluate.perplexity if t not in perplexity_texts()}
    return grid.with_parents(used)


def hub_datasets(grid: Grid, base: Path) -> list[tuple[str, DatasetSpec]]:
    """The hub ids, with revisions, of the datasets and texts that a grid reads, and their specs."""
    specs = [grid.dataset_spec(name) for name in sorted(used_datasets(grid))]
    specs += [perplexity_texts().get(name) for name in grid.evaluate.perplexity]
    return [
        (sources.hub_name(spec), spec)
        for spec in specs
        if spec is not None and spec.path is not None and spec.path not in LOADERS
        if hub.is_hub_id(spec.path, base)
    ]


def uses_demo(grid: Grid) -> bool:
    """Does the grid read the demo's text, which the launcher has to collect first?"""
    specs = [grid.dataset_spec(n) for n in used_datasets(grid)]
    specs += [perplexity_texts().get(n) for n in grid.evaluate.perplexity]
    files = [f for spec in specs if spec is not None for f in spec.data_files or []]
    return any(f.startswith("demo:") for f in files) or any(
        task.name.startswith("demo_") for task in grid.evaluate.tasks
    )
