from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prune.pattern import Target, lowest
from prune.pruner import Pruned, Pruner

if TYPE_CHECKING:
    from torch import Tensor

    from prune.statistics import InputStatistics


def saliency(weight: Tensor, inputs: InputStatistics) -> Tensor:
    """|W_ij| * ||X_j||_2, [rows, columns] (Sun et al. 2024, equation 1)."""
    return weight.abs().to(inputs.dtype) * inputs.norm


@dataclass(frozen=True)
class Wanda(Pruner):
    """|W_ij| * ||X_j||_2, ranked within each output row (Sun et al. 2024, arXiv 2306.11695)."""

    statistics: ClassVar[frozenset[str]] = frozenset({"norm"})

    def prune(self, weight: Tensor, inputs: InputStatistics, target: Target) -> Pruned:
        """See `Pruner.prune`."""
        return Pruned(lowest(saliency(weight, inputs), target, group="row"))
