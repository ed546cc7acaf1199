"""What the spread of scores is due to: dataset, pruner, their interaction, the draw, and the rest.

The model of one (model, pattern, sparsity, size): score[d, p, r] = mean + dataset_d + pruner_p +
(dataset x pruner)_dp + draw_r(d) + rest_dpr, with draws nested in datasets and crossed with
pruners. Components are the analysis-of-variance estimates; intervals are generalised confidence
intervals: each mean square is divided by a chi-square over its degrees of freedom, many times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.blocks import Array
from analysis.estimate import CONFIDENCE
from analysis.gaps import SEED

SIMULATIONS = 10_000
ROUNDING = 1e-12  # a share below is the error of subtracting mean squares that are equal
SOURCES = ("dataset", "pruner", "dataset x pruner", "draw", "rest")


@dataclass(frozen=True)
class Share:
    """The share of the variance that one source has, from 0 to 1, with its interval."""

    source: str
    share: float
    low: float
    high: float
    sd: float


def shares(scores: Array) -> list[Share]:
    """Variance shares of a balanced table of scores.

    Args:
        scores: [datasets, pruners, draws], each at least 2.
    """
    squares, dfs = _mean_squares(scores)
    shape = scores.shape
    components = np.maximum(_components(squares, shape), 0)
    components[components < ROUNDING * components.sum()] = 0
    total = components.sum()
    random = np.random.default_rng(SEED)
    simulated = squares * dfs / random.chisquare(dfs, size=(SIMULATIONS, len(dfs)))
    drawn = np.maximum(_components(simulated, shape), 0)
    sums = drawn.sum(1, keepdims=True)
    relative = np.divide(drawn, sums, out=np.zeros_like(drawn), where=sums > 0)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(relative, [tail, 1 - tail], axis=0)
    return [
        Share(
            source,
            float(components[i] / total) if total > 0 else 0.0,
            float(low[i]),
            float(high[i]),
            float(np.sqrt(components[i])),
        )
        for i, source in enumerate(SOURCES)
    ]


def _mean_squares(y: Array) -> tuple[Array, NDArray[np.int64]]:
    """Mean squares and degrees of freedom, in the order of `SOURCES`."""
    d, p, r = y.shape
    grand = y.mean()
    dataset, pruner = y.mean((1, 2)), y.mean((0, 2))
    cell, draw = y.mean(2), y.mean(1)
    interaction = cell - dataset[:, None] - pruner[None, :] + grand
    nested = draw - dataset[:, None]
    rest = y - cell[:, :, None] - draw[:, None, :] + dataset[:, None, None]
    sums = np.array(
        [
            p * r * ((dataset - grand) ** 2).sum(),
            d * r * ((pruner - grand) ** 2).sum(),
            r * (interaction**2).sum(),
            p * (nested**2).sum(),
            (rest**2).sum(),
        ]
    )
    dfs = np.array([d - 1, p - 1, (d - 1) * (p - 1), d * (r - 1), d * (p - 1) * (r - 1)])
    return sums / dfs, dfs


def _components(squares: Array, shape: tuple[int, ...]) -> Array:
    """Variance components from expected mean squares; [..., sources].

    Dataset and pruner are the ones of the grid, no sample of others: their components are the
    variances of their effects, and the interaction is in neither's mean square.
    """
    d, p, r = shape
    dataset, pruner, both, draw, rest = np.moveaxis(squares, -1, 0)
    return np.stack(
        [
            (dataset - draw) / (p * r),
            (pruner - rest) / (d * r),
            (both - rest) / r,
            (draw - rest) / p,
            rest,
        ],
        axis=-1,
    )
