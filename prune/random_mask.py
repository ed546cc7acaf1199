from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prune.pattern import Target, lowest_unchecked
from prune.pruner import Pruned, Pruner

if TYPE_CHECKING:
    from torch import Tensor

    from prune.statistics import InputStatistics


@dataclass(frozen=True)
class Random(Pruner):
    """Uniformly random saliency, ranked within each output row: the floor that others must beat."""

    random: ClassVar[bool] = True

    def prune(self, weight: Tensor, inputs: InputStatistics, target: Target) -> Pruned:
        """See `Pruner.prune`."""
        import torch

        # drawn on the CPU, so that a GPU draws the same
        draws = torch.rand(weight.shape, dtype=torch.float64, generator=inputs.generator)
        return Pruned(lowest_unchecked(draws.to(weight.device), target, group="row"))
