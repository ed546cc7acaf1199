"""The nearest documents of a reference, document by document, by MinHash-LSH (datasketch).

Jaccard similarity |A and B| / |A or B| by `MinHashLSH`, containment |A and B| / |A| by
`MinHashLSHEnsemble` (Zhu et al. 2016). The index proposes documents; their figures are then exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from calib.minhash import as_datasketch, signatures
from calib.samples import READ_AT_ONCE, Split
from calib.shingles import gram_hashes, word_hashes

if TYPE_CHECKING:
    import numpy as np
    from datasketch import MinHashLSH, MinHashLSHEnsemble

PERMUTATIONS = 128
THRESHOLD = 0.1
"""Neighbours that are less near may be missed, and count as none."""


@dataclass(frozen=True)
class Neighbour:
    """The nearest document that was found: its index, None where there is none."""

    index: int | None
    jaccard: float


def document_grams(
    texts: Sequence[str], n: int, split: Split = word_hashes
) -> Iterator[np.ndarray]:
    """The distinct hashed n-grams of every text, ascending: uint64 [grams] each."""
    import numpy as np

    for i in range(0, len(texts), READ_AT_ONCE):
        hashes, counts = gram_hashes(*split(texts[i : i + READ_AT_ONCE]), n)
        yield from map(np.unique, np.split(hashes, np.cumsum(counts)[:-1]))


class Neighbours:
    """Documents that neighbours are sought among."""

    def __init__(self, documents: Iterator[np.ndarray] | Sequence[np.ndarray]) -> None:
        import numpy as np

        self.documents = list(documents)
        counts = np.array([len(grams) for grams in self.documents], np.int64)
        joined = np.concatenate([np.zeros(0, np.uint64), *self.documents])
        self._signatures = signatures(joined, counts, PERMUTATIONS)
        self._everything = np.unique(joined)

    @cached_property
    def _by_jaccard(self) -> MinHashLSH:
        from datasketch import MinHashLSH

        index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
        with index.insertion_session() as session:
            for i, grams in enumerate(self.documents):
                if len(grams):
                    session.insert(i, as_datasketch(self._signatures[i]), check_duplication=False)
        return index

    @cached_property
    def _by_containment(self) -> MinHashLSHEnsemble:
        from datasketch import MinHashLSHEnsemble

        index = MinHashLSHEnsemble(threshold=THRESHOLD, num_perm=PERMUTATIONS)
        filled = [i for i, grams in enumerate(self.documents) if len(grams)]
        index.index((i, as_datasketch(self._signatures[i]), len(self.documents[i])) for i in filled)
        return index

    def nearest(self, grams: np.ndarray) -> Neighbour:
        """The document of highest Jaccard similarity among those that the index proposes."""
        best = Neighbour(None, 0.0)
        for i in sorted(self._by_jaccard.query(_sketch(grams))) if len(grams) else ():
            common = _common(grams, self.documents[i])
            jaccard = common / (len(grams) + len(self.documents[i]) - common)
            if jaccard > best.jaccard:
                best = Neighbour(i, jaccard)
        return best

    def containment(self, grams: np.ndarray) -> float:
        """The largest share of the grams that one document has, of those proposed."""
        if not len(grams) or not len(self._everything):
            return 0.0
        proposed = self._by_containment.query(_sketch(grams), len(grams))
        return max((_common(grams, self.documents[i]) for i in proposed), default=0) / len(grams)

    def share(self, grams: np.ndarray) -> float:
        """The share of the grams that occur in any document."""
        return _common(grams, self._everything) / max(len(grams), 1)


def _sketch(grams: np.ndarray):  # type: ignore[no-untyped-def]  # datasketch has no types
    import numpy as np

    return as_datasketch(signatures(grams, np.array([len(grams)]), PERMUTATIONS)[0])


def _common(some: np.ndarray, others: np.ndarray) -> int:
    """How many of some values are among others, both ascending and distinct."""
    import numpy as np

    if not len(others):
        return 0
    at = np.minimum(np.searchsorted(others, some), len(others) - 1)
    return int((others[at] == some).sum())
