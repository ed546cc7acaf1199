"""Gaps (largest - smallest mean) beside what they would be if nothing differed, and who is best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.blocks import Array, Block, Documents, at_least, between_draws, unseen
from analysis.estimate import CONFIDENCE
from analysis.spread import matched_df, unequal

SIMULATIONS = 10_000
SEED = 20_241_023  # every answer is the same each time it is asked


@dataclass(frozen=True)
class Arms:
    """Several arms with independent draws, and the errors of their means in a fitted model.

    Attributes:
        means: [arms]. variances: [arms] of the means, without what all arms share.
        df: degrees of freedom of each arm's variance; of one where they are pooled.
        pooled: is one variance estimated from all arms?
    """

    means: Array
    variances: Array
    df: float
    pooled: bool

    def null(self) -> Array:
        """[simulations, arms] means of arms that do not differ, as fitted."""
        random = np.random.default_rng(SEED)
        shape = (SIMULATIONS, len(self.means))
        noise = random.normal(size=shape) * np.sqrt(self.variances)
        if math.isinf(self.df):
            return np.asarray(noise)
        # the variances are estimates: divide by how far such estimates are off
        scale = random.chisquare(self.df, size=(SIMULATIONS, 1) if self.pooled else shape)
        return np.asarray(noise / np.sqrt(scale / self.df))


def fit(blocks: Sequence[Block], documents: Documents | None, estimand: str) -> Arms | None:
    """The arms of one setting, for one estimand (`draws` or `questions`).

    Returns:
        None where an arm has a single draw, where all draws of all arms tie and nothing tells how
        far apart others are, or where the outcomes by document are wanted and not known.
    """
    counts = np.array([len(b.scores) for b in blocks])
    if counts.min() < 2:
        return None
    means = np.array([b.scores.mean() for b in blocks])
    dfs, found = counts - 1, [between_draws(b, documents) for b in blocks]
    pooled = len(set(counts)) > 1 or not unequal(found, [int(df) for df in dfs])
    between = np.array(at_least(found, blocks, documents))
    if not between.any():
        return None
    df: float = float(dfs.sum()) if pooled else float(dfs[0])
    if pooled:
        between = np.full(len(blocks), (between * dfs).sum() / dfs.sum())
    variances = between / counts
    if estimand == "questions":
        if documents is None or any(b.documents is None for b in blocks):
            return None
        crossed, n = _crossed(blocks, documents)
        total = np.maximum(variances + crossed, variances)
        if crossed > 0:
            part = float(variances.mean())
            df = matched_df([part, crossed], [df, n * (len(blocks) - 1)])
        variances = total
    return Arms(means, variances, df, pooled)


def _crossed(blocks: Sequence[Block], documents: Documents) -> tuple[float, float]:
    """Variance of an arm's mean that its own way with documents makes; and documents' freedom."""
    by_arm = np.stack([b.documents.mean(0) for b in blocks if b.documents is not None])
    interaction = by_arm - by_arm.mean(0)
    total = documents.variance_of_mean(interaction, lost=len(blocks) - 1)
    total = max(total, unseen(blocks, documents, interaction) / 2)  # a difference has two arms
    residual = 0.0
    for block in blocks:
        assert block.documents is not None
        n = len(block.scores)
        deviations = block.documents - block.documents.mean(0)
        residual += documents.variance_of_mean(deviations, lost=n - 1) / n / len(blocks)
    return max(total - residual, 0.0), float(documents.counts.sum() - len(documents.weight))


@dataclass(frozen=True)
class Gap:
    """A gap and its null distribution.

    Attributes:
        gap: largest mean less smallest. expected, high: median and 95 % quantile of the gap if
            nothing differed. p: how often it would be as large.
    """

    gap: float
    expected: float
    high: float
    p: float


def gap(arms: Arms) -> Gap:
    """The gap between the arms beside its null distribution."""
    null = arms.null()
    ranges = null.max(1) - null.min(1)
    observed = float(arms.means.max() - arms.means.min())
    p = (1 + float((ranges >= observed).sum())) / (1 + len(ranges))
    return Gap(observed, float(np.median(ranges)), float(np.quantile(ranges, CONFIDENCE)), p)


def best_set(arms: Arms) -> list[bool]:
    """Which arms may be the best: a set that holds it with 95 % confidence.

    An arm is left out where some other is ahead of it by more than chance makes the farthest ahead
    of as many equal arms (one-sided comparisons with each arm in turn, Hsu 1984).
    """
    null = arms.null()
    kept = []
    for i in range(len(arms.means)):
        others = [j for j in range(len(arms.means)) if j != i]
        error = np.sqrt(arms.variances[others] + arms.variances[i])
        with np.errstate(divide="ignore", invalid="ignore"):
            ahead = np.nan_to_num((arms.means[others] - arms.means[i]) / error, posinf=np.inf)
            chance = np.nan_to_num((null[:, others] - null[:, [i]]) / error)
        kept.append(bool(ahead.max() <= np.quantile(chance.max(1), CONFIDENCE)))
    return kept
