from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prune.pattern import Target, lowest
from prune.pruner import Pruned, Pruner

if TYPE_CHECKING:
    from torch import Tensor

    from prune.statistics import InputStatistics


@dataclass(frozen=True)
class PrunerZero(Pruner):
    """|W * W| * minmax(G), ranked within each output row (Dong et al. 2024, arXiv 2406.02924).

    The symbolic metric that the paper found, as its released tree has it. G is the root of the
    sum over windows of the squared gradient of each window's loss, on the cell's own calibration
    set; minmax maps the smallest G of the matrix to 0 and the largest to 1. Where all are equal
    that is 0/0, and |W * W| alone decides.

    The released code computes G beforehand from two windows of another text, in training mode,
    scales it by 100 (which minmax undoes) and rounds it to float16; here it is float32.
    """

    statistics: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def prune(self, weight: Tensor, inputs: InputStatistics, target: Target) -> Pruned:
        """See `Pruner.prune`."""
        if inputs.gradient is None:
            raise ValueError("the statistic 'gradient' was not gathered")
        saliency = weight.to(inputs.dtype).square()
        gradient = inputs.gradient.to(weight.device, inputs.dtype)
        least, most = gradient.min(), gradient.max()
        if most > least:
            saliency = saliency * ((gradient - least) / (most - least))
        return Pruned(lowest(saliency, target, group="row"))
