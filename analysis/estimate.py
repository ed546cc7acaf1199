"""The difference between two arms of a comparison, and how sure it is: variance components.

An arm is what is compared (a dataset, a pruner, ...), measured on every document in every draw.
Documents are crossed with everything, so differences are paired by document. Draws are nested in
datasets: two datasets share none and give two *blocks* of independent draws; two pruners on one
dataset share theirs, and one block holds their differences draw by draw.

Within a block, y[r, j] = mean + document_j + draw_r + (draw x document)_rj. The mean over the
draws of this benchmark's documents has variance s2 / R, with s2 the variance between the draws'
scores. For new documents, the spread of the documents' differences comes on top; the draw x
document residual is in both parts and is taken out once. Degrees of freedom are Satterthwaite's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, fdtr, stdtr, stdtrit

Array = NDArray[np.float64]

CONFIDENCE = 0.95
LEAST_POOLED = 5
"""Draws of each arm from which on variances may be pooled: fewer cannot tell that one arm's draws
are three times as far apart, and intervals that take them for alike then cover 85 to 90 %."""

UNEQUAL = 0.25
"""Variances that differ at this level are not pooled; a test that seldom sees a difference must not
decide at 0.05 that there is none."""


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


@dataclass(frozen=True)
class Spread:
    """Variance between draws as all arms of a family tell it together.

    Attributes:
        variance: of the scores of one arm's draws. df: its degrees of freedom. arms: their number.
    """

    variance: float
    df: float
    arms: int


@dataclass(frozen=True)
class Estimate:
    """A difference with its error.

    Attributes:
        estimand: what it is about: `draws` (this benchmark, any draw), `questions` (new questions
            too), or `sets` (these very calibration sets, new questions).
        difference: the estimate. stderr: its standard error. df: degrees of freedom.
        floor: the part of the variance that more draws do not lower.
        per_draw: the part that they do, times the present number of draws.
        draws: of each block. arms: whose draws the variance is from.
    """

    estimand: str
    difference: float
    stderr: float
    df: float
    floor: float
    per_draw: float
    draws: tuple[int, ...]
    arms: int

    @property
    def p(self) -> float:
        """Two-sided p value of no difference."""
        if self.stderr == 0:
            return 0.0 if self.difference else 1.0
        return float(2 * stdtr(self.df, -abs(self.difference) / self.stderr))

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Two-sided t interval."""
        half = float(stdtrit(self.df, (1 + confidence) / 2)) * self.stderr
        return self.difference - half, self.difference + half

    def p_equivalent(self, delta: float) -> float:
        """p value of a difference of `delta` or more, either way (two one-sided tests)."""
        room = delta - abs(self.difference)
        if self.stderr == 0:
            return 0.0 if room > 0 else 1.0
        return float(stdtr(self.df, -room / self.stderr))

    def error_at(self, draws: int, documents: int | None) -> tuple[float, float]:
        """Standard error and degrees of freedom, were there so many draws in each block.

        Args:
            draws: draws a block. documents: of the benchmark, where they count.
        """
        shrinking = self.per_draw / draws
        df = satterthwaite(
            [shrinking, self.floor], [self.arms * (draws - 1), (documents or math.inf) - 1]
        )
        return math.sqrt(shrinking + self.floor), df


def satterthwaite(parts: Sequence[float], dfs: Sequence[float]) -> float:
    """Degrees of freedom of a sum of independent variances (Satterthwaite 1946)."""
    total = sum(parts)
    denominator = sum(p * p / df for p, df in zip(parts, dfs, strict=True))
    return total * total / denominator if denominator > 0 else math.inf


def estimated_df(parts: Sequence[float], dfs: Sequence[int]) -> float:
    """The same of estimated variances, as Welch has it, but for arms of two draws each.

    The square of an estimate with one degree of freedom is three times that of the variance on
    average; without correction intervals of two draws that are alike cover 97.7 %.
    """
    if max(dfs) > 1 or sum(parts) == 0:
        return satterthwaite(parts, dfs)
    found = 3 * sum(parts) ** 2 / sum(p * p for p in parts) - 2
    return min(max(found, 1.0), len(parts))


def pool(blocks: Sequence[Block], documents: Documents | None) -> Spread | None:
    """The variance between draws that several arms share, None where it seems not to be one.

    Args:
        blocks: one an arm, on one scale. documents: of the score.
    """
    drawn = [b for b in blocks if len(b.scores) > 1]
    if len(drawn) < 2:
        return None
    variances = [between_draws(b, documents) for b in drawn]
    dfs = [len(b.scores) - 1 for b in drawn]
    if not alike(variances, dfs):
        return None
    total = sum(dfs)
    variance = sum(v * df for v, df in zip(variances, dfs, strict=True)) / total
    return Spread(variance, total, len(drawn))


def estimates(
    blocks: Sequence[Block], documents: Documents | None, spread: Spread | None = None
) -> list[Estimate]:
    """What the data of one comparison say, for every estimand that they say something of.

    A variance of few draws tells little, and one that arms do not share misleads. So where the
    family's arms seem alike, and have draws enough to tell, an estimate has their pooled variance,
    or its own where that is larger, with the pooled degrees of freedom; elsewhere its own.

    Args:
        blocks: one of paired draws, two of independent draws, or as many as datasets that a
            difference is averaged over, their scores divided by that number.
        documents: of the score; None where outcomes by document are not known.
        spread: of the family, see `pool`.
    """
    by_document = (
        documents is not None
        and documents.counts.min() > 1
        and all(b.documents is not None for b in blocks)
    )
    drawn = [b for b in blocks if not b.fixed]
    if all(len(b.scores) > 1 for b in drawn) and drawn:
        over_draws = _over_draws(blocks, documents if by_document else None, spread)
        found = [over_draws] if over_draws is not None else []
        if by_document and over_draws is not None:
            assert documents is not None
            found.append(_over_questions(blocks, documents, over_draws))
        return found
    if by_document:
        assert documents is not None
        return [_these_sets(blocks, documents)]
    return []


def between_draws(block: Block, documents: Documents | None) -> float:
    """Variance between the scores of a block's draws.

    A score of few documents can tie by chance in all draws; then the variance is what the draw x
    document residual makes it at least.
    """
    variance = float(np.var(block.scores, ddof=1))
    scale = float(np.abs(block.scores).max()) or 1.0
    if variance < (1e-9 * scale) ** 2 and documents is not None and block.documents is not None:
        return _residual(block, documents)
    return variance


def _residual(block: Block, documents: Documents) -> float:
    """Variance that the draw x document residual gives the score of one draw."""
    assert block.documents is not None
    deviations = block.documents - block.documents.mean(0)
    return documents.variance_of_mean(deviations, lost=len(block.scores) - 1)


def _over_draws(
    blocks: Sequence[Block], documents: Documents | None, spread: Spread | None
) -> Estimate | None:
    drawn = [b for b in blocks if not b.fixed]
    counts = [len(b.scores) for b in drawn]
    variances = [between_draws(b, documents) for b in drawn]
    parts = [v / n for v, n in zip(variances, counts, strict=True)]
    if sum(parts) == 0 and documents is None:
        return None  # all draws tie, and nothing says how far apart they could have been
    dfs = [n - 1 for n in counts]
    variance, per_draw, arms = sum(parts), sum(variances), len(drawn)
    pooled = len(set(counts)) == 1 and alike(variances, dfs)
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
        draws=tuple(len(b.scores) for b in blocks),
        arms=arms,
    )


def alike(variances: Sequence[float], dfs: Sequence[int]) -> bool:
    """May variances be pooled: have they draws enough to tell, and do not seem to differ?"""
    return min(dfs) >= LEAST_POOLED - 1 and not unequal(variances, dfs)


def unequal(variances: Sequence[float], dfs: Sequence[int]) -> bool:
    """Do variances differ, at the level `UNEQUAL`? (F test of two, Bartlett's test of more)"""
    if len(variances) < 2:
        return False
    if min(variances) == 0:
        return max(variances) > 0
    if len(variances) == 2:
        rank = fdtr(*dfs, variances[0] / variances[1])
        return bool(rank < UNEQUAL / 2 or rank > 1 - UNEQUAL / 2)
    k, total = len(variances), sum(dfs)
    mean = sum(v * df for v, df in zip(variances, dfs, strict=True)) / total
    logs = sum(df * math.log(v) for v, df in zip(variances, dfs, strict=True))
    correction = 1 + (sum(1 / df for df in dfs) - 1 / total) / (3 * (k - 1))
    return bool(chdtrc(k - 1, (total * math.log(mean) - logs) / correction) < UNEQUAL)


def _over_questions(
    blocks: Sequence[Block], documents: Documents, over_draws: Estimate
) -> Estimate:
    """The same difference for new draws and new documents."""
    from_draws = over_draws.stderr**2
    from_documents = documents.variance_of_mean(_differences(blocks))
    residuals = [
        _residual(b, documents) / len(b.scores) if len(b.scores) > 1 else 0.0 for b in blocks
    ]
    twice = sum(residuals)
    variance = max(from_draws + from_documents - twice, from_draws, from_documents)
    n = float(documents.counts.sum() - len(documents.weight))
    residual_df = n * sum(len(b.scores) - 1 for b in blocks)
    denominator = (
        from_draws**2 / over_draws.df + from_documents**2 / n + twice**2 / (residual_df or 1)
    )
    df = min(max(variance**2 / denominator if denominator else n, over_draws.df), n)
    floor = max(from_documents - twice, 0.0)
    return Estimate(
        estimand="questions",
        difference=over_draws.difference,
        stderr=math.sqrt(variance),
        df=df,
        floor=floor,
        per_draw=over_draws.per_draw,
        draws=over_draws.draws,
        arms=over_draws.arms,
    )


def _these_sets(blocks: Sequence[Block], documents: Documents) -> Estimate:
    """The difference between these calibration sets, for new documents."""
    variance = documents.variance_of_mean(_differences(blocks))
    return Estimate(
        estimand="sets",
        difference=float(sum(b.scores.mean() for b in blocks)),
        stderr=math.sqrt(variance),
        df=float(documents.counts.sum() - len(documents.weight)),
        floor=variance,
        per_draw=0.0,
        draws=tuple(len(b.scores) for b in blocks),
        arms=0,
    )


def _differences(blocks: Sequence[Block]) -> Array:
    """[documents] difference of the arms, averaged over draws."""
    parts: list[Any] = [b.documents.mean(0) for b in blocks if b.documents is not None]
    return np.asarray(sum(parts), dtype=np.float64)
