"""How near one corpus is to another: Jaccard similarity of their sets of n-grams."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from calib.minhash import signatures
from calib.pool import Pool
from calib.shingles import gram_hashes, word_hashes

if TYPE_CHECKING:
    import numpy as np

Unit = Literal["word", "token"]

Split = Callable[[Sequence[str]], "tuple[np.ndarray, np.ndarray]"]
"""Texts to the hashes of their units, end to end, and each text's number of units."""

EXACT_UNITS = 10_000_000
"""Units of either side whose n-grams are held as sets; beyond, sketches stand for them."""

LEAST_REPLICATES, MOST_REPLICATES = 4, 8
"""Disjoint samples of the same size that are compared where the pools have text for them."""

READ_AT_ONCE = 256
"""Documents that are split at a time, until there is text enough."""


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
class Sample:
    """The n-grams of some documents of one corpus.

    Attributes:
        grams: the hashes of the distinct ones, ascending: uint64 [grams].
        owners: the document that holds each, -1 where several do: int64 [grams].
        lengths: units of every document: int64 [documents].
    """

    grams: np.ndarray
    owners: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, units: np.ndarray, lengths: np.ndarray, n: int) -> Sample:
        """Of hashed units that lie end to end, and the length of each document."""
        import numpy as np

        grams, counts = gram_hashes(units, lengths, n)
        order = np.argsort(grams, kind="stable")
        keys, holders = grams[order], np.repeat(np.arange(len(lengths)), counts)[order]
        if not len(keys):
            return cls(keys, holders, lengths)
        first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        last = np.append(first[1:], len(keys)) - 1
        same = holders[first] == holders[last]  # sorting kept the documents in order
        return cls(keys[first], np.where(same, holders[first], -1), lengths)


@dataclass(frozen=True)
class Comparison:
    """The n-grams of two corpora that were cut to the same number of units (words or tokens).

    Attributes:
        candidate, reference: the n-grams of either. units: words or tokens on either side.
        replicates: Jaccard and containment of as many units of further documents of both,
            disjoint from these and each other.
    """

    candidate: Sample
    reference: Sample
    units: int
    replicates: tuple[tuple[float, float], ...] = ()

    @cached_property
    def common(self) -> tuple[np.ndarray, np.ndarray]:
        """For every n-gram of either side, whether the other has it: bool [grams] each."""
        import numpy as np

        one, other = self.candidate.grams, self.reference.grams
        held = np.isin(one, other, assume_unique=True)
        back = np.zeros(len(other), bool)
        back[np.searchsorted(other, one[held])] = True
        return held, back

    @property
    def jaccard(self) -> float:
        """|A and B| / |A or B|."""
        common = int(self.common[0].sum())
        return common / (len(self.candidate.grams) + len(self.reference.grams) - common)

    @property
    def containment(self) -> float:
        """|A and B| / |A|."""
        return int(self.common[0].sum()) / len(self.candidate.grams)


def sides(candidate: Sequence[str], reference: Sequence[str]) -> tuple[list[int], list[int]]:
    """Indices of the documents on either side; one in both goes to one side by its hash.

    So the reference against itself is one half against the other: the ceiling.

    Args:
        candidate, reference: ids of the documents of each.
    """
    both = set(candidate) & set(reference)
    left = [i for i, d in enumerate(candidate) if d not in both or int(d[-2:], 16) % 2 == 0]
    right = [i for i, d in enumerate(reference) if d not in both or int(d[-2:], 16) % 2]
    return left, right


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
        _Reader(candidate.texts, left, split),
        _Reader(reference.texts, [i for i in right if reference.ids[i] not in without], split),
    ]
    first = [reader.take(units) for reader in readers]
    units = min(units, *(len(hashes) for hashes, _ in first))
    samples = [Sample.of(*cut(*part, units), n) for part in first]
    if not all(len(sample.grams) for sample in samples):
        raise NoGramsError(
            f"too little text for {n}-grams: {units} words or tokens on either side; give the "
            "smaller dataset more text, or ask for shorter n-grams"
        )
    replicates: list[tuple[float, float]] = []
    while len(replicates) < MOST_REPLICATES - 1 and units <= EXACT_UNITS // 2:
        more = [reader.take(units) for reader in readers]
        if min(len(hashes) for hashes, _ in more) < units:
            break
        one, other = (Sample.of(*cut(*part, units), n) for part in more)
        further = Comparison(one, other, units)
        replicates.append((further.jaccard, further.containment))
    return Comparison(samples[0], samples[1], units, tuple(replicates))


class _Reader:
    """Documents one after another, split into hashed units; what is not asked for stays unread."""

    def __init__(self, texts: Sequence[str], indices: Sequence[int], split: Split) -> None:
        self._texts, self._indices, self._split = texts, indices, split
        self._next = 0
        self._ready: list[tuple[np.ndarray, np.ndarray]] = []

    def take(self, units: int) -> tuple[np.ndarray, np.ndarray]:
        """The next documents that hold `units` units, or all that are left."""
        import numpy as np

        hashes, lengths = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        have = 0
        while have < units:
            if not self._ready:
                if self._next >= len(self._indices):
                    break
                chosen = self._indices[self._next : self._next + READ_AT_ONCE]
                self._next += len(chosen)
                self._ready.append(self._split([self._texts[i] for i in chosen]))
            part, counts = self._ready.pop()
            whole = int(np.searchsorted(np.cumsum(counts), units - have)) + 1
            end = int(counts[:whole].sum())
            if whole < len(counts):
                self._ready.append((part[end:], counts[whole:]))
            hashes.append(part[:end])
            lengths.append(counts[:whole])
            have += end
        return np.concatenate(hashes), np.concatenate(lengths)


def cut(hashes: np.ndarray, counts: np.ndarray, units: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `units` units; the document they end in is cut."""
    import numpy as np

    ends = np.minimum(np.cumsum(counts), units)
    return hashes[:units], np.diff(ends, prepend=0)


def exact(comparison: Comparison) -> dict[str, Value]:
    """Exact Jaccard |A and B| / |A or B| and containment |A and B| / |A|, with standard errors."""
    common = int(comparison.common[0].sum())
    size = len(comparison.candidate.grams)
    union = size + len(comparison.reference.grams) - common
    jaccard, containment = relative_errors(comparison)
    units = comparison.units
    return {
        "jaccard": Value(common / union, _error(common, union, jaccard), union, units),
        "containment": Value(common / size, _error(common, size, containment), size, units),
    }


def _error(common: int, size: int, relative: float) -> float:
    """The standard error of common / size; where nothing is common, that of one gram."""
    return relative * common / size if common else 1 / size


def relative_errors(comparison: Comparison) -> tuple[float, float]:
    """Relative standard errors of Jaccard and containment, from disjoint samples of documents.

    Where both pools have text for them, from the spread over disjoint samples of the same size;
    and from the documents of the sample itself, each as a sample of its own, which is all there is
    where a pool has no further text. The larger counts: where a few documents are very long, one
    sample does not show by itself how much they matter. NaN with fewer than two documents a side.
    """
    within = _within(comparison)
    between = _between(comparison)
    return (
        math.nan if math.isnan(within[0]) else max(within[0], between[0]),
        math.nan if math.isnan(within[1]) else max(within[1], between[1]),
    )


def _between(comparison: Comparison) -> tuple[float, float]:
    """The relative spread over the sample and its replicates; 0 where they are too few."""
    samples = [(comparison.jaccard, comparison.containment), *comparison.replicates]
    if len(samples) < LEAST_REPLICATES:
        return 0.0, 0.0
    jaccard, containment = (
        stdev(figures) / mean if (mean := fmean(figures)) else 0.0
        for figures in zip(*samples, strict=True)
    )
    return jaccard, containment


def _within(comparison: Comparison) -> tuple[float, float]:
    """The relative errors that the documents of the sample show.

    Each document is left out in turn. What the figure loses then holds its loss of text, which
    every document causes in proportion to its length; the rest varies from document to document,
    and its squares add up to the variance that the documents of that side cause (the jackknife of
    a ratio estimate).
    """
    import numpy as np

    common = int(comparison.common[0].sum())
    if not common:
        return 0.0, 0.0
    sides = (comparison.candidate, comparison.reference)
    size, union = len(sides[0].grams), len(sides[0].grams) + len(sides[1].grams) - common
    jaccard = containment = 0.0
    for own, (sample, shared) in enumerate(zip(sides, comparison.common, strict=True)):
        documents = len(sample.lengths)
        alone = sample.owners >= 0
        lost = np.bincount(sample.owners[alone & shared], minlength=documents)
        gone = np.bincount(sample.owners[alone & ~shared], minlength=documents)
        jaccard += _spread(1 - (1 - lost / common) / (1 - gone / union), sample.lengths)
        rest = size - (lost + gone if own == 0 else np.zeros(documents, np.int64))
        kept = np.divide(common - lost, rest, out=np.zeros(documents), where=rest > 0)
        containment += _spread(1 - kept * size / common, sample.lengths)
    return math.sqrt(jaccard), math.sqrt(containment)


def _spread(losses: np.ndarray, lengths: np.ndarray) -> float:
    """The variance of a figure whose documents cause these losses; NaN for one document."""
    filled = int((lengths > 0).sum())
    if filled < 2:
        return math.nan
    rest = losses - losses.sum() * lengths / lengths.sum()
    return float((rest**2).sum()) * filled / (filled - 1)


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
    return estimated(estimate, permutations, relative_errors(comparison)[0], comparison.units)


def estimated(jaccard: float, permutations: int, relative: float, units: int) -> Value:
    """A sketch's estimate with the error of the sketch and, relative to it, of the samples."""
    chance = max(jaccard, 1 / permutations)  # none in common is known to one permutation
    variance = chance * (1 - jaccard) / permutations
    if not math.isnan(relative):
        variance += (relative * jaccard) ** 2
    return Value(jaccard, math.sqrt(variance), permutations, units)
