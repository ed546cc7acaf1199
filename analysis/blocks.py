"""What is measured: arms of a comparison, by draw and by document.

An arm is what is compared (a dataset, a pruner, ...), measured on every document in every draw.
Documents are crossed with everything, so differences are paired by document. Draws are nested in
datasets: two datasets share none and give two *blocks* of independent draws; two pruners on one
dataset share theirs, and one block holds their differences draw by draw.

Answers that are right or wrong can agree everywhere by chance, and a variance near zero then says
only that differences are rare: of n answers that all agree up to 3 / n may differ otherwise (the
rule of three, 95 %). So where answers seldom differ, their variance is not taken to be less than
what makes 1.96 standard errors out of that. Of scores that are measured (a perplexity), or without
outcomes by document, draws that tie leave their variance unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RARE = 3 / 1.96
"""Standard errors of a mean over answers that all agree, in answers: the rule of three."""

TIE = 1e-9
"""Scores and differences of scores that are apart by less are one, with errors of rounding."""


@dataclass(frozen=True)
class Documents:
    """The documents of a score.

    Attributes:
        stratum: [documents] the task that each belongs to, from 0.
        weight: [strata] what the mean of a task's documents counts; the sum is 1.
        answer: [strata] by how much one outcome changes where answers are right or wrong, 0 where
            outcomes are measured; None: all are measured.
    """

    stratum: NDArray[np.int64]
    weight: Array
    answer: Array | None = None

    @property
    def counts(self) -> Array:
        """[strata] documents."""
        return np.bincount(self.stratum, minlength=len(self.weight)).astype(float)

    @property
    def each(self) -> Array:
        """[documents] what each counts; the sum is 1."""
        return (self.weight / self.counts)[self.stratum]

    @property
    def hidden(self) -> Array:
        """[strata] variance of the mean by differences that are too rare to be seen once."""
        if self.answer is None:
            return np.zeros(len(self.weight))
        return np.asarray((RARE * self.weight * self.answer / self.counts) ** 2)

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
        weight: what the scores were multiplied with, for a mean over several blocks.
    """

    scores: Array
    documents: Array | None = None
    fixed: bool = False
    weight: float = 1.0


def between_draws(block: Block, documents: Documents | None) -> float:
    """Variance between the scores of a block's draws, as it is found; 0 where they tie.

    A score of few documents can tie by chance in all draws; then the variance is what the draw x
    document residual makes it at least.
    """
    rounding = (TIE * max(1.0, float(np.abs(block.scores).max()))) ** 2
    variance = float(np.var(block.scores, ddof=1))
    if variance < rounding and documents is not None and block.documents is not None:
        variance = residual(block, documents)
    return variance if variance > rounding else 0.0


def at_least(
    variances: Sequence[float], blocks: Sequence[Block], documents: Documents | None
) -> list[float]:
    """Variances between the draws of blocks, raised to what these draws can rule out.

    Answers vary by what may be hidden among those of all draws at least, where fewer than three
    are seen to change. A block whose draws tie is taken to vary as the others do at most; where all
    do, nothing tells how far (0).

    Args:
        variances: of each block, see `between_draws`. documents: None where they are not known.
    """
    raised = list(variances)
    for i, block in enumerate(blocks):
        if documents is not None and block.documents is not None:
            hidden = block.weight**2 * float(documents.hidden.sum()) / len(block.scores)
            if residual(block, documents) < hidden:
                raised[i] = max(raised[i], hidden)
    return [v or max(raised) for v in raised]


def unseen(blocks: Sequence[Block], documents: Documents, difference: Array) -> float:
    """Variance of the mean over documents by lasting differences that they may hide.

    Nothing where half of a task's documents and more are seen to vary: so uncertain answers have no
    rare ones among them.

    Args:
        blocks: with outcomes by document. difference: [..., documents] between their arms.
    """
    varied = (np.abs(difference) > TIE).reshape(-1, len(documents.stratum)).any(0)
    for block in blocks:
        assert block.documents is not None
        varied |= np.ptp(block.documents, 0) > TIE
    share = np.bincount(documents.stratum, varied, len(documents.weight)) / documents.counts
    return float(documents.hidden[share < 0.5].sum())


def residual(block: Block, documents: Documents) -> float:
    """Variance that the draw x document residual gives the score of one draw."""
    assert block.documents is not None
    deviations = block.documents - block.documents.mean(0)
    return documents.variance_of_mean(deviations, lost=len(block.scores) - 1)
