"""A small database with known truth, made by the collector from written records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.collect import collect
from jobs.run import RunFolder
from tests.written_run import make_plan, write_run

DOCUMENTS = 300
EFFECT = {"a": 0.0, "b": 0.0, "c": 0.0, "d": -0.15}
"""Of the datasets on accuracy: a, b and c are alike, and d is worse by 15 points."""

SEQLEN_EFFECT = {64: 0.05}
SAMPLER_EFFECT = {"document": 0.03}
"""What windows of another length, or drawn in another way, add to every accuracy."""

GRID: dict[str, Any] = {
    "cells": [
        {
            "dataset": ["a", "b", "c", "d"],
            "pruner": ["magnitude", "wanda", "sparsegpt"],
            "sparsity": [0.5, 0.6],
            "size": [8, 16],
            "seed": [0, 1, 2],
        },
    ],
    "datasets": {
        "a": {"path": "json", "data_files": "a.jsonl"},
        "b": {"path": "json", "data_files": "b.jsonl"},
        "c": {"path": "json", "data_files": "c.jsonl"},
        "d": {"generate": {"from": "a"}},
    },
    "evaluate": {"tasks": ["arc_easy", "sciq"], "perplexity": ["a"]},
    "compare": {"delta": 2.0},
    "replicate": 2,
}


def write_database(folder: Path, **changes: Any) -> RunFolder:
    """Records of the grid, with some of its keys changed, and their database."""
    random = np.random.default_rng(0)
    documents = {
        name: random.normal(0, 0.1, DOCUMENTS) for name in ("arc_easy", "sciq", "lambada_openai")
    } | {"a": random.normal(0, 0.5, DOCUMENTS)}
    levels = {"dense": 0.8, "magnitude": 0.4, "wanda": 0.6, "sparsegpt": 0.65}
    draws: dict[Any, float] = {}

    def outcomes(cell: Any, name: str) -> Any:
        level = levels[cell.recipe.name] - max(float(cell.sparsity) - 0.5, 0)
        if cell.draw is not None:
            level += SEQLEN_EFFECT.get(cell.draw.seqlen, 0.0)
            level += SAMPLER_EFFECT.get(cell.draw.sampler, 0.0)
            key = cell.draw.dataset, cell.seed
            draw = draws.setdefault(key, random.normal(0, 0.002))
            level += EFFECT[cell.draw.dataset] + draw
        if name == "a":
            return 3 - level + documents[name] + random.normal(0, 0.02, DOCUMENTS)
        easy = documents[name] + random.normal(0, 0.01, DOCUMENTS)
        return (easy > np.quantile(easy, 1 - level)).astype(float)

    def record(cell: Any) -> dict[str, Any]:
        if cell.draw is None:
            return {}
        near = {"a": 0.5, "b": 0.3, "c": 0.4, "d": 0.1}[cell.draw.dataset]
        figures = {"jaccard": near, "quality": near**2}
        similarity = {k: {"value": v, "stderr": 0.01, "n": 100} for k, v in figures.items()}
        other = {"commit": "other"} if cell.draw.dataset == "c" else {}
        provenance = {"commit": "c0ffee", "image": None, "gpu": None} | other
        return {"similarity": similarity, "provenance": provenance}

    def mask(cell: Any) -> bytes | None:
        if cell.draw is None:
            return None
        return bytes([0b11110000 if cell.draw.dataset == "d" else 0b11000011] * 16)

    run = write_run(folder, make_plan(**(GRID | changes)), outcomes, record, mask)
    assert collect(run, compare=True) == []
    return run


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of the whole grid."""
    return write_database(tmp_path_factory.mktemp("known") / "written").database
