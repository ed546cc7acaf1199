"""Cells in the words of the results database."""

from __future__ import annotations

from typing import Any

from jobs.plan.cells import Cell


def describe(cell: Cell, dtype: str) -> dict[str, Any]:
    """The columns of `results` that say what a cell is."""
    draw = cell.draw
    return {
        "model": cell.model,
        "dataset": draw.dataset if draw else None,
        "pruner": cell.recipe.name,
        "recipe": str(cell.recipe),
        "sparsity": float(cell.sparsity),
        "pattern": cell.pattern,
        "size": draw.size if draw else None,
        "seed": cell.seed,
        "replicate": cell.replicate,
        "seqlen": draw.seqlen if draw else None,
        "sampler": draw.sampler if draw else None,
        "dtype": dtype,
    }
