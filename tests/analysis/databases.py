"""Databases of grids that nobody ran: scores with known effects, of any number of cells."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb

from jobs.store import schema, views

DATASETS = {"dclm": 0.0, "c4": -0.004, "slimpajama": -0.008, "wikipedia": -0.02, "synthetic": 0.003}
"""What a dataset adds to every accuracy at 60 %; a quarter of it at 50 %."""

SIMILARITY = {"dclm": 0.2, "c4": 0.07, "slimpajama": 0.016, "wikipedia": 0.008, "synthetic": 0.03}
RECIPES = {
    "wanda": ("wanda", 0.0),
    "sparsegpt": ("sparsegpt(dampening=0.01, block=128)", 0.004),
    "dsnot": ("dsnot(initial=wanda, max_cycles=50, variant=released)", -0.006),
    "ria": ("ria(a=0.5)", 0.001),
    "owl": ("wanda(allocation=owl(lam=0.08, m=5.0))", 0.006),
}
TASKS = ("boolq", "arc_easy")
TEXT = "wikitext2"
GRID = """\
name: made
model: some/model-7B
reference: dclm
cells:
  dataset: [dclm, c4, slimpajama, wikipedia, synthetic]
  pruner: [magnitude, wanda, sparsegpt]
  seed: [0, 1]
"""


def make_database(
    path: Path, cells: int = 200, failed: int = 3, recipes: Sequence[str] = tuple(RECIPES)
) -> Path:
    """A database with so many cells, the last `failed` of which have failed."""
    choose = random.Random(0)
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in schema.TABLES}
    tables["runs"] = [
        {
            "run": "made",
            "schema_version": schema.VERSION,
            "grid": GRID,
            "dtype": "bfloat16",
            "harness": "0.4.13",
            "primary_metric": "mean_accuracy",
            "delta": 0.5,
            "state": "made",
        }
    ]
    rows = list(_cells(cells, [RECIPES[name] for name in recipes]))
    for number, row in enumerate(rows):
        state = "failed" if number >= len(rows) - failed else "done"
        _add(tables, row | {"cell": f"{number:016x}", "status": state}, choose)
    _add_texts(tables)
    with duckdb.connect(str(path)) as connection:
        for statement in schema.create_tables():
            connection.execute(statement)
        for table, found in tables.items():
            _insert(connection, table, found)
        for statement in views.create_views([(t, "acc") for t in TASKS], [(TEXT, "perplexity")]):
            connection.execute(statement)
    return path


def _cells(count: int, recipes: Sequence[tuple[str, float]]) -> Iterator[dict[str, Any]]:
    """Dense and magnitude, then draws of everything else until there are `count` cells."""
    plain = {"model": "some/model-7B", "pattern": "unstructured", "dtype": "bfloat16"}
    yield plain | {"pruner": "dense", "recipe": "dense", "sparsity": 0.0}
    settings = [("unstructured", 0.5), ("unstructured", 0.6), ("2:4", 0.5), ("4:8", 0.5)]
    for pattern, sparsity in settings:
        shape = {"pattern": pattern, "sparsity": sparsity}
        yield plain | {"pruner": "magnitude", "recipe": "magnitude"} | shape
    infinite = (
        plain
        | {"dataset": dataset, "seed": seed, "size": size, "seqlen": 2048, "sampler": "stream"}
        | {"pattern": pattern, "sparsity": sparsity, "recipe": recipe, "effect": effect}
        | {"pruner": recipe.partition("(")[0]}
        for seed in itertools.count()
        for (recipe, effect), (pattern, sparsity), size, dataset in itertools.product(
            recipes, settings, (64, 128), DATASETS
        )
    )
    yield from itertools.islice(infinite, count - 5)


def _add(tables: dict[str, list[dict[str, Any]]], row: dict[str, Any], choose: Any) -> None:
    """A cell with its evaluations, stages and, where it failed, its failure."""
    cell, dataset, done = row["cell"], row.get("dataset"), row["status"] == "done"
    strength = 1.0 if row["sparsity"] == 0.6 else 0.25
    effect = row.pop("effect", 0.0) + (DATASETS[dataset] * strength if dataset else 0.0)
    base = 0.72 - 0.16 * row["sparsity"] ** 2 - (0.01 if row["pattern"] != "unstructured" else 0)
    score = base + effect - (0.03 if row["pruner"] == "magnitude" else 0)
    calibration = f"set{dataset}{row['seed']}{row['size']}" if dataset else None
    tables["cells"].append(
        row
        | {"run": "made", "in_grid": True, "calibration": calibration, "replicate": 0}
        | {"generated": dataset == "synthetic"}
        | {"achieved_sparsity": row["sparsity"], "model_sparsity": row["sparsity"] * 0.95}
        | {"block_errors": [0.1 + 0.01 * b - effect for b in range(8)] if done else None}
        | {"gpu_seconds": 600.0 if done else None, "peak_memory_bytes": 9 << 30, "attempt": 1}
        | {"record": f"cells/{cell}.json", "log": f"logs/{cell}.log"}
        | {
            "provenance": json.dumps(
                {"commit": "0123abcd", "dirty": False, "packages": {"torch": "2.13.0"}}
            )
        }
    )
    if not done:
        failure = {"cell": cell, "attempt": 1, "kind": "error", "stage": "prune"}
        failure |= {"cause": "CUDA out of memory <b>&amp;</b>", "signature": "oom"}
        tables["failures"].append(failure | {"log": f"logs/{cell}.log"})
        return
    tables["stages"] += [
        {"cell": cell, "stage": "prune", "seconds": 60.0},
        {"cell": cell, "stage": "boolq", "seconds": 30.0},
    ]
    if dataset:
        near = {"value": SIMILARITY[dataset], "stderr": 0.001, "n": 10**6}
        tables["similarity"].append({"cell": cell, "dataset": dataset, "measure": "jaccard"} | near)
    for name in (*TASKS, TEXT):
        noisy = score + choose.gauss(0, 0.002)
        figure = noisy if name != TEXT else 12 - 8 * noisy
        metric = "acc" if name != TEXT else "perplexity"
        key = {"cell": cell, "evaluation": f"{cell}{name}"}
        kind = "task" if name != TEXT else "text"
        tables["evaluations"].append(
            key | {"kind": kind, "name": name, "in_grid": True, "headline": metric}
        )
        tables["metrics"].append(
            key | {"task": name, "metric": metric, "value": figure, "stderr": 0.01, "n": 1000}
        )


def _add_texts(tables: dict[str, list[dict[str, Any]]]) -> None:
    """Three windows to read of every calibration set, one of them with markup in it."""
    for calibration in dict.fromkeys(c["calibration"] for c in tables["cells"]):
        if calibration:
            tables["windows"] += [
                {
                    "calibration": calibration,
                    "number": number,
                    "documents": 2,
                    "document": "d" * 32,
                    "start": 7,
                    "text": f"<script>alert({number})</script> The river & the mill. " * 9,
                }
                for number in range(3)
            ]


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    import pyarrow

    columns = schema.TABLES[table][1]
    if rows:
        data = pyarrow.Table.from_pylist([{name: r.get(name) for name in columns} for r in rows])
        connection.register("fresh", data)
        casts = ", ".join(f'"{name}"::{kind}' for name, (kind, _) in columns.items())
        connection.execute(f"INSERT INTO {table} SELECT {casts} FROM fresh")
        connection.unregister("fresh")
