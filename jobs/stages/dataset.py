"""What a run keeps of its datasets and their documents: domains, quality, neighbours, leaks.

A record of each dataset of a run, with a table of its documents, lies in the folder `datasets/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.contamination import Contamination
from calib.pool import Pool
from calib.quality import quality
from jobs.files import read_json, replacing, write_json
from jobs.plan.cells import Cell
from jobs.stages.contamination import task_grams
from jobs.stages.similarity import pool_artefact
from jobs.whole import is_record_whole

if TYPE_CHECKING:
    from jobs.stages.calibration import Stages


def document_figures(
    pool: Pool, windows: Sequence[Sequence[tuple[str, int, int]]]
) -> dict[str, dict[str, Any]]:
    """Quality and web domain of every document that windows take tokens from, by id."""
    row_of = {d: i for i, d in enumerate(pool.ids)}
    found = {}
    for document in sorted({d for window in windows for d, _, _ in window}):
        i = row_of[document]
        figures = quality(pool.texts[i])
        found[document] = {
            "domain": (pool.domains[i] or None) if pool.domains else None,
            "quality": figures.quality,
            "gopher": figures.gopher,
            "c4": figures.c4,
            "failed_rules": list(figures.failed),
        }
    return found


def describe_datasets(stages: Stages, cell: Cell) -> None:
    """Keep in the run what a cell's dataset and the reference are; see `describe_dataset`."""
    if cell.draw is None:
        return
    for name in (cell.draw.dataset, stages.plan.reference[cell.model]):
        if name is not None:
            describe_dataset(stages, name, cell.model, cell.draw.seqlen)


def describe_dataset(stages: Stages, dataset: str, model: str, seqlen: int) -> None:
    """Keep in the run what its pool is and what it shares with the evaluations, unless it is there.

    `datasets/<key>.json` says it of the pool, `datasets/<key>.parquet` of each document.
    """
    path = stages.run.dataset(stages.plan.dataset_key(dataset, model, seqlen))
    if is_record_whole(path):
        return
    pool_folder = stages.pool_folder(dataset, model, seqlen)
    pool = Pool.load(pool_folder)
    stages.progress("contamination", 0, 0)
    shared = {name: task.within(pool.texts) for name, task in task_grams(stages, model)}
    artefact = pool_artefact(stages, dataset, model, seqlen)
    neighbours = [] if artefact is None else read_json(artefact / "neighbours.json")
    _write_documents(path.with_suffix(".parquet"), pool, neighbours, shared)
    record = {
        "dataset": dataset,
        "model": model,
        "seqlen": seqlen,
        "pool": pool_folder.name,
        "documents": len(pool.ids),
        "characters": sum(map(len, pool.texts)),
        "addresses": sum(map(bool, pool.domains)),
        "contamination": [
            {"task": n, "task_documents": c.documents, "found": c.found, "texts": len(c.texts)}
            for n, c in shared.items()
        ],
    }
    write_json(path, record)


def _write_documents(
    path: Path, pool: Pool, neighbours: Sequence[dict[str, Any]], shared: dict[str, Contamination]
) -> None:
    """One row a document: domain, nearest in the reference, tasks that it shares text with."""
    import pyarrow
    import pyarrow.parquet

    near = {row["document"]: row for row in neighbours}
    tasks: dict[int, list[str]] = {}
    for name, contamination in shared.items():
        for i in contamination.texts:
            tasks.setdefault(i, []).append(name)
    columns = {
        "document": pyarrow.array(pool.ids, "string"),
        "domain": pyarrow.array(
            [d or None for d in pool.domains] or [None] * len(pool.ids), "string"
        ),
        "tasks": pyarrow.array(
            [tasks.get(i) for i in range(len(pool.ids))], pyarrow.list_(pyarrow.string())
        ),
    }
    for name, kind in (("nearest", "string"), ("jaccard", "float64"), ("containment", "float64")):
        columns[name] = pyarrow.array([near.get(d, {}).get(name) for d in pool.ids], kind)
    with replacing(path) as partial:
        pyarrow.parquet.write_table(pyarrow.table(columns), partial, compression="zstd")
