"""Similarity and quality of calibration text against the outcome, with the dataset as the unit."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from analysis.blocks import Array
from analysis.estimate import CONFIDENCE
from analysis.gaps import SEED

FEWEST_FOR_INTERVAL = 8
"""Datasets; of fewer, a correlation's interval would say more than they know."""

EXACT_UP_TO = 8
"""Datasets of which all permutations are looked at (40,320); of more, so many at random."""


@dataclass(frozen=True)
class Association:
    """How a property of datasets goes with their scores.

    Attributes:
        datasets: number. correlation: Pearson's, given the other property where there is one.
        rank: Spearman's, likewise. p: permutation p value of `correlation`; exact: are all
            permutations in it? low, high: 95 % interval, None for few datasets.
    """

    datasets: int
    correlation: float
    rank: float
    p: float
    exact: bool
    low: float | None
    high: float | None


def associate(x: Array, y: Array, given: Array | None = None) -> Association | None:
    """The association of `x` with `y`, given another property or not.

    Args:
        x: [datasets] the property. y: [datasets] the mean score. given: [datasets] the other.

    Returns:
        None for fewer than three datasets (four, where another is given), or where `x` or `y` is
        constant.
    """
    n = len(x)
    if n < (3 if given is None else 4) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    if given is not None and np.ptp(given) == 0:
        return None
    x_left, y_left = _residuals(x, given), _residuals(y, given)
    if np.ptp(x_left) < 1e-9 * np.ptp(x) or np.ptp(y_left) < 1e-9 * np.ptp(y):
        return None  # the other property says all
    from scipy.stats import rankdata  # here: it takes a second to import, which few answers need

    observed = _correlation(x_left, y_left)
    orders, exact = _orders(n)
    shuffled = y_left[orders]
    if given is not None:  # Freedman and Lane: permuted residuals, fitted again
        shuffled = shuffled - shuffled.mean(1, keepdims=True)
        base = (given - given.mean()) / np.linalg.norm(given - given.mean())
        shuffled = shuffled - (shuffled @ base)[:, None] * base
    found = np.abs(_correlations(x_left, shuffled)) >= abs(observed) - 1e-12
    p = float(found.mean()) if exact else (1 + float(found.sum())) / (1 + len(found))
    rank = _correlation(
        _residuals(rankdata(x), None if given is None else rankdata(given)),
        _residuals(rankdata(y), None if given is None else rankdata(given)),
    )
    low, high = _interval(observed, n - (given is not None))
    return Association(n, observed, rank, p, exact, low, high)


def _residuals(values: Array, given: Array | None) -> Array:
    centred = values - values.mean()
    if given is None:
        return np.asarray(centred)
    base = given - given.mean()
    return np.asarray(centred - base * (centred @ base) / (base @ base))


def _correlation(x: Array, y: Array) -> float:
    return float(_correlations(x, y[None, :])[0])


def _correlations(x: Array, ys: Array) -> Array:
    x = x - x.mean()
    ys = ys - ys.mean(1, keepdims=True)
    norms = np.linalg.norm(x) * np.linalg.norm(ys, axis=1)
    return np.divide(ys @ x, norms, out=np.zeros(len(ys)), where=norms > 0)


def _orders(n: int) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int64]], bool]:
    if n <= EXACT_UP_TO:
        return np.array(list(itertools.permutations(range(n)))), True
    random = np.random.default_rng(SEED)
    return np.argsort(random.random((40_000, n)), axis=1), False


def _interval(correlation: float, n: int) -> tuple[float | None, float | None]:
    """Fisher's interval of a correlation."""
    if n < FEWEST_FOR_INTERVAL or abs(correlation) >= 1:
        return None, None
    half = float(ndtri((1 + CONFIDENCE) / 2)) / math.sqrt(n - 3)
    return math.tanh(math.atanh(correlation) - half), math.tanh(math.atanh(correlation) + half)
