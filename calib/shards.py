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
    both = sides(corpora)
    units = min(corpora.units, *(side.units for side in both))
    one, other = (side.first(units) for side in both)
    jaccard = one.jaccard(other)
    part = corpora.comparison
    of_samples = part.stderr("jaccard") * math.sqrt(part.units / units)
    return similarity.estimated(jaccard, corpora.permutations, of_samples, units)


def sides(corpora: Corpora) -> list[Side]:
    """Both corpora, without the documents that are on the other side."""
    pools = zip((corpora.candidate, corpora.reference), corpora.sides(None), strict=True)
    return [Side(corpora, name, *pool) for name, pool in zip("ab", pools, strict=True)]


class Side:
    """One of two corpora, as the sketches of its shards.

    Attributes:
        shards: the documents of each.
    """

    def __init__(self, corpora: Corpora, name: str, pool: Pool, indices: Sequence[int]) -> None:
        self._corpora, self._name, self._pool = corpora, name, pool
        self.shards = [
            indices[i : i + SHARD_DOCUMENTS] for i in range(0, len(indices), SHARD_DOCUMENTS)
        ]

    def name(self, shard: int, most: int | None = None) -> str:
        """What the sketch of a shard is kept as."""
        return f"{self._name} {shard}" + ("" if most is None else f" {most}")

    def make(self, shard: int, most: int | None = None) -> Sketch:
        """The sketch of a shard, or of its first `most` units."""
        given = self._corpora
        texts = (self._pool.texts[i] for i in self.shards[shard])
        return sketch(texts, given.n, given.permutations, given.seed, given.split, most)

    def missing(self, known: Callable[[str], Sketch | None]) -> list[int]:
        """The shards that are still to be sketched, until there are units enough.

        Args:
            known: gives the sketch of a name, None where it is not made yet.
        """
        units, found = 0, []
        for shard in range(len(self.shards)):
            if units >= self._corpora.units:
                break
            part = known(self.name(shard))
            if part is None:
                found.append(shard)
            else:
                units += part.units
        return found

    @property
    def units(self) -> int:
        """Units of the shards that are needed, or of all there are."""
        return sum(part.units for part in self._needed(self._corpora.units))

    def first(self, units: int) -> Sketch:
        """The sketch of the first `units` units."""
        *whole, last = self._needed(units)
        left = units - sum(part.units for part in whole)
        if left < last.units:
            last = self._kept(len(whole), left)
        return reduce(Sketch.__or__, [*whole, last])

    def _needed(self, units: int) -> list[Sketch]:
        """The sketches of the first shards, until they hold so many units."""
        parts: list[Sketch] = []
        while sum(part.units for part in parts) < units and len(parts) < len(self.shards):
            parts.append(self._kept(len(parts), None))
        return parts

    def _kept(self, shard: int, most: int | None) -> Sketch:
        return self._corpora.keep(self.name(shard, most), lambda: self.make(shard, most))
