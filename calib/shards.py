"""Corpora whose sets of n-grams do not fit: sketches shard by shard, each made once and kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING

from calib import similarity
from calib.minhash import Sketch
from calib.sketch import sketch

if TYPE_CHECKING:
    from calib.measures import Corpora
    from calib.pool import Pool

SHARD_DOCUMENTS = 20_000
"""Documents of a shard: a few seconds' reading, minutes of permuting."""

Keep = Callable[[str, Callable[[], Sketch]], Sketch]
"""Makes a sketch, or gives the one that was kept under the same name."""


def estimate(corpora: Corpora) -> similarity.Value:
    """The Jaccard similarity of two corpora by their sketches, equal in units.

    The standard error holds the sketch's own, and that of the documents: the error of the part
    whose sets were held, scaled to the whole by the square root of the sizes.
    """
    sides = zip((corpora.candidate, corpora.reference), corpora.sides(None), strict=True)
    both = [_Side(corpora, name, *side) for name, side in zip("ab", sides, strict=True)]
    units = min(corpora.units, *(side.units for side in both))
    one, other = (side.first(units) for side in both)
    jaccard = one.jaccard(other)
    part = corpora.comparison
    of_samples = part.stderr("jaccard") * math.sqrt(part.units / units)
    return similarity.estimated(jaccard, corpora.permutations, of_samples, units)


class _Side:
    """One corpus, as the sketches of its shards."""

    def __init__(self, corpora: Corpora, name: str, pool: Pool, indices: Sequence[int]) -> None:
        self._corpora, self._name, self._pool = corpora, name, pool
        self._shards = [
            indices[i : i + SHARD_DOCUMENTS] for i in range(0, len(indices), SHARD_DOCUMENTS)
        ]
        self._sketches: list[Sketch] = []
        while self.units < corpora.units and len(self._sketches) < len(self._shards):
            self._sketches.append(self._sketch(len(self._sketches), None))

    @property
    def units(self) -> int:
        """Units of the shards that were sketched."""
        return sum(part.units for part in self._sketches)

    def _sketch(self, shard: int, most: int | None) -> Sketch:
        given = self._corpora
        name = f"{self._name} {shard}" + ("" if most is None else f" {most}")
        texts = (self._pool.texts[i] for i in self._shards[shard])
        return given.keep(
            name, lambda: sketch(texts, given.n, given.permutations, given.seed, given.split, most)
        )

    def first(self, units: int) -> Sketch:
        """The sketch of the first `units` units."""
        parts: list[Sketch] = []
        for shard, part in enumerate(self._sketches):
            left = units - sum(p.units for p in parts)
            if not left:
                break
            parts.append(part if part.units <= left else self._sketch(shard, left))
        return reduce(Sketch.__or__, parts)
