"""What is measured: arms of a comparison, by draw and by document.

An arm is what is compared (a dataset, a pruner, ...), measured on every document in every draw.
Documents are crossed with everything, so differences are paired by document. Draws are nested in
datasets: two datasets share none and give two *blocks* of independent draws; two pruners on one
dataset share theirs, and one block holds their differences draw by draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Documents:
    """The documents of a score.

    Attributes:
        stratum: [documents] the task that each belongs to, from 0.
        weight: [strata] what the mean of a task's documents counts; the sum is 1.
    """

    stratum: NDArray[np.int64]
    weight: Array

    @property
    def counts(self) -> Array:
        """[strata] documents."""
        return np.bincount(self.stratum, minlength=len(self.weight)).astype(float)

    @property
    def each(self) -> Array:
        """[documents] what each counts; the sum is 1."""
        return (self.weight / self.counts)[self.stratum]

    def variance_of_mean(self, values: Array, lost: int = 1) -> float:
        """Variance of the weighted mean over documents of `values`, [..., documents] deviations.

        Args:
            values: per document; leading axes are summed over.
            lost: degrees of freedom that each leading entry keeps, as a divisor (residuals).
        """
        flat = values.reshape(-1, values.shape[-1])
        total = 0.0
        for s, (n, w) in enumerate(zip(self.counts, self.weight, strict=True)):
            part = flat[:, self.stratum == s]
            part = part - part.mean(1, keepdims=True)
            total += w**2 / n * float((part**2).sum()) / ((n - 1) * lost)
        return total


@dataclass(frozen=True)
class Block:
    """Draws that belong together.

    Attributes:
        scores: [draws] the score of each draw, with the sign of its arm.
        documents: [draws, documents] the same by document; None where it is not known.
        fixed: does nothing depend on a draw (magnitude, dense)? Then there is one, without error.
    """

    scores: Array
    documents: Array | None = None
    fixed: bool = False


def between_draws(block: Block, documents: Documents | None) -> float:
    """Variance between the scores of a block's draws.

    A score of few documents can tie by chance in all draws; then the variance is what the draw x
    document residual makes it at least.
    """
    variance = float(np.var(block.scores, ddof=1))
    scale = float(np.abs(block.scores).max()) or 1.0
    if variance < (1e-9 * scale) ** 2 and documents is not None and block.documents is not None:
        return residual(block, documents)
    return variance


def residual(block: Block, documents: Documents) -> float:
    """Variance that the draw x document residual gives the score of one draw."""
    assert block.documents is not None
    deviations = block.documents - block.documents.mean(0)
    return documents.variance_of_mean(deviations, lost=len(block.scores) - 1)
