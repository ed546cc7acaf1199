"""How a cell's text relates to the reference: its pool, its windows, and what the model says of it.

Figures are artefacts that cells and runs share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from calib import similarity
from calib.draw import CalibrationSet
from calib.measures import MEASURES, MODEL_MEASURES
from calib.pool import Pool
from calib.similarity import Value
from jobs.built import is_sound
from jobs.files import finite, read_json, write_json
from jobs.plan.cells import Draw, digest
from jobs.stages.pool import build_control
from jobs.stages.sketch import VERSION, corpora, science_of, sketch_shards, split_of

if TYPE_CHECKING:
    from jobs.stages.calibration import Stages

Figures = dict[str, Value]


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
    science = science_of(stages, model, [p.name for p in pools]) | {"measures": wanted}
    path = stages.run.artefacts / "similarity" / digest(science)
    if is_sound(path):
        return path
    one, other = map(Pool.load, pools)
    both = corpora(stages, one, other, model, science)
    if both.units > similarity.EXACT_UNITS:  # before this is claimed, so that others help
        sketch_shards(stages, both, science)

    def build(folder: Path) -> None:
        stages.progress("similarity", 0, 0)
        figures = {k: v for name in wanted for k, v in MEASURES[name](both).items()}
        write_json(
            folder / "similarity.json", {k: asdict(v) for k, v in (figures | bounds).items()}
        )
        looked_at = {"containment", "nearest"} & set(wanted)
        write_json(folder / "neighbours.json", both.neighbours if looked_at else [])

    return stages.artefact("similarity", path.name, build)


def _bounds(stages: Stages, reference: str, model: str, seqlen: int) -> Figures:
    """The reference against itself, and random tokens against it."""
    pool = stages.pool_folder(reference, model, seqlen)
    science = science_of(stages, model, [pool.name]) | {"measures": ["bounds"]}
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
    science = science_of(stages, model, [pool.name]) | {"calibration": key, "measures": ["windows"]}

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
) -> Figures:
    """Everything about a cell's text: of its pool, its windows, and by the model; kept in the run.

    Cells outlive the grid's reference: what they record is of then, what the run keeps of now.
    """
    pool = pool_figures(stages, draw.dataset, model, draw.seqlen)
    found = (pool or {}) | window_figures(stages, draw, model, key, calibration)
    found |= model_figures(stages, dense, model, key, calibration)
    name = stages.plan.similarity_key(draw, model)
    figures = {measure: asdict(value) for measure, value in found.items()}
    record = {"key": name, "dataset": draw.dataset, "calibration": key, "figures": figures}
    write_json(stages.run.similarity(name), finite(record))
    return found
