"""The contract of a refiner: what tunes the weights that survive in a pruned block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prune.pattern import Target

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from prune.model.blocks import BlockInputs, Linear


@dataclass
class PrunedBlock:
    """A block after pruning, and what it should have said.

    Attributes:
        module: the block; its surviving weights may be changed in place.
        index: its place in the model.
        linears: its prunable linears.
        masks: of each linear, bool [rows, columns], True = pruned; they stay.
        dense: the weight of each linear before pruning, [rows, columns].
        calls: how to call a block with the recorded arguments.
        inputs: what it is given, [size, seqlen, width].
        outputs: what the dense block answers to `inputs`, same shape.
        generator: the block's own source of random numbers, on the CPU.
    """

    module: nn.Module
    index: int
    linears: Sequence[Linear]
    masks: Sequence[Tensor]
    dense: Sequence[Tensor]
    calls: BlockInputs
    inputs: Tensor
    outputs: Tensor
    generator: torch.Generator


@dataclass(frozen=True)
class Refiner(ABC):
    """A method over any mask: a frozen dataclass whose fields are its options in a grid file.

    Attributes:
        statistics: what it needs; every refiner sees the calibration set itself ("outputs").
        random: it draws random numbers of its own, from the cell's seed.
    """

    statistics: ClassVar[frozenset[str]] = frozenset({"outputs"})
    random: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        """What it needs with these options; never empty, so that its recipe gets data."""
        return self.statistics

    def check(self, target: Target) -> None:  # noqa: B027 - most refuse nothing
        """Refuse a target that has no meaning for this refiner.

        Raises:
            ValueError: says what was asked and what is possible.
        """

    def batch_lengths(self, size: int) -> set[int]:
        """How many windows it will call a block with, of a calibration set of `size`."""
        return set()

    @abstractmethod
    def refine(self, block: PrunedBlock) -> dict[str, float]:
        """Tune one block in place; returns figures for the record."""
