"""How far apart draws are: one arm's own variance, or one that several arms share.

Of two to four draws a variance is hardly known, and a pooled one tells far more; but an arm whose
draws are three times as far apart as the others' then has intervals that cover 85 to 90 %, and so
few draws cannot tell such an arm. So variances are pooled where the draws of one setting are many
enough to tell, or where the other settings tell: draws are crossed with pruners, sparsities,
patterns and sizes, and an arm whose draws are as far apart as the others' in all of these is taken
to be like them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import chdtrc, fdtr, ndtri, stdtrit

from analysis.blocks import Array, Block, Documents, at_least, between_draws

LEAST_FREEDOM = 4
"""Degrees of freedom of each arm's variance from which on it may be pooled; fewer cannot tell."""

LEAST_FREEDOM_HERE = 2
"""The same of the setting itself, where others tell: two draws are too few whatever these say."""

UNEQUAL = 0.25
"""Variances that differ at this level are not pooled; a test that seldom sees a difference must not
decide at 0.05 that there is none."""

CARE = 1.7
"""Exponent of shares in `matched_df`: 2 is Welch's, and covers 92.7 % at its worst; 1 adds parts'
intervals as standard errors (Howe 1974), and covers up to 98.7 %."""

NORMAL = float(ndtri(0.975))


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
class Noise:
    """How far apart each arm's draws are in all settings together, beside the other arms'.

    Attributes:
        variances: [arms] relative to the mean of all arms. df: [arms] their degrees of freedom.
    """

    variances: Array
    df: Array


def noise(arms: Sequence[Array]) -> Noise:
    """The noise of arms that were run in the same settings.

    A draw that is ahead in one setting may be so in another: settings count as so many as
    independent ones would have that tell a variance as well. With r the correlation of draws in
    two settings, squared deviations correlate by r squared.

    Args:
        arms: of each, [settings, draws] scores; every arm has at least two draws.
    """
    df = np.array([arm.shape[1] - 1.0 for arm in arms])
    deviations = [arm - arm.mean(1, keepdims=True) for arm in arms]
    covariances = np.stack([d @ d.T for d in deviations]) / df[:, None, None]
    by_setting = np.einsum("a,ass->s", df, covariances) / df.sum()
    told = by_setting > 0  # elsewhere all draws of all arms tie
    scale = np.sqrt(by_setting[told])
    relative = covariances[:, told][:, :, told] / (scale[:, None] * scale[None, :])
    settings = int(told.sum())
    if not settings:
        return Noise(np.zeros(len(arms)), df)
    variances = np.einsum("ass->a", relative) / settings
    moving = variances > 0
    each = relative[moving] / variances[moving, None, None]
    correlation = np.einsum("a,ast->st", df[moving], each) / df[moving].sum()
    independent = settings**2 / float((correlation**2).sum())
    return Noise(variances, df * independent)


def pool(
    blocks: Sequence[Block], documents: Documents | None, elsewhere: Noise | None = None
) -> Spread | None:
    """The variance between draws that several arms share, None where it seems not to be one.

    Args:
        blocks: one an arm, on one scale. documents: of the score.
        elsewhere: of the same arms, in this and other settings.
    """
    drawn = [b for b in blocks if len(b.scores) > 1]
    if len(drawn) < 2:
        return None
    variances = [between_draws(b, documents) for b in drawn]
    dfs = [len(b.scores) - 1 for b in drawn]
    if not (alike(variances, dfs) or _alike_elsewhere(variances, dfs, elsewhere)):
        return None
    total = sum(dfs)
    floored = at_least(variances, drawn, documents)
    variance = sum(v * df for v, df in zip(floored, dfs, strict=True)) / total
    return Spread(variance, total, len(drawn))


def alike(variances: Sequence[float], dfs: Sequence[float]) -> bool:
    """May variances be pooled: have they draws enough to tell, and do not seem to differ?"""
    return min(dfs) >= LEAST_FREEDOM and not unequal(variances, dfs)


def _alike_elsewhere(
    variances: Sequence[float], dfs: Sequence[int], elsewhere: Noise | None
) -> bool:
    return (
        elsewhere is not None
        and min(dfs) >= LEAST_FREEDOM_HERE
        and alike(list(elsewhere.variances), list(elsewhere.df))
        and not unequal(variances, dfs)
    )


def unequal(variances: Sequence[float], dfs: Sequence[float]) -> bool:
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


def matched_df(parts: Sequence[float], dfs: Sequence[float]) -> float:
    """Degrees of freedom of a sum of independent variances, some with hardly any themselves.

    Satterthwaite weighs 1 / df of each part by its squared share in the sum, which is the first
    order of weighing so by how far its squared t quantile exceeds a normal one (Welch 1947). With
    one or two degrees of freedom the first order does not do: such intervals cover 87 to 95 %. With
    the quantiles themselves, 95 % intervals cover 93.5 to 97.1 % for any true shares of two parts,
    of one degree of freedom and of many, and are exact for one part; see `CARE`.
    """
    total = sum(parts) or 1.0
    return _matched_df(tuple(part / total for part in parts), tuple(map(float, dfs)))


@lru_cache(maxsize=10_000)  # a family's pairs often share their variances, and so their shares
def _matched_df(shares: tuple[float, ...], dfs: tuple[float, ...]) -> float:
    """The same by the parts' shares in the sum."""
    excess = stdtrit(np.array(dfs), 0.975) ** 2 - NORMAL**2
    wanted = math.sqrt(NORMAL**2 + float((np.array(shares) ** CARE * excess).sum()))
    low, high = min(dfs), sum(dfs)
    for _ in range(32):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if stdtrit(middle, 0.975) > wanted else (low, middle)
    return low
