"""The contract of a pruner: what it declares, what it is given, what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from prune.pattern import Target

if TYPE_CHECKING:
    from torch import Tensor

    from prune.statistics import InputStatistics


@dataclass
class Pruned:
    """One linear after pruning.

    Attributes:
        mask: bool [rows, columns], True = pruned.
        weight: [rows, columns], zero wherever `mask` is True; dtype of the given weight. None
            where the weights that stay keep their values.
        notes: what the record should say of this linear, for example a raised damping.
    """

    mask: Tensor
    weight: Tensor | None = None
    notes: dict[str, object] = field(default_factory=dict)

    def write_into(self, weight: Tensor) -> None:
        """Make the dense weight the pruned one."""
        if self.weight is None:
            weight.masked_fill_(self.mask, 0)
        else:
            weight.copy_(self.weight)


@dataclass(frozen=True)
class Pruner(ABC):
    """A pruning method: a frozen dataclass whose fields are its options in a grid file.

    A module that defines one imports torch inside functions, since grids are read, and their
    options checked, where torch is not wanted.

    Attributes:
        statistics: what it needs to know of each linear's inputs, of `prune.statistics.STATISTICS`
            ("norm", "moments", "gram"), and "gradient"; empty = no calibration data at all.
        random: it draws random numbers of its own, from the cell's seed.
        updates_weights: surviving weights change too, so a mask alone does not restore it.
    """

    statistics: ClassVar[frozenset[str]] = frozenset()
    random: ClassVar[bool] = False
    updates_weights: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        """The statistics it needs with these options (a method over another adds the other's)."""
        return self.statistics

    def check(self, target: Target) -> None:  # noqa: B027  (most methods take every target)
        """Refuse a target that has no meaning for this method.

        Raises:
            ValueError: says what was asked and what is possible.
        """

    @abstractmethod
    def prune(self, weight: Tensor, inputs: InputStatistics, target: Target) -> Pruned:
        """Prune one linear; a pure function of its arguments.

        Args:
            weight: [rows (outputs), columns (inputs)], finite; not to be changed in place.
            inputs: statistics of the inputs, and the linear's own random generator.
            target: the exact count to lose and its pattern.
        """
