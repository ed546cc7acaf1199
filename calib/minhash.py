"""MinHash signatures and sketches (Broder 1997) that datasketch reads, computed by blocks.

The permutations are datasketch's own, of its affine schemes: after one mixing, permutation k takes
h to a_k * h + b_k modulo 2^32 or 2^64. Its batch path builds a table of values by permutations;
here a block of values that fits the cache is permuted again and again, and the minima of all the
sets in it are taken in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from datasketch import MinHash

Scheme = Literal["affine32", "affine64"]
"""datasketch's names; 64 bits for sets of 100 million values and more, where 32 collide."""

SEED = 1
"""datasketch's default."""

BLOCK_BYTES = 2**17
"""Values permuted at a time: what fits a core's cache."""

MIXING = {
    "affine32": (16, 0x85EBCA6B, 13, 0xC2B2AE35, 16),
    "affine64": (33, 0xFF51AFD7ED558CCD, 33, 0xC4CEB9FE1A85EC53, 33),
}
"""Shifts and factors of MurmurHash3's finalizers."""


@cache
def permutations(num_perm: int, seed: int = SEED, scheme: Scheme = "affine32") -> np.ndarray:
    """datasketch's permutations, [2, num_perm]: factors and terms, uint32 or uint64."""
    from datasketch import MinHash

    made: np.ndarray = MinHash(num_perm, seed=seed, scheme=scheme).permutations
    return made


def signatures(
    hashes: np.ndarray,
    counts: np.ndarray,
    num_perm: int = 128,
    seed: int = SEED,
    scheme: Scheme = "affine32",
) -> np.ndarray:
    """The signature of each of several sets that lie end to end.

    Args:
        hashes: uint64 [values]; scheme `affine32` takes their low halves.
        counts: int64 [sets], values of each.
        num_perm, seed, scheme: the permutations.

    Returns:
        uint32 or uint64 [sets, num_perm]: what datasketch's `update_batch` makes of the values.
    """
    import numpy as np

    factors, terms = permutations(num_perm, seed, scheme)
    kind = factors.dtype
    mixed = _mix(hashes.astype(kind), scheme)
    result = np.full((num_perm, len(counts)), np.iinfo(kind).max, kind)
    ends = np.cumsum(counts)
    length = BLOCK_BYTES // kind.itemsize
    buffer = np.empty(min(length, len(mixed)), kind)
    for start in range(0, len(mixed), length):
        block = mixed[start : start + length]
        out = buffer[: len(block)]
        first = int(np.searchsorted(ends, start, side="right"))
        stop = int(np.searchsorted(ends, start + len(block) - 1, side="right")) + 1
        filled = np.flatnonzero(counts[first:stop]) + first  # an empty set starts nowhere
        starts = np.maximum(ends[filled] - counts[filled] - start, 0)
        sets = slice(first, stop) if len(filled) == stop - first else filled
        for k in range(num_perm):
            np.multiply(block, factors[k], out=out)
            np.add(out, terms[k], out=out)
            lowest = np.minimum.reduceat(out, starts)
            result[k, sets] = np.minimum(result[k, sets], lowest)
    return np.ascontiguousarray(result.T)


def _mix(values: np.ndarray, scheme: Scheme) -> np.ndarray:
    """The mixing that datasketch applies before it permutes, in place."""
    first, factor, second, other, last = map(values.dtype.type, MIXING[scheme])
    values ^= values >> first
    values *= factor
    values ^= values >> second
    values *= other
    values ^= values >> last
    return values


def as_datasketch(signature: np.ndarray, seed: int = SEED) -> MinHash:
    """A signature as a MinHash of datasketch, for its LSH indexes and comparisons."""
    from datasketch import MinHash

    scheme: Scheme = "affine32" if signature.dtype.itemsize == 4 else "affine64"
    return MinHash(
        seed=seed,
        hashvalues=signature,
        permutations=permutations(len(signature), seed, scheme),
        scheme=scheme,
    )


@dataclass(frozen=True)
class Sketch:
    """The MinHash sketch of a set that may be too large to hold; sketches of parts merge.

    Attributes:
        signature: uint64 [permutations], of scheme `affine64`.
        units: words or tokens that were read. grams: n-grams read, repeats counted.
        seed: of the permutations.
    """

    signature: np.ndarray
    units: int = 0
    grams: int = 0
    seed: int = SEED

    @classmethod
    def of(cls, hashes: np.ndarray, num_perm: int, units: int = 0, seed: int = SEED) -> Sketch:
        """The sketch of n-grams: uint64 [grams], repeats allowed."""
        import numpy as np

        distinct = np.unique(hashes)
        sets = np.array([len(distinct)])
        signature = signatures(distinct, sets, num_perm, seed, "affine64")[0]
        return cls(signature, units, len(hashes), seed)

    def __or__(self, other: Sketch) -> Sketch:
        """The sketch of both sets together.

        Raises:
            ValueError: their permutations differ.
        """
        import numpy as np

        self._check(other)
        return Sketch(
            np.minimum(self.signature, other.signature),
            self.units + other.units,
            self.grams + other.grams,
            self.seed,
        )

    def jaccard(self, other: Sketch) -> float:
        """The estimated Jaccard similarity; its error is sqrt(J (1 - J) / permutations)."""
        self._check(other)
        return float((self.signature == other.signature).mean())

    def _check(self, other: Sketch) -> None:
        if (len(self.signature), self.seed) != (len(other.signature), other.seed):
            raise ValueError(
                f"sketches of {len(self.signature)} and {len(other.signature)} permutations, seeds "
                f"{self.seed} and {other.seed}, do not compare; make both with the same"
            )

    def save(self, path: Path) -> None:
        """Write the sketch as safetensors."""
        import numpy as np
        from safetensors.numpy import save_file

        numbers = np.array([self.units, self.grams, self.seed], np.int64)
        save_file({"signature": self.signature, "numbers": numbers}, path)

    @classmethod
    def load(cls, path: Path) -> Sketch:
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        arrays = load_file(path)
        units, grams, seed = arrays["numbers"].tolist()
        return cls(arrays["signature"], units, grams, seed)
