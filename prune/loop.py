"""The one block loop: every method prunes a model through it, one decoder block at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune.model.blocks import (
    BlockInputs,
    Linear,
    block_linears,
    decoder_blocks,
    record_block_inputs,
)
from prune.pattern import Pattern, Target
from prune.pruner import Pruned, Pruner
from prune.recipe import Recipe
from prune.statistics import InputStatistics

TOKENS_PER_BATCH = 4096
"""Tokens that go through a block together; keeps the matrix products large and memory small."""


@dataclass(frozen=True)
class PruningOptions:
    """What a grid's `pruning` section sets.

    Attributes:
        propagate: "pruned" feeds each block the outputs of the pruned blocks before it (as the
            published loops do), "dense" those of the dense blocks.
        skip: name patterns of linears to leave alone.
        fused: "split" prunes the parts of a fused projection one by one, "whole" as one matrix.
    """

    propagate: Literal["pruned", "dense"] = "pruned"
    skip: tuple[str, ...] = ()
    fused: Literal["split", "whole"] = "split"


@dataclass
class LinearReport:
    """What became of one linear: exact counts, and what the pruner noted."""

    block: int
    linear: str
    rows: int
    columns: int
    pruned: int
    notes: dict[str, object] = field(default_factory=dict)


@dataclass
class PruneReport:
    """What pruning did to a model.

    Attributes:
        linears: one entry a linear, in the order they were pruned.
        block_errors: per block, ||dense - pruned||^2 / ||dense||^2 of its outputs on the same
            inputs; empty where no data was used.
        weights: all weights of the model. zeros: those that are zero.
    """

    linears: list[LinearReport] = field(default_factory=list)
    block_errors: list[float] = field(default_factory=list)
    weights: int = 0
    zeros: int = 0

    @property
    def achieved_sparsity(self) -> float:
        """Fraction of the prunable weights that was pruned."""
        total = sum(x.rows * x.columns for x in self.linears)
        return sum(x.pruned for x in self.linears) / total if total else 0.0

    @property
    def model_sparsity(self) -> float:
        """Fraction of zeros among all weights of the model, embeddings included."""
        return self.zeros / self.weights


@torch.no_grad()
def prune_model(
    model: PreTrainedModel,
    recipe: Recipe,
    sparsity: Fraction,
    pattern: Pattern,
    input_ids: Tensor | None = None,
    seed: int = 0,
    options: PruningOptions = PruningOptions(),
    progress: Callable[[int, int], None] = lambda block, blocks: None,
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

    Raises:
        ValueError: the model has weights that cannot be pruned, a width that M does not divide,
            or activations that are NaN or infinite; the message names block and linear.
    """
    report = PruneReport()
    blocks = decoder_blocks(model)
    if recipe.pruner is not None:
        every = [block_linears(block, options.skip, options.fused) for block in blocks]
        _check_widths(every, pattern)
        stream = _Stream.start(model, blocks, input_ids) if recipe.needs_data else None
        for index, (block, linears) in enumerate(zip(blocks, every, strict=True)):
            progress(index, len(blocks))
            target = Target(sparsity, pattern)
            inputs = stream.observe(index, block, linears, recipe.pruner) if stream else {}
            for linear in linears:
                statistics = inputs.get(id(linear.module), InputStatistics())
                statistics.generator = _generator(seed, index, linear.name)
                report.linears.append(
                    _prune_linear(index, linear, recipe.pruner, statistics, target)
                )
            if stream:
                report.block_errors.append(stream.advance(index, block, options.propagate))
        progress(len(blocks), len(blocks))
    weights = list(model.parameters())
    report.weights = sum(w.numel() for w in weights)
    report.zeros = sum(int((w == 0).sum()) for w in weights)
    return report


@dataclass
class _Stream:
    """The calibration activations on their way through the blocks."""

    inputs: BlockInputs
    hidden: Tensor
    dense: Tensor

    @classmethod
    def start(cls, model: PreTrainedModel, blocks: nn.ModuleList, ids: Tensor | None) -> _Stream:
        if ids is None:
            raise ValueError("this recipe needs calibration data, and none was given")
        batch = max(1, TOKENS_PER_BATCH // ids.shape[1])
        inputs = record_block_inputs(model, blocks, ids, batch)
        return cls(inputs, inputs.hidden, torch.empty_like(inputs.hidden))

    def observe(
        self, index: int, block: nn.Module, linears: Iterable[Linear], pruner: Pruner
    ) -> dict[int, InputStatistics]:
        """Run the dense block; statistics by id of the module whose input they describe.

        Linears that read the same tensor (query, key and value, say) share one entry.
        """
        found: dict[int, InputStatistics] = {}
        current: dict[int, InputStatistics] = {}  # by input tensor, within one call of the block

        def observe(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            shared = current.get(id(args[0]))
            if shared is None:
                shared = found.get(id(module)) or InputStatistics(pruner.needs)
                try:
                    shared.update(args[0])
                except ValueError as error:
                    name = next(x.name for x in linears if x.module is module)
                    raise ValueError(f"block {index}, linear {name}: {error}") from None
                current[id(args[0])] = shared
                keep.append(args[0])
            found[id(module)] = shared

        modules = {id(x.module): x.module for x in linears}
        hooks = [m.register_forward_pre_hook(observe) for m in modules.values()]
        keep: list[Tensor] = []  # a freed tensor's id may come again
        try:
            for part, output in self.inputs.run(index, block, self.hidden):
                self.dense[part] = output
                current.clear()
                keep.clear()
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def advance(self, index: int, block: nn.Module, propagate: str) -> float:
        """Run the pruned block, move on to the next; returns the relative error of its output."""
        wrong = right = 0.0
        outputs = torch.empty_like(self.hidden)
        for part, output in self.inputs.run(index, block, self.hidden):
            dense = self.dense[part].double()
            wrong += float((output.double() - dense).square().sum())
            right += float(dense.square().sum())
            outputs[part] = output
        if propagate == "pruned":
            self.hidden = outputs
        else:
            self.hidden, self.dense = self.dense, outputs
        return wrong / right if right else 0.0


def _prune_linear(
    block: int, linear: Linear, pruner: Pruner, inputs: InputStatistics, target: Target
) -> LinearReport:
    """Prune one linear in place."""
    weight = linear.weight
    try:
        result: Pruned = pruner.prune(weight, inputs, target)
    except ValueError as error:
        raise ValueError(f"block {block}, linear {linear.name}: {error}") from error
    weight.copy_(result.weight)
    rows, columns = weight.shape
    return LinearReport(block, linear.name, rows, columns, int(result.mask.sum()), result.notes)


def _check_widths(blocks: Sequence[Sequence[Linear]], pattern: Pattern) -> None:
    """Refuse a pattern whose M does not divide the inputs of every linear, before any is touched."""
    if not pattern.m:
        return
    wrong = {
        f"{linear.name} ({linear.weight.shape[1]} inputs)"
        for linears in blocks
        for linear in linears
        if linear.weight.shape[1] % pattern.m
    }
    if wrong:
        raise ValueError(
            f"pattern {pattern} needs inputs that {pattern.m} divides; it does not divide those "
            f"of {', '.join(sorted(wrong))}: skip them (pruning.skip) or choose another pattern"
        )


def _generator(seed: int, block: int, linear: str) -> torch.Generator:
    """Random numbers of one linear, whatever was drawn before it."""
    digest = hashlib.sha256(f"{seed}\0{block}\0{linear}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
