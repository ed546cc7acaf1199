"""Samples of two corpora that are compared: equal in units, without a document in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from calib.shingles import gram_hashes

if TYPE_CHECKING:
    import numpy as np

Split = Callable[[Sequence[str]], "tuple[np.ndarray, np.ndarray]"]
"""Texts to the hashes of their units, end to end, and each text's number of units."""

READ_AT_ONCE = 256
"""Documents that are split at a time, until there is text enough."""


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

    def by_owner(self, chosen: np.ndarray) -> np.ndarray:
        """How many of the chosen grams each document alone holds: int64 [documents].

        Args:
            chosen: bool [grams].
        """
        import numpy as np

        own = self.owners[chosen & (self.owners >= 0)]
        return np.bincount(own, minlength=len(self.lengths))


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


class Reader:
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
