"""The contract of an allocation: how much each block of a model loses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from prune.pattern import Target

if TYPE_CHECKING:
    from torch import Tensor

    from prune.statistics import InputStatistics


@dataclass(frozen=True)
class Allocation(ABC):
    """A way to spread sparsity over the blocks: a frozen dataclass whose fields are its options.

    Before anything is pruned, the loop runs the dense model over the calibration set once, asks
    `measure` about every block, and then `allocate` for the sparsities.

    Attributes:
        statistics: what `measure` needs to know of each linear's inputs; see `Pruner`.
        random: it draws random numbers of its own.
    """

    statistics: ClassVar[frozenset[str]] = frozenset()
    random: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        """The statistics it needs with these options."""
        return self.statistics

    def check(self, target: Target) -> None:  # noqa: B027 - most refuse nothing
        """Refuse a target that has no meaning for this allocation.

        Raises:
            ValueError: says what was asked and what is possible.
        """

    @abstractmethod
    def measure(self, linears: Sequence[tuple[Tensor, InputStatistics]]) -> Fraction:
        """One number for a dense block.

        Args:
            linears: weight [rows, columns] and input statistics of each prunable linear.
        """

    @abstractmethod
    def allocate(self, measures: Sequence[Fraction], target: Target) -> list[Fraction]:
        """The sparsity of each block.

        Args:
            measures: what `measure` said of each block, first to last.
            target: the mean over the blocks, exactly; no block gets less than its pattern gives.
        """


def bounded(wanted: Sequence[Fraction], target: Target) -> list[Fraction]:
    """`wanted`, shifted and clipped so that pattern and mean are kept exactly.

    All sparsities move by the same amount before they are clipped to [1 - N/M, 1] ([0, 1] where
    unstructured), so that the differences between blocks stay where no bound is met. The shift is
    found where the mean, which is linear between the points at which a block meets a bound,
    passes the target.
    """
    low, high = target.pattern.least_sparsity, Fraction(1)

    def clipped(shift: Fraction) -> list[Fraction]:
        return [min(high, max(low, x + shift)) for x in wanted]

    total = target.sparsity * len(wanted)
    corners = sorted({bound - x for x in wanted for bound in (low, high)})
    left = max((c for c in corners if sum(clipped(c)) <= total), default=corners[0])
    right = min((c for c in corners if sum(clipped(c)) >= total), default=corners[-1])
    below, above = sum(clipped(left)), sum(clipped(right))
    part = (total - below) / (above - below) if above > below else Fraction(0)
    return clipped(left + part * (right - left))
