"""Word n-grams of texts as 64-bit hashes, by array operations: no object a word or gram.

A word's hash is a polynomial in its characters, a gram's one in its words' hashes, both modulo
2^64 (Karp & Rabin 1987) and mixed by the finalizer of MurmurHash3. Sums of powers over a whole
batch of text give all words at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

MASK: Final = 2**64 - 1
CHARACTER_BASE: Final = 0x9E3779B97F4A7C15
WORD_BASE: Final = 0xD1342543DE82EF95
"""Odd, so that they have inverses modulo 2^64."""

BATCH_CHARACTERS = 2**16
"""Characters worked on at a time: what fits a core's cache."""


def words(text: str) -> list[str]:
    """The lower-cased words of a text (runs of letters, digits and `_`)."""
    return re.findall(r"\w+", text.lower())


def word_hash(word: str) -> int:
    """The hash of one word; `word_hashes` gives the same for whole texts."""
    power, total = 1, 0
    for character in word:
        total += ord(character) * power
        power = power * CHARACTER_BASE & MASK
    return _finalize(total & MASK)


def gram_hash(units: Sequence[int]) -> int:
    """The hash of one n-gram of hashed units; `gram_hashes` gives the same for sequences."""
    power, total = 1, 0
    for unit in units:
        total += unit * power
        power = power * WORD_BASE & MASK
    return _finalize(total & MASK)


def _finalize(value: int) -> int:
    """The 64-bit finalizer of MurmurHash3: a bijection in which every bit affects all."""
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & MASK
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & MASK
    return value ^ (value >> 33)


def _finalize_all(values: np.ndarray) -> np.ndarray:
    """`_finalize` of every value, in place."""
    import numpy as np

    shift = np.uint64(33)
    values ^= values >> shift
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> shift
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    values ^= values >> shift
    return values


def word_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the lower-cased words of texts, end to end, and each text's number of words.

    Returns:
        uint64 [words] and int64 [texts].
    """
    import numpy as np

    parts = [_batch(batch) for batch in _batches(texts)]
    if not parts:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    hashes, counts = zip(*parts, strict=True)
    return np.concatenate(hashes), np.concatenate(counts)


def unit_hashes(ids: np.ndarray) -> np.ndarray:
    """Hashes of token ids, uint64 [tokens], to make grams of."""
    import numpy as np

    return _finalize_all(ids.astype(np.uint64) + np.uint64(1))


def gram_hashes(units: np.ndarray, counts: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the n-grams of sequences that lie end to end; none reaches over an end.

    Args:
        units: uint64 [units], hashed words or tokens. counts: int64 [sequences], units of each.
        n: units in a gram.

    Returns:
        uint64 [grams] and int64 [sequences], the grams of each.
    """
    import numpy as np

    total = len(units) - n + 1
    if total <= 0:
        return np.zeros(0, np.uint64), np.zeros(len(counts), np.int64)
    hashes = units[:total].copy()
    for k in range(1, n):
        hashes += units[k : total + k] * np.uint64(pow(WORD_BASE, k, 2**64))
    whole = np.ones(total, bool)
    ends = np.cumsum(counts)
    for k in range(1, n):  # a gram that starts less than n units before an end reaches over it
        crossing = ends - k
        whole[crossing[(crossing >= 0) & (crossing < total)]] = False
    return _finalize_all(hashes[whole]), np.maximum(counts - n + 1, 0)


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts, in groups of about `BATCH_CHARACTERS`."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(text.lower())
        size += len(text)
    if batch:
        yield batch


def _batch(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """`word_hashes` of lower-cased texts that are worked on together."""
    import numpy as np

    joined = "\n" + "\n".join(texts) + "\n"  # words begin after and end before a line's end
    if joined.isascii():
        characters = np.frombuffer(joined.encode("ascii"), np.uint8)
    else:
        characters = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    inside = _is_word()[characters]
    bounds = np.flatnonzero(inside[1:] != inside[:-1])
    before, last = bounds[0::2], bounds[1::2]  # the character before a word, and its last
    powers, inverses = _powers(len(characters))
    sums = characters.astype(np.uint64)
    sums *= powers
    np.cumsum(sums, out=sums)
    hashes = sums[last]
    hashes -= sums[before]
    hashes *= inverses[before + 1]
    ends = np.cumsum([len(text) + 1 for text in texts])
    counts = np.diff(np.searchsorted(before, ends), prepend=0)
    return _finalize_all(hashes), counts


@cache
def _is_word() -> np.ndarray:
    """For every character, whether `\\w` matches it: bool [characters]."""
    import numpy as np

    return np.array([c.isalnum() or c == "_" for c in map(chr, range(0x110000))])


_known_powers: list[np.ndarray] = []


def _powers(length: int) -> tuple[np.ndarray, np.ndarray]:
    """The powers 0 .. length - 1 of `CHARACTER_BASE`, and of its inverse: uint64 [length] each."""
    import numpy as np

    if not _known_powers or len(_known_powers[0]) < length:
        size = max(length, BATCH_CHARACTERS + 2**10)
        _known_powers[:] = []
        for base in (CHARACTER_BASE, pow(CHARACTER_BASE, -1, 2**64)):
            factors = np.full(size, base, np.uint64)
            factors[0] = 1
            _known_powers.append(np.multiply.accumulate(factors))
    return _known_powers[0][:length], _known_powers[1][:length]
