from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prune.pattern import Target, lowest_unchecked
from prune.pruner import Pruned, Pruner

if TYPE_CHECKING:
    from torch import Tensor

    from prune.statistics import InputStatistics


@dataclass(frozen=True)
class Magnitude(Pruner):
    """|W|, ranked over the whole matrix (Han et al. 2015, arXiv 1506.02626); needs no data.

    The released code of later papers cuts with `<=` at a threshold and loses more than asked for
    on ties; here the count is exact.
    """

    def prune(self, weight: Tensor, inputs: InputStatistics, target: Target) -> Pruned:
        """See `Pruner.prune`."""
        return Pruned(lowest_unchecked(weight.abs(), target, group="matrix"))
