"""Standard errors of figures of two samples: the jackknife over documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Losses:
    """What a figure of two samples loses when one of their documents is left out.

    Attributes:
        losses: float64 [documents] for either side. lengths: units of these documents, likewise.
    """

    losses: tuple[np.ndarray, np.ndarray]
    lengths: tuple[np.ndarray, np.ndarray]


def standard_error(replicates: Sequence[Losses]) -> float:
    """The standard error of a figure, from one or more disjoint samples of the same size.

    What a document's leaving costs has two parts: the loss of text, which every document causes in
    proportion to its length, at a rate that all documents of all samples tell together; and what
    the document has more or less than its length. The second part is what would have been
    otherwise with another document in its place. It is taken at the size that it would have beside
    a rate found without this very document, so that the one long document of a short list does
    not explain itself away (the jackknife of a ratio; never too small in expectation, Efron and
    Stein 1981). Both sides vary by themselves, so their variances add up.

    Returns:
        NaN where a side has one document only, which says nothing of others.
    """
    import numpy as np

    variance = 0.0
    for side in (0, 1):
        lengths = np.concatenate([sample.lengths[side] for sample in replicates])
        losses = np.concatenate([sample.losses[side] for sample in replicates])[lengths > 0]
        shares = lengths[lengths > 0] / lengths.sum()
        if len(shares) < 2:
            return math.nan
        rest = (losses - losses.sum() * shares) / (1 - shares)
        variance += float((rest**2).sum()) * (1 - 1 / len(shares)) / len(replicates)
    return math.sqrt(variance)
