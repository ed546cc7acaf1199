"""Data with known truth: datasets, draws nested in them, and documents crossed with everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
