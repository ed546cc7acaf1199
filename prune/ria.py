from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prune.pattern import Target, lowest
from prune.pruner import Pruned, Pruner

if TYPE_CHECKING:
    from torch import Tensor

    from prune.statistics import InputStatistics


@dataclass(frozen=True)
class RIA(Pruner):
    """Relative importance and activations (Zhang et al. 2024, ICLR, "Plug-and-Play").

    The saliency is (|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||X_j||_2^a, ranked over the
    whole matrix, which is what the released code does unless told to rank per output. That code
    cuts with `<=` at a threshold and loses one weight more than asked for, and all that tie with
    it; here the count is exact. Its channel permutation for N:M, off by default, is not done.

    Attributes:
        a: the power of the activations' norm.
    """

    statistics: ClassVar[frozenset[str]] = frozenset({"norm"})

    a: float = 0.5

    def __post_init__(self) -> None:
        if not (self.a >= 0 and math.isfinite(self.a)):
            raise ValueError(f"a must be 0 or more, not {self.a:g}")

    def prune(self, weight: Tensor, inputs: InputStatistics, target: Target) -> Pruned:
        """See `Pruner.prune`."""
        magnitude = weight.abs().to(inputs.dtype)
        relative = _share(magnitude, 0) + _share(magnitude, 1)
        return Pruned(lowest(relative * inputs.norm**self.a, target, group="matrix"))


def _share(magnitude: Tensor, dim: int) -> Tensor:
    """Each entry's share of the sum over `dim`; 0 where all of them are 0."""
    total = magnitude.sum(dim, keepdim=True)
    return magnitude / total.masked_fill(total == 0, 1)
