"""Selectors: some documents of a pool, chosen by what they are. One function and one line each.

A selector is a function of (pool, documents wanted, `Context`) that returns indices; ties go to
the lower id, so that the choice depends on the texts alone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from calib.pool import Pool
from calib.shingles import words

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Context:
    """What a selector may ask for; made only when it does.

    Attributes:
        reference: the pool of the reference.
        perplexities: the perplexity of each of some texts under the dense model.
    """

    reference: Callable[[], Pool]
    perplexities: Callable[[Sequence[str]], Sequence[float]]


Choose = Callable[[Pool, int, Context], list[int]]
"""(pool, documents wanted, what may be asked for) to indices of the documents chosen."""


@dataclass(frozen=True)
class Selector:
    """Where a selector is, and what it depends on beside the pool.

    Attributes:
        function: "module:function".
        model, reference: does it ask for the model, or for the reference?
    """

    function: str
    model: bool = False
    reference: bool = False

    def load(self) -> Choose:
        """The function itself."""
        module, name = self.function.split(":")
        choose: Choose = getattr(import_module(module), name)
        return choose


SELECTORS = {
    "least_perplexity": Selector("calib.selectors:least_perplexity", model=True),
    "most_perplexity": Selector("calib.selectors:most_perplexity", model=True),
    "nearest": Selector("calib.selectors:nearest", reference=True),
    "farthest": Selector("calib.selectors:farthest", reference=True),
    "zipcal": Selector("calib.selectors:zipcal"),
}
"""The selectors, by the name that a grid calls them."""


GRAM = 3
"""Words in a gram, for nearness."""

REFERENCE_DOCUMENTS = 5000
"""Documents of the reference that neighbours are sought in."""


def least_perplexity(pool: Pool, documents: int, context: Context) -> list[int]:
    """The documents that the dense model finds most likely."""
    return _lowest(context.perplexities(pool.texts), documents)


def most_perplexity(pool: Pool, documents: int, context: Context) -> list[int]:
    """The documents that the dense model finds least likely."""
    found = context.perplexities(pool.texts)
    return _lowest([-p if math.isfinite(p) else p for p in found], documents)


def nearest(pool: Pool, documents: int, context: Context) -> list[int]:
    """The documents most like some document of the reference, by MinHash."""
    return _lowest(-_nearness(pool, context.reference()), documents)


def farthest(pool: Pool, documents: int, context: Context) -> list[int]:
    """The documents least like any document of the reference, by MinHash."""
    return _lowest(_nearness(pool, context.reference()), documents)


def _lowest(scores: Sequence[float] | np.ndarray, documents: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (scores[i], i))[:documents]


def _nearness(pool: Pool, reference: Pool) -> np.ndarray:
    """How near each document is: its nearest neighbour's Jaccard, then its share of known grams.

    Documents that share no passage have neighbours at a Jaccard of nearly nothing, which a sketch
    cannot rank; the share of a document's grams that occur anywhere in the reference does.
    """
    import numpy as np

    from calib.neighbours import Neighbours, document_grams

    known = Neighbours(document_grams(reference.texts[:REFERENCE_DOCUMENTS], GRAM))
    scores = []
    for grams in document_grams(pool.texts, GRAM):
        scores.append(round(known.nearest(grams).jaccard, 2) + known.share(grams) / 1000)
    return np.array(scores)


ZIPCAL_WORDS = 512
"""Words of a document that count, so that length alone does not win."""


def zipcal(pool: Pool, documents: int, context: Context) -> list[int]:
    """Documents that together have the most distinct words (ZipCal, arXiv 2603.16105).

    Greedy: each step takes the document that adds the most words not seen yet. When all words
    are seen, the count starts anew with the documents that are left.
    """
    vocabulary = [frozenset(words(text)[:ZIPCAL_WORDS]) for text in pool.texts]
    left = list(range(len(vocabulary)))
    chosen: list[int] = []
    while left and len(chosen) < documents:
        covering = _cover(vocabulary, left) or left
        chosen += covering
        left = sorted(set(left) - set(covering))
    return chosen[:documents]


def _cover(vocabulary: Sequence[frozenset[str]], candidates: Sequence[int]) -> list[int]:
    """Candidates in greedy order, until no other adds a word.

    What a document adds only ever falls, so that old counts are upper bounds and only the one at
    the head of the queue is counted again.
    """
    queue = [(-len(vocabulary[i]), i) for i in candidates]
    heapq.heapify(queue)
    seen: set[str] = set()
    order: list[int] = []
    while queue:
        _, i = heapq.heappop(queue)
        adds = len(vocabulary[i] - seen)
        if queue and (-adds, i) > queue[0]:
            heapq.heappush(queue, (-adds, i))
        elif not adds:
            break
        else:
            order.append(i)
            seen |= vocabulary[i]
    return order
