"""Pruning one cell: from its calibration set to the pruned model and the cell's record."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from calib.draw import CalibrationSet
from jobs.built import build_once, is_whole
from jobs.files import finite
from jobs.heartbeat import Heartbeat
from jobs.plan.cells import Cell
from jobs.plan.describe import describe
from jobs.provenance import provenance
from jobs.stages.calibration import Stages
from jobs.stages.dataset import describe_datasets
from jobs.stages.similarity import Figures, cell_figures
from jobs.store.records import write_record
from prune.block_loop import PruningOptions
from prune.loop import prune_model
from prune.model.blocks import decoder_blocks, prunable_linears
from prune.model.load import load_streamed
from prune.model.tensorfile import entries
from prune.model.weights import BlockWeights
from prune.pattern import Pattern
from prune.recipe import DENSE
from prune.report import PruneReport
from prune.sample import pack_bits, unpack_bits


def prune_and_record(stages: Stages, key: str, cell: Cell, beat: Heartbeat) -> PreTrainedModel:
    """Prune the cell's model, keep what the grid wants kept, write the record; returns the model.

    A record that is there already stays as it is: a model pruned again, for a new evaluation,
    is the same model.
    """
    calibration_key, calibration = None, None
    similarity: Figures | None = None
    if cell.draw is not None:
        calibration_key, calibration = stages.calibration(cell.draw, cell.model)
    beat("load")
    model, weights = load_streamed(stages.folder(cell.model), stages.plan.dtype)

    def dense() -> PreTrainedModel:
        weights.settle()
        return model

    if not cell.recipe.needs_data:
        weights.settle()  # nothing passes through its blocks: they come once and stay
    if cell.draw is not None:
        assert calibration_key is not None
        assert calibration is not None
        similarity = cell_figures(
            stages, cell.draw, cell.model, calibration_key, calibration, dense
        )
    started = time.monotonic()
    report, peak = _prune(stages, key, cell, model, weights, calibration, beat)
    seconds = time.monotonic() - started
    beat("load")
    weights.settle()
    stages.check([stages.folder(cell.model)])  # weights are read while blocks are pruned
    _keep(stages, key, cell, model, beat)
    beat.stop()
    if not stages.run.is_recorded(key):
        _write(stages, key, cell, report, seconds, peak, beat, calibration_key, similarity)
    describe_datasets(stages, cell)
    return model


def _prune(
    stages: Stages,
    key: str,
    cell: Cell,
    model: PreTrainedModel,
    weights: BlockWeights,
    calibration: CalibrationSet | None,
    beat: Heartbeat,
) -> tuple[PruneReport, int]:
    """Prune the model; what that did, and the most memory it took."""
    from jobs.cell import peak_memory_bytes

    beat("prune")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    ids = None if calibration is None else torch.from_numpy(calibration.input_ids).long()
    report = prune_model(
        model,
        cell.recipe,
        cell.sparsity,
        Pattern.parse(cell.pattern),
        ids,
        seed=cell.seed or 0,
        options=pruning_options(stages),
        progress=lambda block, blocks: beat("prune", block, blocks),
        heldout_ids=stages.heldout(cell.model),
        weights=weights,
        checkpoints=stages.run.checkpoints(key),
    )
    if report.resumed_blocks:
        done, blocks = report.resumed_blocks, len(report.block_sparsities)
        print(f"cell {key}: went on after block {done} of {blocks}", flush=True)
    return report, peak_memory_bytes()


def pruning_options(stages: Stages) -> PruningOptions:
    """The grid's `pruning` section, as the block loop takes it."""
    pruning = stages.plan.pruning
    return PruningOptions(pruning.propagate, tuple(pruning.skip), pruning.fused)


def _write(
    stages: Stages,
    key: str,
    cell: Cell,
    report: PruneReport,
    seconds: float,
    peak: int,
    beat: Heartbeat,
    calibration_key: str | None,
    similarity: Figures | None,
) -> None:
    plan = stages.plan
    record = {
        "cell": key,
        "run": plan.name,
        **describe(cell, plan.dtype),
        "science": cell.to_json() | {"content": plan.inputs.models[cell.model].content},
        "calibration": calibration_key,
        "similarity": {k: vars(v) for k, v in similarity.items()} if similarity else None,
        "achieved_sparsity": report.achieved_sparsity,
        "model_sparsity": report.model_sparsity,
        "block_errors": report.block_errors,
        "block_heldout_errors": report.block_heldout_errors,
        "block_sparsities": report.block_sparsities,
        "refinements": report.refinements,
        "error_tokens": report.error_tokens,
        "block_error_tokens": report.block_error_tokens,
        "resumed_blocks": report.resumed_blocks,
        "stages": beat.seconds,
        "prune_seconds": seconds,
        "gpu_seconds": sum(beat.seconds.values()) if torch.cuda.is_available() else None,
        "peak_memory_bytes": peak,
        "attempt": len(stages.run.failures(key)) + 1,
        "time": time.time(),
        "log": os.environ.get("CALGRID_LOG"),
        "provenance": provenance(),
    }
    linears = [
        {
            "cell": key,
            "block": x.block,
            "linear": x.linear,
            "rows": x.rows,
            "columns": x.columns,
            "pruned": x.pruned,
            "error": x.error,
            "heldout_error": x.heldout_error,
            "notes": json.dumps(x.notes) if x.notes else None,
            "mask_sample": x.mask_sample,
        }
        for x in report.linears
    ]
    write_record(stages.run, key, finite(record), linears)


# -- kept models and masks


def _keep(stages: Stages, key: str, cell: Cell, model: PreTrainedModel, beat: Heartbeat) -> None:
    """Store the pruned model, or its masks, where the grid wants them; never the dense model."""
    keep = stages.plan.keep
    if keep == "none" or cell.recipe.name == DENSE:
        return
    beat("keep")

    def save_model(folder: Path) -> None:
        model.save_pretrained(folder)
        stages.tokenizer(cell.model).save_pretrained(folder)

    def save_masks(folder: Path) -> None:
        masks = {name: pack_bits(weight == 0).cpu() for name, weight in _weights(stages, model)}
        save_file(masks, folder / "masks.safetensors")

    if keep == "models":
        build_once(stages.run.model(key), save_model)
    else:
        build_once(stages.run.masks(key), save_masks)


def _weights(stages: Stages, model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    """The prunable weights of a model by block and name, as views."""
    pruning = stages.plan.pruning
    blocks = prunable_linears(decoder_blocks(model), pruning.skip, pruning.fused)
    return [
        (f"{index}.{linear.name}", linear.weight)
        for index, linears in enumerate(blocks)
        for linear in linears
    ]


def kept_model(stages: Stages, key: str) -> PreTrainedModel | None:
    """The pruned model of a recorded cell, from what was kept; None where nothing was."""
    from prune.model.load import load_model

    cell = stages.plan.cell(key)
    if cell.recipe.name == DENSE:
        return stages.load(cell.model)
    if is_whole(stages.run.model(key)):
        stages.progress("load", 0, 0)
        return load_model(stages.run.model(key), stages.plan.dtype)
    if is_whole(stages.run.masks(key)) and not cell.recipe.updates_weights:
        model = stages.load(cell.model)
        masks = entries(stages.run.masks(key))
        for name, weight in _weights(stages, model):
            weight.masked_fill_(unpack_bits(masks[name].read(), weight.shape).to(weight.device), 0)
        return model
    return None
