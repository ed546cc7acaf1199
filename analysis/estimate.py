"""The difference between two arms of a comparison, and how sure it is: variance components.

Within a block, y[r, j] = mean + document_j + draw_r + (draw x document)_rj. The mean over the
draws of this benchmark's documents has variance s2 / R, with s2 the variance between the draws'
scores. For new documents, the spread of the documents' differences comes on top; the draw x
document residual is in both parts and is taken out once. Degrees of freedom are Satterthwaite's
for arms of independent draws, and `spread.matched_df` for the sum of draws and documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from analysis.blocks import TIE, Array, Block, Documents, at_least, between_draws, residual, unseen
from analysis.spread import Spread, alike, estimated_df, matched_df

CONFIDENCE = 0.95
MANY = 10**9  # documents, where nobody says how many


@dataclass(frozen=True)
class Estimate:
    """A difference with its error.

    Attributes:
        estimand: what it is about: `draws` (this benchmark, any draw), `questions` (new questions
            too), `sets` (these very calibration sets, new questions), or `models` (the same where
            nothing is drawn).
        difference: the estimate. stderr: its standard error. df: degrees of freedom.
        floor: the part of the variance that more draws do not lower.
        per_draw: the part that they do, times the present number of draws.
        draws: of each block that is drawn. arms: whose draws the variance is from.
        tied: do all draws (or, of one draw, all documents) tie, and nothing tells how far apart
            others are? Then nothing is decided: a variance of zero is not known to be one.
        wider: the same difference for new questions: what is sure there is sure here, though few
            draws alone may not say so at the small levels of a large family.
    """

    estimand: str
    difference: float
    stderr: float
    df: float
    floor: float
    per_draw: float
    draws: tuple[int, ...]
    arms: int
    tied: bool = False
    wider: Estimate | None = None

    @property
    def p(self) -> float:
        """Two-sided p value of no difference."""
        if self.tied:
            return 1.0
        p = float(2 * stdtr(self.df, -abs(self.difference) / self.stderr))
        return p if self.wider is None else min(p, self.wider.p)

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Two-sided t interval."""
        if self.tied:
            return -math.inf, math.inf
        half = float(stdtrit(self.df, (1 + confidence) / 2)) * self.stderr
        return self.difference - half, self.difference + half

    def p_equivalent(self, delta: float) -> float:
        """p value of a difference of `delta` or more, either way (two one-sided tests)."""
        if self.tied:
            return 1.0
        room = delta - abs(self.difference)
        p = float(stdtr(self.df, -room / self.stderr))
        return p if self.wider is None else min(p, self.wider.p_equivalent(delta))

    def error_at(self, draws: int, documents: int | None) -> tuple[float, float]:
        """Standard error and degrees of freedom, were there so many draws in each block.

        Args:
            draws: draws a block. documents: of the benchmark, where they count.
        """
        shrinking = self.per_draw / draws
        df = matched_df([shrinking, self.floor], [self.arms * (draws - 1), (documents or MANY) - 1])
        return math.sqrt(shrinking + self.floor), df


def estimates(
    blocks: Sequence[Block], documents: Documents | None, spread: Spread | None = None
) -> list[Estimate]:
    """What the data of one comparison say, for every estimand that they say something of.

    A variance of few draws tells little, and one that arms do not share misleads. So where the
    family's arms share one, as far as draws enough can tell, an estimate has their pooled variance,
    or its own where that is larger, with the pooled degrees of freedom; elsewhere its own.

    Args:
        blocks: one of paired draws, two of independent draws, or as many as datasets that a
            difference is averaged over, their scores divided by that number.
        documents: of the score; None where outcomes by document are not known.
        spread: of the family, see `spread.pool`.
    """
    by_document = (
        documents is not None
        and documents.counts.min() > 1
        and all(b.documents is not None for b in blocks)
    )
    drawn = [b for b in blocks if not b.fixed]
    if all(len(b.scores) > 1 for b in drawn) and drawn:
        over_draws = _over_draws(blocks, documents if by_document else None, spread)
        if not by_document:
            return [over_draws]
        assert documents is not None
        wider = _over_questions(blocks, documents, over_draws)
        return [replace(over_draws, wider=wider), wider]
    if by_document:
        assert documents is not None
        return [_these_sets(blocks, documents)]
    return []


def _over_draws(
    blocks: Sequence[Block], documents: Documents | None, spread: Spread | None
) -> Estimate:
    drawn = [b for b in blocks if not b.fixed]
    counts = [len(b.scores) for b in drawn]
    dfs, found = [n - 1 for n in counts], [between_draws(b, documents) for b in drawn]
    pooled = len(set(counts)) == 1 and alike(found, dfs)
    variances = at_least(found, drawn, documents)
    parts = [v / n for v, n in zip(variances, counts, strict=True)]
    variance, per_draw, arms = sum(parts), sum(variances), len(drawn)
    df = float(sum(dfs)) if pooled else estimated_df(parts, dfs)
    if spread is not None:
        variance = max(variance, spread.variance * sum(1 / n for n in counts))
        per_draw = max(per_draw, spread.variance * len(drawn))
        df, arms = spread.df, spread.arms
    return Estimate(
        estimand="draws",
        difference=float(sum(b.scores.mean() for b in blocks)),
        stderr=math.sqrt(variance),
        df=df,
        floor=0.0,
        per_draw=per_draw,
        draws=tuple(len(b.scores) for b in blocks if not b.fixed),
        arms=arms,
        tied=variance == 0,
    )


def _over_questions(
    blocks: Sequence[Block], documents: Documents, over_draws: Estimate
) -> Estimate:
    """The same difference for new draws and new documents."""
    from_draws = over_draws.stderr**2
    from_documents = _from_documents(blocks, documents)
    residuals = [
        residual(b, documents) / len(b.scores) if len(b.scores) > 1 else 0.0 for b in blocks
    ]
    twice = sum(residuals)
    floor = max(from_documents - twice, 0.0)
    n = float(documents.counts.sum() - len(documents.weight))
    variance = from_draws + floor
    df = matched_df([from_draws, floor], [over_draws.df, n])
    return Estimate(
        estimand="questions",
        difference=over_draws.difference,
        stderr=math.sqrt(variance),
        df=df,
        floor=floor,
        per_draw=over_draws.per_draw,
        draws=over_draws.draws,
        arms=over_draws.arms,
        tied=over_draws.tied,
    )


def _these_sets(blocks: Sequence[Block], documents: Documents) -> Estimate:
    """The difference between these calibration sets, or models, for new documents."""
    variance = _from_documents(blocks, documents)
    return Estimate(
        estimand="sets" if any(not b.fixed for b in blocks) else "models",
        difference=float(sum(b.scores.mean() for b in blocks)),
        stderr=math.sqrt(variance),
        df=float(documents.counts.sum() - len(documents.weight)),
        floor=variance,
        per_draw=0.0,
        draws=tuple(len(b.scores) for b in blocks if not b.fixed),
        arms=0,
        tied=variance < TIE**2,
    )


def _from_documents(blocks: Sequence[Block], documents: Documents) -> float:
    """Variance that the documents give the difference, what they may hide included."""
    difference = _differences(blocks)
    seen = documents.variance_of_mean(difference)
    return max(seen, unseen(blocks, documents, difference))


def _differences(blocks: Sequence[Block]) -> Array:
    """[documents] difference of the arms, averaged over draws."""
    parts: list[Any] = [b.documents.mean(0) for b in blocks if b.documents is not None]
    return np.asarray(sum(parts), dtype=np.float64)
