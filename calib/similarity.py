"""How near one corpus is to another: Jaccard similarity of their sets of n-grams."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from calib.jackknife import Losses, standard_error
from calib.minhash import signatures
from calib.pool import Pool
from calib.samples import Reader, Sample, Split, cut, sides
from calib.shingles import word_hashes

if TYPE_CHECKING:
    import numpy as np

Figure = Literal["jaccard", "containment"]

EXACT_UNITS = 10_000_000
"""Units of either side whose n-grams are held as sets; beyond, sketches stand for them."""

MOST_REPLICATES = 8
"""Disjoint samples of the same size that a standard error is made from, where there is text."""


class NoGramsError(ValueError):
    """Text that has no n-gram of words or tokens, such as dots alone."""


@dataclass(frozen=True)
class Value:
    """One figure of similarity.

    Attributes:
        value: the figure. stderr: its standard error, NaN where there is none.
        n: n-grams, permutations or documents behind it.
        units: words or tokens on either side, where sets of their n-grams are compared.
    """

    value: float
    stderr: float
    n: int
    units: int | None = None


@dataclass(frozen=True)
class Comparison:
    """The n-grams of two corpora that were cut to the same number of units (words or tokens).

    Attributes:
        candidate, reference: the n-grams of either. units: words or tokens on either side.
        replicates: as many units of further documents of both, disjoint from these and each
            other: what leaving out a document of them costs, by figure.
    """

    candidate: Sample
    reference: Sample
    units: int
    replicates: tuple[dict[Figure, Losses], ...] = ()

    @cached_property
    def shared(self) -> tuple[np.ndarray, np.ndarray]:
        """For every n-gram of either side, whether the other has it: bool [grams] each."""
        import numpy as np

        one, other = self.candidate.grams, self.reference.grams
        held = np.isin(one, other, assume_unique=True)
        back = np.zeros(len(other), bool)
        back[np.searchsorted(other, one[held])] = True
        return held, back

    @property
    def common(self) -> int:
        """|A and B|."""
        return int(self.shared[0].sum())

    @property
    def union(self) -> int:
        """|A or B|."""
        return len(self.candidate.grams) + len(self.reference.grams) - self.common

    @cached_property
    def losses(self) -> dict[Figure, Losses]:
        """By how much each figure falls without one document of either side."""
        import numpy as np

        size, common, union = len(self.candidate.grams), self.common, self.union
        jaccard, containment = [], []
        for own, (sample, held) in enumerate(
            zip((self.candidate, self.reference), self.shared, strict=True)
        ):
            # a shared gram stays in the union: the other side has it still
            lost, gone = sample.by_owner(held), sample.by_owner(~held)
            jaccard.append(common / union - (common - lost) / np.maximum(union - gone, 1))
            rest = size - (lost + gone if own == 0 else np.zeros_like(lost))
            containment.append(common / size - (common - lost) / np.maximum(rest, 1))
        lengths = (self.candidate.lengths, self.reference.lengths)
        return {
            "jaccard": Losses((jaccard[0], jaccard[1]), lengths),
            "containment": Losses((containment[0], containment[1]), lengths),
        }

    def stderr(self, figure: Figure) -> float:
        """The standard error of a figure; where nothing is common, at least that of one gram.

        NaN with one document a side.
        """
        found = standard_error([self.losses[figure], *(r[figure] for r in self.replicates)])
        least = 1 / (self.union if figure == "jaccard" else len(self.candidate.grams))
        return max(found, least) if not self.common else found


def compare(
    candidate: Pool,
    reference: Pool,
    n: int,
    units: int,
    split: Split = word_hashes,
    without: AbstractSet[str] = frozenset(),
) -> Comparison:
    """Cut two pools to the same number of units, at most `units`, and hash their n-grams.

    Args:
        candidate, reference: the pools. n: units in a gram. units: at most so many of either.
        split: texts to hashed units.
        without: ids of documents of the reference that are left out.

    Raises:
        NoGramsError: a side has no n-gram.
    """
    left, right = sides(candidate.ids, reference.ids)
    readers = [
        Reader(candidate.texts, left, split),
        Reader(reference.texts, [i for i in right if reference.ids[i] not in without], split),
    ]
    first = [reader.take(units) for reader in readers]
    units = min(units, *(len(hashes) for hashes, _ in first))
    one, other = (Sample.of(*cut(*part, units), n) for part in first)
    if not len(one.grams) or not len(other.grams):
        raise NoGramsError(
            f"too little text for {n}-grams: {units} words or tokens on either side; give the "
            "smaller dataset more text, or ask for shorter n-grams"
        )
    replicates: list[dict[Figure, Losses]] = []
    while len(replicates) < MOST_REPLICATES - 1 and units <= EXACT_UNITS // 2:
        more = [reader.take(units) for reader in readers]
        if min(len(hashes) for hashes, _ in more) < units:
            break
        samples = [Sample.of(*cut(*part, units), n) for part in more]
        if all(len(sample.grams) for sample in samples):
            replicates.append(Comparison(samples[0], samples[1], units).losses)
    return Comparison(one, other, units, tuple(replicates))


def exact(comparison: Comparison) -> dict[str, Value]:
    """Exact Jaccard |A and B| / |A or B| and containment |A and B| / |A|, with standard errors."""
    common, union, size = comparison.common, comparison.union, len(comparison.candidate.grams)
    units = comparison.units
    return {
        "jaccard": Value(common / union, comparison.stderr("jaccard"), union, units),
        "containment": Value(common / size, comparison.stderr("containment"), size, units),
    }


def minhash(comparison: Comparison, permutations: int, seed: int = 1) -> Value:
    """The Jaccard similarity as MinHash sketches estimate it.

    The standard error holds both the sketch's own, sqrt(J (1 - J) / permutations), and that of
    the samples.
    """
    import numpy as np

    sketches = [
        signatures(side.grams, np.array([len(side.grams)]), permutations, seed)[0]
        for side in (comparison.candidate, comparison.reference)
    ]
    estimate = float((sketches[0] == sketches[1]).mean())
    return estimated(estimate, permutations, comparison.stderr("jaccard"), comparison.units)


def estimated(jaccard: float, permutations: int, of_samples: float, units: int) -> Value:
    """A sketch's estimate with the error of the sketch and, where it is known, of the samples."""
    chance = max(jaccard, 1 / permutations)  # none in common is known to one permutation
    variance = chance * (1 - jaccard) / permutations
    if not math.isnan(of_samples):
        variance += of_samples**2
    return Value(jaccard, math.sqrt(variance), permutations, units)
