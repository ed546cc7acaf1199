"""Data with known truth: datasets, draws nested in them, and documents crossed with everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.blocks import Array, Documents


@dataclass(frozen=True)
class Truth:
    """Standard deviations of the effects, on the scale of a score in points.

    Attributes:
        documents: documents. draws: draws a dataset.
        document, dataset_document, draw, draw_document: standard deviations of the random effects
            of documents, datasets on documents, draws, and draws on documents.
        binary: are outcomes right or wrong (0 or 100), with these chances?
    """

    documents: int = 120
    draws: int = 3
    document: float = 30.0
    dataset_document: float = 6.0
    draw: float = 1.0
    draw_document: float = 10.0
    binary: bool = False

    def sample(
        self,
        effects: Array,
        random: np.random.Generator,
        fixed: NDArray[Any] | None = None,
        noise: float | Array = 1.0,
    ) -> tuple[Array, Array]:
        """Outcomes [datasets, draws, documents], and each dataset's expectation on the documents.

        Args:
            effects: [datasets] true score of each.
            random: source of randomness.
            fixed: [datasets + 1, documents] effects of the documents, where these are given.
            noise: [datasets] how many times as far as `draw` the draws of each are apart.
        """
        shape = (len(effects), self.draws, self.documents)
        if fixed is None:
            fixed = self.fixed(len(effects), random)
        base = effects[:, None] + fixed[0] + fixed[1:]
        scale = np.broadcast_to(self.draw * np.asarray(noise), len(effects))[:, None]
        draws = random.normal(size=shape[:2]) * scale
        residual = random.normal(scale=self.draw_document, size=shape)
        y = base[:, None, :] + draws[:, :, None] + residual
        if self.binary:
            y = 100.0 * (random.random(shape) < np.clip(y, 0, 100) / 100)
        return y, base.mean(1)

    def fixed(self, datasets: int, random: np.random.Generator) -> Array:
        """Effects of documents, and of datasets on documents."""
        document = random.normal(scale=self.document, size=(1, self.documents))
        crossed = random.normal(scale=self.dataset_document, size=(datasets, self.documents))
        return np.concatenate([document, crossed])


@dataclass(frozen=True)
class RareChanges:
    """Two arms with right and wrong answers, the second with few that are wrong instead of right.

    Attributes:
        documents, draws: how many. rate: of answers that change; for one half it is the document's
            change in all draws, for the other each draw's own.
    """

    documents: int
    draws: int
    rate: float

    @property
    def mean(self) -> float:
        """The true difference of the arms, in points, over all documents that there could be."""
        half = self.rate / 2
        return 100 * (1 - (1 - half) ** 2)

    @property
    def answers(self) -> Documents:
        """One task of them."""
        return Documents(np.zeros(self.documents, np.int64), np.ones(1), np.array([100.0]))

    def sample(self, random: np.random.Generator) -> tuple[Array, float]:
        """Outcomes [2, draws, documents], and the difference expected on these documents."""
        half, shape = self.rate / 2, (self.draws, self.documents)
        lasting = random.random(self.documents) < half
        wrong = lasting | (random.random(shape) < half)
        y = np.stack([np.full(shape, 100.0), np.where(wrong, 0.0, 100.0)])
        return y, float(100 * np.where(lasting, 1.0, half).mean())
