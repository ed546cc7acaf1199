"""The blocks of one model, pruned one after the other or taken as they were stored."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from transformers import PreTrainedModel

from prune.allocation import Allocation
from prune.checkpoint import Checkpoint
from prune.gradients import gradient_norms
from prune.measure import linear_reports
from prune.model.blocks import Linear, prunable_linears
from prune.model.sameness import NotReplayableError
from prune.model.weights import BlockWeights
from prune.pattern import Pattern, Target
from prune.pruner import Pruned, Pruner
from prune.recipe import Recipe
from prune.refiner import PrunedBlock, Refiner
from prune.report import BlockReport, PruneReport
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


@dataclass
class BlockLoop:
    """What the blocks of one model are pruned with."""

    weights: BlockWeights
    linears: list[list[Linear]]
    refiner: Refiner | None
    targets: list[Target]
    seed: int
    options: PruningOptions
    calibration: Stream | None
    heldout: Stream | None
    gradients: list[dict[int, Tensor]] | None
    checkpoint: Checkpoint | None

    @classmethod
    def start(
        cls,
        model: PreTrainedModel,
        weights: BlockWeights,
        recipe: Recipe,
        target: Target,
        ids: Tensor | None,
        seed: int,
        options: PruningOptions,
        heldout_ids: Tensor | None,
        checkpoint: Checkpoint | None,
    ) -> BlockLoop:
        """Check everything, then gather what is needed of the dense model as a whole."""
        done = 0 if checkpoint is None else checkpoint.done
        left = len(weights.blocks) > done  # else nothing has to go through the blocks
        recipe.check(target)
        linears = prunable_linears(weights.blocks, options.skip, options.fused)
        _check_widths(linears, target.pattern)
        calibration = heldout = gradients = None
        whole = options.propagate == "dense" or recipe.refiner is not None
        if recipe.needs_data:
            if ids is None:
                raise ValueError("this recipe needs calibration data, and none was given")
            if left and recipe.pruner is not None and "gradient" in recipe.pruner.needs:
                gradients = gradient_norms(model, weights, linears, ids)
            also = recipe.refiner.batch_lengths(len(ids)) if recipe.refiner else ()
            calibration = Stream.start(model, weights, ids, also, whole) if left else None
        if left and heldout_ids is not None:
            with suppress(NotReplayableError):  # such models have no errors, but can be pruned
                heldout = Stream.aside(model, weights, heldout_ids, whole)
        stream = calibration or heldout
        if checkpoint is not None and stream is not None:
            checkpoint.error_tokens = stream.error_tokens
        targets = [target] * len(weights.blocks)
        if checkpoint is not None and checkpoint.targets is not None:
            targets = [Target(sparsity, target.pattern) for sparsity in checkpoint.targets]
        elif recipe.allocation is not None and calibration is not None:
            targets = _allocated(recipe.allocation, target, weights, linears, calibration)
        if checkpoint is not None:
            checkpoint.targets = [x.sparsity for x in targets]
        return cls(
            weights,
            linears,
            recipe.refiner,
            targets,
            seed,
            options,
            calibration,
            heldout,
            gradients,
            checkpoint,
        )

    def next_block(self, index: int, pruner: Pruner) -> BlockReport:
        """Bring a block, prune it or take it as it was stored, move on, and let it go."""
        checkpoint, linears = self.checkpoint, self.linears[index]
        stored = checkpoint is not None and index < checkpoint.done
        with self.weights.here(index, changed=True, then=index + 1):
            report = self._restore(index) if stored else self._prune_block(index, pruner)
        if checkpoint is not None and not stored:
            checkpoint.add(index, linears, report, self.weights)
        return report

    def _restore(self, index: int) -> BlockReport:
        """Take a block from the checkpoint, with all streams moving on as they did then."""
        assert self.checkpoint is not None
        block, linears = self.weights.blocks[index], self.linears[index]
        streams = [x for x in (self.calibration, self.heldout) if x is not None]
        if self.options.propagate == "dense":
            for stream in streams:
                stream.observe(index, block, linears)
        report = self.checkpoint.restore(index, linears)
        for stream in streams:
            if self.options.propagate == "dense":
                stream.skip()
            else:
                stream.advance(index, block, self.options.propagate, errors=False)
        return report

    def _prune_block(self, index: int, pruner: Pruner) -> BlockReport:
        """Prune a block, refine it, measure what that changed, and move on."""
        block, linears = self.weights.blocks[index], self.linears[index]
        _check_finite(index, linears)
        seen, aside = self._observe(index, pruner.needs)
        compared = bool(seen or aside)
        dense = [x.weight.clone() if compared else x.weight for x in linears]
        results = [
            self._prune_linear(index, linear, pruner, seen.get(id(linear.module)))
            for linear in linears
        ]
        for entry in seen.values():
            entry.statistics.derived.clear()
        refinement = None
        if self.refiner is not None and self.calibration is not None:
            masks = [result.mask for result in results]
            refinement = self._refine(index, self.refiner, self.calibration, masks, dense)
        reports, zeros = linear_reports(index, block, linears, dense, results, seen, aside)
        sparsity = float(self.targets[index].sparsity)
        report = BlockReport(sparsity, reports, zeros, refinement=refinement)
        del seen, aside, dense, results  # their memory is wanted
        if self.calibration is not None:
            report.error = self.calibration.advance(index, block, self.options.propagate)
        if self.heldout is not None:
            report.heldout_error = self.heldout.advance(index, block, self.options.propagate)
        return report

    def describe(self, report: PruneReport) -> None:
        """Say how errors were measured."""
        stream = self.calibration or self.heldout
        if stream is not None:
            report.error_tokens, report.block_error_tokens = stream.error_tokens
        elif self.checkpoint is not None:  # every block was stored: nothing went through them
            report.error_tokens, report.block_error_tokens = self.checkpoint.error_tokens

    def _observe(
        self, index: int, wanted: frozenset[str]
    ) -> tuple[dict[int, Seen], dict[int, Seen]]:
        """Run the dense block on the calibration set and on the held-out windows."""
        block, linears = self.weights.blocks[index], self.linears[index]
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
        result.write_into(linear.weight)
        result.weight = None  # once is enough
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
        if stream.device.type == "cuda":
            torch.cuda.synchronize()  # activations on the host are read there
        return refiner.refine(
            PrunedBlock(
                module=self.weights.blocks[index],
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


def _allocated(
    allocation: Allocation,
    target: Target,
    weights: BlockWeights,
    linears: Sequence[Sequence[Linear]],
    calibration: Stream,
) -> list[Target]:
    """What each block must lose, as the allocation finds on the dense model."""
    stream = calibration.fork()
    measures = []
    for index in range(len(weights.blocks)):
        with weights.here(index, then=index + 1) as block:
            seen = stream.observe(index, block, linears[index], allocation.needs)
            measures.append(
                allocation.measure(
                    [(x.weight, seen[id(x.module)].statistics) for x in linears[index]]
                )
            )
        stream.skip()
    sparsities = allocation.allocate(measures, target)
    return [Target(sparsity, target.pattern) for sparsity in sparsities]


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


def _check_finite(index: int, linears: Sequence[Linear]) -> None:
    """Refuse weights that are NaN or infinite; the device is waited for once."""
    greatest = get_total_norm([x.weight for x in linears], math.inf)
    if not greatest.isfinite():
        for linear in linears:
            if not linear.weight.isfinite().all():
                raise ValueError(
                    f"block {index}, linear {linear.name}: the weights hold NaN or infinite values"
                )


def _generator(seed: int, block: int, what: str) -> torch.Generator:
    """Random numbers of one linear or of a block's refiner, whatever was drawn before it."""
    digest = hashlib.sha256(f"{seed}\0{block}\0{what}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
