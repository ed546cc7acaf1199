"""How a cell's text relates to the reference: its pool, its windows, and what the model says of it.

Figures of a pool are an artefact that cells and runs share; a record of each dataset of a run,
with a table of its documents, lies in the run's folder `datasets/`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedModel

from calib import similarity
from calib.contamination import Contamination, N, TaskGrams
from calib.draw import CalibrationSet
from calib.measures import MEASURES, MODEL_MEASURES, Corpora
from calib.minhash import Sketch
from calib.pool import Pool
from calib.quality import quality
from calib.readers import read_rows
from calib.samples import Split
from calib.shingles import unit_hashes, word_hashes
from calib.similarity import Value
from jobs.cells import Cell, Draw, digest
from jobs.files import read_json, unique_suffix, write_json
from jobs.pool_stage import build_control

if TYPE_CHECKING:
    from jobs.stages import Stages

VERSION = 3
"""Raised when a figure is computed otherwise than before."""

Figures = dict[str, Value]


def split_of(stages: Stages, model: str) -> Split:
    """Texts to hashed words, or to hashed tokens of a model, as the grid wants them."""
    if stages.plan.similarity.unit == "word":
        return word_hashes
    tokenize = stages.tokenize(model)

    def split(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        ids = tokenize(list(texts))
        joined = np.array([token for text in ids for token in text], np.int64)
        return unit_hashes(joined), np.array([len(text) for text in ids], np.int64)

    return split


def corpora(
    stages: Stages, candidate: Pool, reference: Pool, model: str, science: dict[str, Any]
) -> Corpora:
    """Two pools beside each other, with the grid's settings; `science` is what they depend on."""
    settings = stages.plan.similarity

    def keep(name: str, make: Callable[[], Sketch]) -> Sketch:
        key = digest(science | {"measures": [], "shard": name})
        built = stages.artefact("sketches", key, lambda f: make().save(f / "sketch.safetensors"))
        return Sketch.load(built / "sketch.safetensors")

    return Corpora(
        candidate,
        reference,
        n=settings.n,
        units=settings.tokens,
        permutations=settings.num_perm,
        seed=settings.seed,
        documents=settings.documents,
        split=split_of(stages, model),
        keep=keep,
    )


def _science(stages: Stages, model: str, pools: Sequence[str]) -> dict[str, Any]:
    """What figures of pools depend on."""
    settings = stages.plan.similarity
    content = stages.plan.inputs.models[model].content if settings.unit == "token" else None
    return settings.model_dump() | {"tokenizer": content, "pools": pools, "version": VERSION}


def pool_figures(stages: Stages, dataset: str, model: str, seqlen: int) -> Figures | None:
    """How near a dataset's pool is to the reference's, by measure; None without a reference.

    With `jaccard_ceiling`, the reference against itself, and `jaccard_floor`, random tokens.
    """
    folder = pool_artefact(stages, dataset, model, seqlen)
    return None if folder is None else _read(folder)


def _read(folder: Path) -> Figures:
    return {k: Value(**v) for k, v in read_json(folder / "similarity.json").items()}


def pool_artefact(stages: Stages, dataset: str, model: str, seqlen: int) -> Path | None:
    """The folder with `similarity.json` and `neighbours.json`; None without a reference."""
    reference = stages.plan.reference[model]
    if reference is None:
        return None
    bounds = _bounds(stages, reference, model, seqlen)
    pools = [stages.pool_folder(name, model, seqlen) for name in (dataset, reference)]
    wanted = [m for m in MEASURES if m in {"jaccard", "domains", *stages.plan.similarity.measures}]
    science = _science(stages, model, [p.name for p in pools]) | {"measures": wanted}

    def build(folder: Path) -> None:
        stages.progress("similarity", 0, 0)
        one, other = map(Pool.load, pools)
        both = corpora(stages, one, other, model, science)
        figures = {k: v for name in wanted for k, v in MEASURES[name](both).items()}
        write_json(
            folder / "similarity.json", {k: asdict(v) for k, v in (figures | bounds).items()}
        )
        looked_at = {"containment", "nearest"} & set(wanted)
        write_json(folder / "neighbours.json", both.neighbours if looked_at else [])

    return stages.artefact("similarity", digest(science), build)


def _bounds(stages: Stages, reference: str, model: str, seqlen: int) -> Figures:
    """The reference against itself, and random tokens against it."""
    pool = stages.pool_folder(reference, model, seqlen)
    science = _science(stages, model, [pool.name]) | {"measures": ["bounds"]}
    science["model"] = stages.plan.inputs.models[model].content

    def build(folder: Path) -> None:
        stages.progress("similarity", 0, 0)
        whole = Pool.load(pool)
        build_control(stages, "random_tokens", model, seqlen, folder)
        found = {}
        for name, other in (("ceiling", whole), ("floor", Pool.load(folder))):
            both = corpora(stages, other, whole, model, science)
            if not both.empty:
                found[f"jaccard_{name}"] = similarity.exact(both.comparison)["jaccard"]
        write_json(folder / "similarity.json", {k: asdict(v) for k, v in found.items()})

    return _read(stages.artefact("similarity", digest(science), build))


# -- the windows of one calibration set


def window_figures(
    stages: Stages, draw: Draw, model: str, key: str, calibration: CalibrationSet
) -> Figures:
    """How near the windows drawn are to the reference; empty without a reference."""
    reference = stages.plan.reference[model]
    if reference is None:
        return {}
    pool = stages.pool_folder(reference, model, draw.seqlen)
    science = _science(stages, model, [pool.name]) | {"calibration": key, "measures": ["windows"]}

    def build(folder: Path) -> None:
        stages.progress("similarity", 0, 0)
        other = Pool.load(pool)
        drawn = {document for window in calibration.windows for document, _, _ in window}
        decode = stages.tokenizer(model).decode
        texts = [str(decode(ids)) for ids in calibration.input_ids.tolist()]
        windows = Pool([f"{i:032x}" for i in range(len(texts))], texts)
        settings, split = stages.plan.similarity, split_of(stages, model)
        try:
            both = similarity.compare(windows, other, settings.n, settings.tokens, split, drawn)
        except similarity.NoGramsError:  # windows of dots, or shorter than a gram: no figure
            write_json(folder / "similarity.json", {})
            return
        found = similarity.exact(both)["jaccard"]
        write_json(folder / "similarity.json", {"jaccard_windows": asdict(found)})

    return _read(stages.artefact("similarity", digest(science), build))


def model_figures(
    stages: Stages,
    dense: Callable[[], PreTrainedModel],
    model: str,
    key: str,
    calibration: CalibrationSet,
) -> Figures:
    """What the dense model says of the windows drawn, where the grid asks for it."""
    wanted = [m for m in MODEL_MEASURES if m in stages.plan.similarity.measures]
    if not wanted:
        return {}
    content = stages.plan.inputs.models[model].content
    science = {"calibration": key, "model": content, "dtype": stages.plan.dtype, "version": VERSION}

    def build(folder: Path) -> None:
        from calib import membership

        def progress(done: int, total: int) -> None:
            stages.progress("similarity", done, total)

        windows = calibration.input_ids.tolist()
        losses, scores = zip(*membership.window_figures(dense(), windows, progress), strict=True)
        found = {"perplexity": membership.perplexity(losses), "min_k": membership.min_k(scores)}
        write_json(folder / "similarity.json", {k: asdict(v) for k, v in found.items()})

    found = _read(stages.artefact("similarity", digest(science), build))
    return {name: found[name] for name in wanted}


def cell_figures(
    stages: Stages,
    draw: Draw,
    model: str,
    key: str,
    calibration: CalibrationSet,
    dense: Callable[[], PreTrainedModel],
) -> Figures | None:
    """Everything about a cell's text: of its pool, its windows, and by the model."""
    pool = pool_figures(stages, draw.dataset, model, draw.seqlen)
    found = (pool or {}) | window_figures(stages, draw, model, key, calibration)
    found |= model_figures(stages, dense, model, key, calibration)
    return found or None


# -- documents


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
    if path.is_file():
        return
    pool_folder = stages.pool_folder(dataset, model, seqlen)
    pool = Pool.load(pool_folder)
    stages.progress("contamination", 0, 0)
    shared = {name: task.within(pool.texts) for name, task in _task_grams(stages, model)}
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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + unique_suffix())
    pyarrow.parquet.write_table(pyarrow.table(columns), partial, compression="zstd")
    partial.replace(path)


def _task_grams(stages: Stages, model: str) -> Iterator[tuple[str, TaskGrams]]:
    """The n-grams of everything that the grid evaluates on, by its name in the grid."""
    plan = stages.plan
    for task in plan.evaluate.tasks:
        science = {"task": task.name, "harness": plan.harness, "n": N, "version": VERSION}
        science["data"] = plan.inputs.tasks[task.name].identity
        if plan.inputs.demo is not None and task.name.startswith("demo_"):
            science["files"] = plan.inputs.demo.name
        yield task.name, _grams_of(stages, science, partial(_task_texts, stages, task.name))
    for name in plan.evaluate.perplexity:
        text = plan.inputs.texts.get(name)
        identity = (
            plan.inputs.pool(name, model, plan.dtype, plan.seqlen)
            if text is None
            else text.identity
        )
        science = {"text": identity, "n": N, "version": VERSION}
        yield name, _grams_of(stages, science, partial(_text_rows, stages, name, model))


def _grams_of(
    stages: Stages, science: dict[str, Any], documents: Callable[[], Sequence[str]]
) -> TaskGrams:
    def build(folder: Path) -> None:
        TaskGrams.of(documents()).save(folder / "grams.safetensors")

    built = stages.artefact("evaluation-grams", digest(science), build)
    return TaskGrams.load(built / "grams.safetensors")


def _text_rows(stages: Stages, name: str, model: str) -> Sequence[str]:
    """The rows of a perplexity text, or the documents of a dataset that is one."""
    text = stages.plan.inputs.texts.get(name)
    if text is None:
        return stages.pool(name, model, stages.plan.seqlen).texts
    assert text.source is not None, f"text {name} is not on this machine; launch again"
    return list(islice(read_rows(text.source), text.spec.max_documents))


def _task_texts(stages: Stages, name: str) -> list[str]:
    """Every document that a task evaluates on, all its texts as one."""
    from lm_eval.tasks import TaskManager

    from jobs.task_documents import loading

    inputs = stages.plan.inputs
    files = inputs.tasks[name]
    manager = TaskManager(include_defaults=False, include_path=files.paths)
    with (
        tempfile.TemporaryDirectory() as cache,
        loading(files.datasets, inputs.demo, files.paths, cache),
    ):
        tasks = manager.load([name])["tasks"]
        return [" ".join(_strings(dict(d))) for task in tasks.values() for d in task.eval_docs]


def _strings(value: Any) -> Iterator[str]:
    """The texts inside a document, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
