"""The measures of how a dataset's pool relates to the reference's, by the name a grid calls them.

A measure is a function of `Corpora` that returns figures by name; a new one is a function and a
line of `MEASURES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from calib import shards, similarity
from calib.neighbours import Neighbours, document_grams
from calib.pool import Pool
from calib.samples import Split, sides
from calib.shards import Keep
from calib.shingles import gram_hashes, word_hashes
from calib.similarity import Comparison, Value

AGGREGATION_GRAM = 4
"""Words in a gram of the figure `aggregation`."""


@dataclass(frozen=True)
class Corpora:
    """Two pools, and how they are compared.

    Attributes:
        candidate, reference: the pools.
        n: units in a gram. units: most units on either side.
        permutations, seed: of MinHash sketches.
        documents: documents looked at one by one, on either side.
        split: texts to hashed units.
        keep: keeps sketches of shards, by a name that is theirs among these two corpora.
    """

    candidate: Pool
    reference: Pool
    n: int = 3
    units: int = 1_000_000
    permutations: int = 16_384
    seed: int = 1
    documents: int = 1000
    split: Split = word_hashes
    keep: Keep = lambda name, make: make()

    @cached_property
    def comparison(self) -> Comparison:
        """The n-grams of both, cut to the same number of units, as many as are held."""
        units = min(self.units, similarity.EXACT_UNITS)
        return similarity.compare(self.candidate, self.reference, self.n, units, self.split)

    @cached_property
    def empty(self) -> bool:
        """Does a side have no n-gram, so that there is nothing to compare?"""
        try:
            return not self.comparison.units
        except similarity.NoGramsError:
            return True

    def sides(self, documents: int | None) -> tuple[list[int], list[int]]:
        """The first documents on either side, None = all; none is on both."""
        left, right = sides(self.candidate.ids, self.reference.ids)
        return left[:documents], right[:documents]

    @cached_property
    def neighbours(self) -> list[dict[str, Any]]:
        """Every looked-at document of the candidate beside those of the reference.

        Returns:
            For each `document`, the id of its `nearest`, their `jaccard`, and its `containment`.
        """
        left, right = self.sides(self.documents)
        known = Neighbours(document_grams(_texts(self.reference, right), self.n, self.split))
        rows = []
        grams = document_grams(_texts(self.candidate, left), self.n, self.split)
        for i, own in zip(left, grams, strict=True):
            found = known.nearest(own)
            rows.append(
                {
                    "document": self.candidate.ids[i],
                    "nearest": None
                    if found.index is None
                    else self.reference.ids[right[found.index]],
                    "jaccard": found.jaccard,
                    "containment": known.containment(own),
                }
            )
        return rows


def _texts(pool: Pool, indices: Sequence[int]) -> list[str]:
    return [pool.texts[i] for i in indices]


def _mean(figures: Sequence[float]) -> Value:
    """The mean of one figure a document, and its standard error."""
    error = stdev(figures) / len(figures) ** 0.5 if len(figures) > 1 else math.nan
    return Value(fmean(figures), error, len(figures))


def jaccard(corpora: Corpora) -> dict[str, Value]:
    """|A and B| / |A or B| of the sets of n-grams: exact, and as MinHash sketches estimate it.

    Of more text than sets are held of, both are the estimate.
    """
    if corpora.empty:
        return {}
    if corpora.comparison.units == similarity.EXACT_UNITS < corpora.units:
        estimate = shards.estimate(corpora)
        return {"jaccard": estimate, "jaccard_minhash": estimate}
    return {
        "jaccard": similarity.exact(corpora.comparison)["jaccard"],
        "jaccard_minhash": similarity.minhash(
            corpora.comparison, corpora.permutations, corpora.seed
        ),
    }


def containment(corpora: Corpora) -> dict[str, Value]:
    """|A and B| / |A| of the sets of n-grams, and its mean over documents A, each beside the
    reference document B that has most of it."""
    found = {} if corpora.empty else similarity.exact(corpora.comparison)
    found.pop("jaccard", None)
    by_document = [row["containment"] for row in corpora.neighbours]
    if by_document:
        found["document_containment"] = _mean(by_document)
    return found


def nearest(corpora: Corpora) -> dict[str, Value]:
    """The mean Jaccard similarity of a document to its nearest document of the reference."""
    figures = [row["jaccard"] for row in corpora.neighbours]
    return {"nearest": _mean(figures)} if figures else {}


def aggregation(corpora: Corpora) -> dict[str, Value]:
    """How much documents repeat themselves: the mean share of 4-grams that came before."""
    texts = _texts(corpora.candidate, corpora.sides(corpora.documents)[0])
    figures = aggregations(texts)
    return {"aggregation": _mean(figures)} if figures else {}


def aggregations(texts: Sequence[str]) -> list[float]:
    """For every text that has a word 4-gram, the share of them that came before in it."""
    import numpy as np

    hashes, counts = gram_hashes(*word_hashes(texts), AGGREGATION_GRAM)
    parts = np.split(hashes, np.cumsum(counts)[:-1]) if len(counts) else []
    return [1 - len(np.unique(part)) / len(part) for part in parts if len(part)]


def domains(corpora: Corpora) -> dict[str, Value]:
    """The share of documents with an address whose web domain the reference has too."""
    theirs = set(corpora.reference.domains) - {""}
    ours = [domain for domain in corpora.candidate.domains if domain]
    if not ours or not theirs:
        return {}
    return {"domain_overlap": _mean([float(d in theirs) for d in ours])}


MEASURES: dict[str, Callable[[Corpora], dict[str, Value]]] = {
    "jaccard": jaccard,
    "containment": containment,
    "nearest": nearest,
    "aggregation": aggregation,
    "domains": domains,
}

MODEL_MEASURES = ("perplexity", "min_k")
"""Measures of the calibration windows under the dense model; see `calib.membership`."""
