"""The one block loop: every method prunes a model through it, one decoder block at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune.errors import relative_error
from prune.gradients import gradient_norms
from prune.model.blocks import Linear, decoder_blocks, prunable_linears
from prune.pattern import Pattern, Target
from prune.pruner import Pruned, Pruner
from prune.recipe import Recipe
from prune.refiner import PrunedBlock, Refiner
from prune.report import LinearReport, PruneReport
from prune.statistics import InputStatistics
from prune.stream import Seen, Stream


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


def prune_model(
    model: PreTrainedModel,
    recipe: Recipe,
    sparsity: Fraction,
    pattern: Pattern,
    input_ids: Tensor | None = None,
    seed: int = 0,
    options: PruningOptions = PruningOptions(),
    progress: Callable[[int, int], None] = lambda block, blocks: None,
    heldout_ids: Tensor | None = None,
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

    Raises:
        ValueError: the model has weights that cannot be pruned, a width that M does not divide,
            or activations that are NaN or infinite; the message names block and linear.
    """
    report = PruneReport()
    with torch.no_grad(), full_precision():
        if recipe.pruner is not None:
            loop = _Loop.start(
                model, recipe, Target(sparsity, pattern), input_ids, seed, options, heldout_ids
            )
            for index in range(len(loop.blocks)):
                progress(index, len(loop.blocks))
                loop.prune_block(index, recipe.pruner, report)
            progress(len(loop.blocks), len(loop.blocks))
        weights = list(model.parameters())
        report.weights = sum(w.numel() for w in weights)
        report.zeros = sum(int((w == 0).sum()) for w in weights)
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


@dataclass
class _Loop:
    """What the blocks of one model are pruned with."""

    blocks: nn.ModuleList
    linears: list[list[Linear]]
    refiner: Refiner | None
    targets: list[Target]
    seed: int
    options: PruningOptions
    calibration: Stream | None
    heldout: Stream | None
    gradients: list[dict[int, Tensor]] | None

    @classmethod
    def start(
        cls,
        model: PreTrainedModel,
        recipe: Recipe,
        target: Target,
        ids: Tensor | None,
        seed: int,
        options: PruningOptions,
        heldout_ids: Tensor | None,
    ) -> _Loop:
        """Check everything, then gather what is needed of the dense model as a whole."""
        recipe.check(target)
        blocks = decoder_blocks(model)
        linears = prunable_linears(blocks, options.skip, options.fused)
        _check_widths(linears, target.pattern)
        calibration = gradients = None
        if recipe.needs_data:
            if ids is None:
                raise ValueError("this recipe needs calibration data, and none was given")
            if recipe.pruner is not None and "gradient" in recipe.pruner.needs:
                gradients = gradient_norms(model, blocks, linears, ids)
            also = recipe.refiner.batch_lengths(len(ids)) if recipe.refiner else ()
            calibration = Stream.start(model, blocks, ids, also)
        heldout = None if heldout_ids is None else Stream.start(model, blocks, heldout_ids)
        targets = _targets(recipe, target, blocks, linears, calibration)
        return cls(
            blocks, linears, recipe.refiner, targets, seed, options, calibration, heldout, gradients
        )

    def prune_block(self, index: int, pruner: Pruner, report: PruneReport) -> None:
        """Prune one block, refine it, measure what that changed, and move on."""
        block, linears = self.blocks[index], self.linears[index]
        seen, aside = self._observe(index, pruner.needs)
        dense = [linear.weight.clone() for linear in linears]
        results = [
            self._prune_linear(index, linear, pruner, seen.get(id(linear.module)))
            for linear in linears
        ]
        if self.refiner is not None and self.calibration is not None:
            masks = [result.mask for result in results]
            report.refinements.append(
                self._refine(index, self.refiner, self.calibration, masks, dense)
            )
        report.block_sparsities.append(float(self.targets[index].sparsity))
        for linear, before, result in zip(linears, dense, results, strict=True):
            rows, columns = before.shape
            lost = int(result.mask.sum())
            entry = LinearReport(index, linear.name, rows, columns, lost, result.notes)
            entry.error = _error(linear, before, seen)
            entry.heldout_error = _error(linear, before, aside)
            report.linears.append(entry)
        for stream, errors in (
            (self.calibration, report.block_errors),
            (self.heldout, report.block_heldout_errors),
        ):
            if stream is not None:
                errors.append(stream.advance(index, block, self.options.propagate))

    def _observe(
        self, index: int, wanted: frozenset[str]
    ) -> tuple[dict[int, Seen], dict[int, Seen]]:
        """Run the dense block on the calibration set and on the held-out windows."""
        block, linears = self.blocks[index], self.linears[index]
        seen: dict[int, Seen] = {}
        aside: dict[int, Seen] = {}
        if self.calibration is not None:
            seen = self.calibration.observe(index, block, linears, wanted, errors=True)
        if self.heldout is not None:
            aside = self.heldout.observe(index, block, linears, errors=True)
        return seen, aside

    def _prune_linear(
        self, index: int, linear: Linear, pruner: Pruner, seen: Seen | None
    ) -> Pruned:
        """Prune one linear in place."""
        inputs = seen.statistics if seen else InputStatistics()
        inputs.generator = _generator(self.seed, index, linear.name)
        if self.gradients is not None:
            inputs.gradient = linear.part(self.gradients[index][id(linear.module)])
        try:
            # a transposed weight (Conv1D) becomes rows in memory: methods may view it as they like
            result = pruner.prune(linear.weight.contiguous(), inputs, self.targets[index])
        except ValueError as error:
            raise ValueError(f"block {index}, linear {linear.name}: {error}") from error
        linear.weight.copy_(result.weight)
        return result

    def _refine(
        self,
        index: int,
        refiner: Refiner,
        stream: Stream,
        masks: Sequence[Tensor],
        dense: Sequence[Tensor],
    ) -> dict[str, float]:
        """Tune the survivors of a pruned block in place."""
        return refiner.refine(
            PrunedBlock(
                module=self.blocks[index],
                index=index,
                linears=self.linears[index],
                masks=masks,
                dense=dense,
                calls=stream.inputs,
                inputs=stream.hidden,
                outputs=stream.dense,
                generator=_generator(self.seed, index, "refine"),
            )
        )


def _targets(
    recipe: Recipe,
    target: Target,
    blocks: nn.ModuleList,
    linears: Sequence[Sequence[Linear]],
    calibration: Stream | None,
) -> list[Target]:
    """What each block must lose: the same, or what the allocation finds on the dense model."""
    if recipe.allocation is None or calibration is None:
        return [target] * len(blocks)
    stream = calibration.fork()
    measures = []
    for index, block in enumerate(blocks):
        seen = stream.observe(index, block, linears[index], recipe.allocation.needs)
        measures.append(
            recipe.allocation.measure(
                [(x.weight, seen[id(x.module)].statistics) for x in linears[index]]
            )
        )
        stream.skip()
    sparsities = recipe.allocation.allocate(measures, target)
    return [Target(sparsity, target.pattern) for sparsity in sparsities]


def _error(linear: Linear, dense: Tensor, seen: Mapping[int, Seen]) -> float | None:
    """Relative error of a linear on what was seen of its inputs; None where nothing was."""
    found = seen.get(id(linear.module))
    return relative_error(dense, linear.weight, found.full_gram) if found else None


def _check_widths(blocks: Sequence[Sequence[Linear]], pattern: Pattern) -> None:
    """Refuse a pattern whose M does not divide every linear's inputs, before any is touched."""
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


def _generator(seed: int, block: int, what: str) -> torch.Generator:
    """Random numbers of one linear or of a block's refiner, whatever was drawn before it."""
    digest = hashlib.sha256(f"{seed}\0{block}\0{what}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
