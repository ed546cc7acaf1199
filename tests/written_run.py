"""A run folder whose records are written, not computed: thousands of cells with known truth.

The records have the very form that jobs write (`jobs.store.records` writes the tables); what is
in them is chosen by the caller. `tests/jobs/test_end_to_end.py` collects records of real cells.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from jobs.built import LISTING
from jobs.evaluate.task_inputs import DEFAULT_METRIC, TaskInput
from jobs.files import write_json
from jobs.plan.cells import Cell, digest, expand, science
from jobs.plan.describe import describe
from jobs.plan.grid import Grid
from jobs.plan.inputs import DatasetInput, Inputs, ModelInput
from jobs.plan.plan import Plan
from jobs.run import RunFolder
from jobs.store.records import LINEARS, OUTCOMES, write_table

GRID: dict[str, Any] = {
    "name": "written",
    "model": "m",
    "reference": "a",
    "datasets": {d: {"path": "json", "data_files": f"{d}.jsonl"} for d in "abcdefghij"},
    "cells": {
        "dataset": ["a", "b"],
        "pruner": ["magnitude", "wanda"],
        "sparsity": 0.5,
        "size": 8,
        "seed": [0, 1, 2],
    },
    "evaluate": {"tasks": ["arc_easy"]},
    "compare": {"delta": 1.0},
    "dtype": "float32",
}

WITH_MASKS = (
    LINEARS
    if "mask_sample" in LINEARS.names
    else LINEARS.append(pyarrow.field("mask_sample", pyarrow.binary()))
)

DOCUMENTS = {
    **dict.fromkeys(("document", "domain", "nearest"), pyarrow.string()),
    **dict.fromkeys(("jaccard", "containment"), pyarrow.float64()),
    "tasks": pyarrow.list_(pyarrow.string()),
}
"""Columns of a dataset's documents."""

Outcomes = Callable[[Cell, str], "np.ndarray[Any, np.dtype[np.float64]]"]
"""The outcome of every document of a task (or window of a text) for a cell."""


def make_plan(**changes: Any) -> Plan:
    """The plan of `GRID` with some keys changed; its inputs are names only."""
    data = GRID | changes
    grid = Grid.model_validate(data)
    inputs = Inputs(
        models={m: ModelInput(content=f"content of {m}") for m in grid.model},
        datasets={
            name: DatasetInput(spec=spec, identity=f"pool of {name}")
            for name, spec in grid.datasets.items()
        },
        tasks={
            task.name: TaskInput(metric=task.metric or DEFAULT_METRIC, identity="0")
            for task in grid.evaluate.tasks
        },
    )
    cells = {}
    for cell in expand(grid)[0]:
        pool = cell.draw and inputs.pool(cell.draw.dataset, cell.model, grid.dtype, 32)
        content = inputs.models[cell.model].content
        cells[digest(science(cell, content, pool, grid.dtype, {}))] = cell.to_json()
    return Plan(
        name=grid.name,
        grid=json.dumps(data, default=str),
        dtype=grid.dtype,
        keep="none",
        reference={m: grid.reference_of(m) for m in grid.model},
        seqlen=32,
        harness="0",
        pruning=grid.pruning,
        similarity=grid.similarity,
        evaluate=grid.evaluate,
        compare=grid.compare,
        resources=grid.resources,
        inputs=inputs,
        cells=cells,
    )


def write_run(
    folder: Path,
    plan: Plan,
    outcomes: Outcomes,
    record: Callable[[Cell], dict[str, Any]] = lambda cell: {},
    mask: Callable[[Cell], bytes | None] = lambda cell: None,
) -> RunFolder:
    """Write a plan and the records of all its cells.

    Args:
        folder: the run folder.
        plan: what is in it.
        outcomes: of a cell and the name of a task or text.
        record: what a cell's record says otherwise than `cell_record`.
        mask: a cell's mask sample, of every linear.
    """
    run = RunFolder(folder)
    run.write_plan(plan)
    for key in plan.cells:
        cell = plan.cell(key)
        told = cell_record(key, cell) | record(cell)
        if cell.draw is not None:
            _write_text(run, plan, cell, told["similarity"] or {})
        write_table(run.tables(key), _linears(key, cell, mask(cell)), WITH_MASKS)
        write_json(run.record(key), told)
        for evaluation in plan.evaluations(cell.model):
            identity = evaluation.key(key)
            values = outcomes(cell, evaluation.name)
            metric = "acc" if evaluation.kind == "task" else "loss"
            path = run.evaluation(key, identity)
            n = len(values)
            columns = {
                "cell": [key] * n,
                "evaluation": [identity] * n,
                "task": [evaluation.name] * n,
                "doc_id": np.arange(n),
                "metric": [metric] * n,
                "value": values,
            }
            _write_columns(path.with_suffix(".parquet"), columns)
            mean, stderr = float(values.mean()), float(values.std(ddof=1) / n**0.5)
            figures = [{"task": evaluation.name, "metric": metric, "value": mean}]
            if metric == "loss":
                perplexity = {"metric": "perplexity", "value": float(np.exp(mean))}
                figures.append(figures[0] | perplexity)
            written = {
                "cell": key,
                "evaluation": identity,
                "kind": evaluation.kind,
                "name": evaluation.name,
                "settings": evaluation.settings,
                "metrics": [f | {"stderr": stderr, "n": n} for f in figures],
                "notes": {},
                "seconds": 2.0,
                "gpu": None,
            }
            write_json(path, written)
    return run


def _write_text(run: RunFolder, plan: Plan, cell: Cell, figures: dict[str, Any]) -> None:
    """What is kept of a cell's text: a set without files, its figures, and empty datasets."""
    assert cell.draw is not None
    write_json(run.calibration(plan.calibration_key(cell.draw, cell.model)) / LISTING, {})
    key = plan.similarity_key(cell.draw, cell.model)
    write_json(run.similarity(key), {"key": key, "figures": figures})
    for name in {cell.draw.dataset, plan.reference[cell.model]} - {None}:
        path = run.dataset(plan.dataset_key(str(name), cell.model, cell.draw.seqlen))
        pool = f"pool of {name}"
        write_json(path, {"dataset": name, "model": cell.model, "pool": pool, "contamination": []})
        empty = {n: pyarrow.array([], kind) for n, kind in DOCUMENTS.items()}
        pyarrow.parquet.write_table(pyarrow.table(empty), path.with_suffix(".parquet"))


def cell_record(key: str, cell: Cell) -> dict[str, Any]:
    """A record as `jobs.stages.prune` writes it."""
    return {
        "cell": key,
        "run": "written",
        **describe(cell, "float32"),
        "science": cell.to_json(),
        "calibration": None,
        "similarity": None,
        "achieved_sparsity": float(cell.sparsity),
        "model_sparsity": float(cell.sparsity) / 2,
        "block_errors": [0.1, 0.2],
        "block_heldout_errors": [],
        "block_sparsities": [],
        "refinements": [],
        "stages": {"load": 0.5, "prune": 1.0},
        "prune_seconds": 1.0,
        "gpu_seconds": None,
        "peak_memory_bytes": 10**9,
        "attempt": 1,
        "time": 0.0,
        "log": None,
        "provenance": {"commit": "c0ffee", "dirty": False, "image": None, "gpu": None},
    }


def _linears(key: str, cell: Cell, mask: bytes | None) -> list[dict[str, Any]]:
    row = {"cell": key, "rows": 8, "columns": 16, "pruned": int(128 * cell.sparsity)}
    row |= {"error": 0.1, "heldout_error": None, "notes": None, "mask_sample": mask}
    return [row | {"block": b, "linear": name} for b in (0, 1) for name in ("q_proj", "up_proj")]


def _write_columns(path: Path, columns: dict[str, Any]) -> None:
    """As `jobs.store.records.write_table`, from columns: millions of rows are no list of dicts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns, schema=OUTCOMES)
    pyarrow.parquet.write_table(table, path, compression="zstd")
