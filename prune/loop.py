"""The one way to prune a model: every method goes through it, one decoder block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune.block_loop import BlockLoop, PruningOptions
from prune.checkpoint import Checkpoint
from prune.measure import zeros
from prune.model.blocks import decoder_blocks
from prune.model.weights import BlockWeights
from prune.pattern import Pattern, Target
from prune.recipe import Recipe
from prune.report import PruneReport

DEFAULTS = PruningOptions()


def prune_model(
    model: PreTrainedModel,
    recipe: Recipe,
    sparsity: Fraction,
    pattern: Pattern,
    input_ids: Tensor | None = None,
    seed: int = 0,
    options: PruningOptions = DEFAULTS,
    progress: Callable[[int, int], None] = lambda block, blocks: None,
    heldout_ids: Tensor | None = None,
    weights: BlockWeights | None = None,
    checkpoints: Path | None = None,
) -> PruneReport:
    """Prune `model` in place.

    Args:
        model: a decoder in evaluation mode.
        recipe: what to do; the dense recipe changes nothing.
        sparsity: fraction of the prunable weights to lose.
        pattern: unstructured or N:M.
        input_ids: the calibration set, [size, seqlen]; None where the recipe needs no data.
        seed: of random numbers a method draws itself.
        options: see `PruningOptions`.
        progress: called with (blocks done, blocks) before each block and at the end.
        heldout_ids: windows on which errors are measured too, [any, seqlen]; no method sees them.
        weights: what brings the blocks of `model`, where they are not all there.
        checkpoints: a folder of this pruning alone, where finished blocks are stored and found.

    Raises:
        ValueError: the model has weights that cannot be pruned, a width that M does not divide,
            or weights or activations that are NaN or infinite; the message names block and linear.
    """
    report = PruneReport()
    blocks = decoder_blocks(model)
    weights = weights or BlockWeights(blocks)
    with torch.no_grad(), full_precision():
        if recipe.pruner is None:
            for index in range(len(blocks)):
                with weights.here(index, then=index + 1) as block:
                    report.zeros += zeros(block.parameters())
        else:
            checkpoint = None
            if checkpoints is not None:
                checkpoint = Checkpoint(checkpoints, masks_alone=not recipe.updates_weights)
            target = Target(sparsity, pattern)
            loop = BlockLoop.start(
                model, weights, recipe, target, input_ids, seed, options, heldout_ids, checkpoint
            )
            try:
                for index in range(len(blocks)):
                    progress(index, len(blocks))
                    report.add(loop.next_block(index, recipe.pruner))
            except KeyboardInterrupt:  # asked to stop: the next time to store may never come
                if checkpoint is not None:
                    checkpoint.keep(weights)
                raise
            if checkpoint is not None:
                checkpoint.finish(weights)
                report.resumed_blocks = checkpoint.done
            progress(len(blocks), len(blocks))
            loop.describe(report)
        inside = {id(w) for w in blocks.parameters()}
        report.weights = sum(w.numel() for w in model.parameters())
        report.zeros += zeros(w for w in model.parameters() if id(w) not in inside)
    return report


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products in float32, not TF32, as a mask must not depend on a GPU's shortcuts."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    # read under its new name: the old one fails where only the new one was set
    before = products.fp32_precision, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        products.allow_tf32 = before[0] == "tf32"
        products.fp32_precision, convolutions.allow_tf32 = before
