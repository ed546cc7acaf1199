"""How near one corpus is to another: Jaccard similarity of their sets of n-grams."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calib.pool import Pool

if TYPE_CHECKING:
    import numpy as np

Unit = Literal["word", "token"]
Measure = Literal["jaccard", "containment", "nearest"]

GROUPS = 10
"""Groups of documents, equal in text, that the jackknife leaves out in turn."""


@dataclass(frozen=True)
class Value:
    """One figure of similarity, with its standard error (NaN where there is none)."""

    value: float
    stderr: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """The n-grams of two corpora that were cut to the same number of units (words or tokens).

    Attributes:
        hashes: of the distinct n-grams of both, uint64 [grams].
        members: which groups of documents hold each, uint32 [grams]: bit g for group g of the
            candidate, bit 16 + g for group g of the reference.
        units: units on either side.
    """

    hashes: np.ndarray
    members: np.ndarray
    units: int


CANDIDATE, REFERENCE = 0xFFFF, 0xFFFF0000


def words(text: str) -> list[str]:
    """The lower-cased words of a text (runs of letters, digits and `_`)."""
    return re.findall(r"\w+", text.lower())


def sides(candidate: Pool, reference: Pool) -> tuple[list[int], list[int]]:
    """Indices of the documents on either side; one in both pools goes to one side by its hash.

    So the reference against itself is one half against the other: the ceiling.
    """
    both = set(candidate.ids) & set(reference.ids)
    left = [i for i, d in enumerate(candidate.ids) if d not in both or int(d[-2:], 16) % 2 == 0]
    right = [i for i, d in enumerate(reference.ids) if d not in both or int(d[-2:], 16) % 2]
    return left, right


def compare(
    candidate: Pool,
    reference: Pool,
    n: int,
    units: int,
    split: Callable[[str], Sequence[object]] = words,
) -> Comparison:
    """Cut two pools to the same number of units, at most `units`, and hash their n-grams.

    Raises:
        ValueError: a side has no n-gram.
    """
    split_sides = [
        _first_units(pool, indices, units, split)
        for pool, indices in zip((candidate, reference), sides(candidate, reference), strict=True)
    ]
    units = min(units, *(sum(map(len, side)) for side in split_sides))
    hashes, members = _distinct_grams(split_sides, n, units)
    if not ((members & CANDIDATE).any() and (members & REFERENCE).any()):
        raise ValueError(
            f"too little text for {n}-grams: {units} words or tokens on either side; give the "
            "smaller dataset more text, or ask for shorter n-grams"
        )
    return Comparison(hashes, members, units)


def _first_units(
    pool: Pool, indices: Sequence[int], units: int, split: Callable[[str], Sequence[object]]
) -> list[Sequence[object]]:
    """As many documents as hold the first `units` units; the rest stays unread."""
    documents: list[Sequence[object]] = []
    for i in indices:
        if units <= 0:
            break
        documents.append(split(pool.texts[i]))
        units -= len(documents[-1])
    return documents


def _distinct_grams(
    both: Sequence[Sequence[Sequence[object]]], n: int, units: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes and members (see `Comparison`) of the n-grams of the first `units` units."""
    import numpy as np
    import xxhash

    hashes: list[int] = []
    members: list[int] = []
    for side, documents in enumerate(both):
        left = units
        for sequence in documents:
            # groups of equal text, or the jackknife would take their unequal sizes for noise
            group = min((units - left) * GROUPS // max(units, 1), GROUPS - 1)
            parts = [str(x).encode("utf-8", "replace") for x in sequence[:left]]
            left -= len(parts)
            grams = range(len(parts) - n + 1)
            hashes.extend(xxhash.xxh3_64_intdigest(b"\0".join(parts[i : i + n])) for i in grams)
            members.extend([1 << (group + 16 * side)] * len(grams))
    if not hashes:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    order = np.argsort(keys := np.array(hashes, np.uint64), kind="stable")
    keys, bits = keys[order], np.array(members, np.uint32)[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.bitwise_or.reduceat(bits, starts)


def exact(comparison: Comparison) -> dict[str, Value]:
    """Exact Jaccard |A and B| / |A or B| and containment |A and B| / |A|.

    The standard error is the jackknife's over `GROUPS` groups of documents (fewer where there are
    few documents), left out of both sides in turn.
    """
    import numpy as np

    groups = int(np.bitwise_or.reduce(comparison.members))
    held = [group for group in range(GROUPS) if groups & (0x10001 << group)]
    replicates = [_overlap(comparison.members, without=group) for group in held]
    common, union, size = _overlap(comparison.members)
    return {
        "jaccard": Value(common / union, _jackknife([c / u for c, u, _ in replicates if u]), union),
        "containment": Value(
            common / size, _jackknife([c / s for c, _, s in replicates if s]), size
        ),
    }


def _overlap(members: np.ndarray, without: int | None = None) -> tuple[int, int, int]:
    """|A and B|, |A or B|, |A|, of all groups but one."""
    import numpy as np

    if without is not None:
        members = members & np.uint32(~(0x10001 << without) & 0xFFFFFFFF)
    left, right = (members & CANDIDATE) != 0, (members & REFERENCE) != 0
    return int((left & right).sum()), int((left | right).sum()), int(left.sum())


def _jackknife(replicates: Sequence[float]) -> float:
    count = len(replicates)
    if count < 2:
        return math.nan
    mean = sum(replicates) / count
    return math.sqrt((count - 1) / count * sum((r - mean) ** 2 for r in replicates))


def minhash(comparison: Comparison, permutations: int) -> Value:
    """The Jaccard similarity as MinHash sketches estimate it (Broder 1997), by datasketch.

    The standard error is the sketch's own, sqrt(J (1 - J) / permutations).
    """
    from datasketch import MinHash

    sketches = []
    for side in (CANDIDATE, REFERENCE):
        sketch = MinHash(num_perm=permutations, hashfunc=lambda gram: int(gram) & 0xFFFFFFFF)
        hashes = comparison.hashes[(comparison.members & side) != 0].tolist()
        step = max(1, 2**18 // permutations)  # datasketch makes a [step, permutations] table
        for i in range(0, len(hashes), step):
            sketch.update_batch(hashes[i : i + step])
        sketches.append(sketch)
    estimate = sketches[0].jaccard(sketches[1])
    return Value(estimate, math.sqrt(estimate * (1 - estimate) / permutations), permutations)


def nearest(candidate: Pool, reference: Pool, n: int, documents: int, seed: int = 1) -> Value:
    """Mean over candidate documents of the Jaccard similarity to their nearest reference document.

    Found by MinHash-LSH (datasketch; 128 permutations, threshold 0.1): a document with no
    neighbour above the threshold counts as 0.

    Args:
        candidate: pool whose documents are asked about. reference: where neighbours are sought.
        n: words in a gram.
        documents: documents looked at on either side.
        seed: of the permutations.
    """
    from datasketch import MinHash, MinHashLSH

    def sketch(text: str) -> MinHash:
        w = words(text)
        result = MinHash(num_perm=128, seed=seed)
        result.update_batch(
            [" ".join(w[i : i + n]).encode("utf-8", "replace") for i in range(len(w) - n + 1)]
        )
        return result

    left, right = sides(candidate, reference)
    index = MinHashLSH(threshold=0.1, num_perm=128)
    known = {str(i): sketch(reference.texts[i]) for i in right[:documents]}
    for name, value in known.items():
        index.insert(name, value)
    best = []
    for i in left[:documents]:
        own = sketch(candidate.texts[i])
        best.append(max((own.jaccard(known[name]) for name in index.query(own)), default=0.0))
    mean = sum(best) / len(best)
    variance = sum((b - mean) ** 2 for b in best) / max(1, len(best) - 1)
    return Value(mean, math.sqrt(variance / len(best)), len(best))
