from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from prune.allocation import Allocation, bounded
from prune.pattern import Target

if TYPE_CHECKING:
    from torch import Tensor

    from prune.statistics import InputStatistics


@dataclass(frozen=True)
class Owl(Allocation):
    """Outlier weighed layerwise sparsity (Yin et al. 2024, arXiv 2310.05175).

    A block's outlier ratio D is the percentage of its Wanda scores, over all of its linears,
    that exceed `m` times their mean, with the activations of the dense model. Blocks with more
    outliers keep more: the sparsities are a linear function of D, span exactly 2 * `lam`, and
    their mean over the blocks is the target, exactly.

    Where a sparsity would leave what is possible (below 0, below what an N:M pattern gives, or
    above 1), all are shifted and clipped so that the mean stays: see `bounded`. The released code
    puts 0.01 in place of a sparsity of 0 or less and lets the mean move; its "structure" variant
    gives each block another N:M, which is no N:M model.

    Attributes:
        lam: half the distance between the least and the most sparse block.
        m: how many times the mean makes an outlier.
    """

    lam: float = 0.08
    m: float = 5.0

    statistics: ClassVar[frozenset[str]] = frozenset({"norm"})

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 0.5:
            raise ValueError(f"owl: lam is half a span of sparsities, in [0, 0.5], not {self.lam}")
        if not 0 < self.m < float("inf"):
            raise ValueError(f"owl: m is a positive multiple of the mean score, not {self.m}")

    def measure(self, linears: Sequence[tuple[Tensor, InputStatistics]]) -> Fraction:
        """The outlier ratio of a block, in percent; see `Allocation.measure`."""
        import torch

        from prune.wanda import saliency

        size = sum(weight.numel() for weight, _ in linears)
        mean = sum(float(saliency(*x).sum(dtype=torch.float64)) for x in linears) / size
        outliers = sum(int((saliency(*x) > self.m * mean).sum()) for x in linears)
        return Fraction(100 * outliers, size)

    def allocate(self, measures: Sequence[Fraction], target: Target) -> list[Fraction]:
        """See `Allocation.allocate`."""
        spread = max(measures) - min(measures)
        width = 2 * Fraction(str(self.lam))
        kept = [(d - min(measures)) / spread * width if spread else Fraction(0) for d in measures]
        mean = sum(kept, Fraction()) / len(kept)
        return bounded([target.sparsity - (k - mean) for k in kept], target)
