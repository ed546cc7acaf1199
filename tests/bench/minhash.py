"""From raw text to MinHash signatures, one core: ours beside datasketch and rensa.

`python -m tests.bench.minhash [--rounds 5] [FILE ...]`

Documents are word 3-grams, signatures have 128 permutations. Every way starts from the same
texts, lower-cases them and cuts them into words; "signing" is what is left when the shingles are
there already. Ways are timed in turn, round by round, in CPU time; the table has medians. Without
files the text is made here, with the word frequencies of natural text.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datasketch import MinHash

from calib.minhash import as_datasketch, signatures
from calib.readers import read_texts
from calib.shingles import gram_hash, gram_hashes, word_hash, word_hashes, words
from calib.sources import single

N, PERMUTATIONS = 3, 128


def made_texts(count: int = 1500, seed: int = 0) -> list[str]:
    """Texts whose word frequencies follow Zipf's law, with punctuation and capitals."""
    choose = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    vocabulary = [
        "".join(choose.choices(letters, weights=range(26, 0, -1), k=choose.randint(2, 9)))
        for _ in range(30_000)
    ]
    frequencies = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    texts = []
    for _ in range(count):
        drawn = choose.choices(vocabulary, frequencies, k=choose.randint(100, 900))
        for i in range(0, len(drawn), 12):
            drawn[i] = drawn[i].capitalize()
            drawn[i - 1] += choose.choice([".", ".", ",", "’s", "!"])
        texts.append(" ".join(drawn))
    return texts


def shingles(text: str) -> list[bytes]:
    """The n-grams of a text as datasketch takes them."""
    own = words(text)
    return [" ".join(own[i : i + N]).encode() for i in range(len(own) - N + 1)]


def shingle_strings(text: str) -> list[str]:
    """The n-grams of a text as rensa takes them."""
    own = words(text)
    return [" ".join(own[i : i + N]) for i in range(len(own) - N + 1)]


def ours(texts: Sequence[str]) -> Any:
    return ours_signing(gram_hashes(*word_hashes(texts), N))


def ours_signing(grams: tuple[np.ndarray, np.ndarray]) -> Any:
    return signatures(*grams, PERMUTATIONS)


def datasketch_default(parts: Sequence[Sequence[bytes]]) -> Any:
    return MinHash.bulk(parts, num_perm=PERMUTATIONS)


def datasketch_best(parts: Sequence[Sequence[bytes]]) -> Any:
    return MinHash.bulk(parts, num_perm=PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)


def rensa_signing(parts: Sequence[Sequence[str]]) -> Any:
    from rensa import RMinHash

    made = []
    for part in parts:
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update(part)
        made.append(sketch.digest())
    return made


def cut(split: Callable[[str], Any]) -> Callable[[Sequence[str]], list[Any]]:
    return lambda texts: [split(text) for text in texts]


Way = tuple[Callable[[Any], Any], Callable[[Any], Any]]
"""Texts to what is signed; and that to signatures."""


def ways() -> dict[str, Way]:
    """The ways to be timed, by name."""
    found: dict[str, Way] = {
        "datasketch, default": (cut(shingles), datasketch_default),
        "datasketch, bulk + xxh32 (its best)": (cut(shingles), datasketch_best),
        "calgrid": (lambda texts: gram_hashes(*word_hashes(texts), N), ours_signing),
    }
    try:
        import rensa  # noqa: F401
    except ImportError:
        print("rensa is not installed (pip install rensa): left out")
    else:
        found["rensa, RMinHash"] = (cut(shingle_strings), rensa_signing)
    return found


def check(texts: Sequence[str]) -> None:
    """Our signatures are those that datasketch makes with the same hash."""

    def hashed(shingle: bytes) -> int:
        return gram_hash([word_hash(word) for word in shingle.decode().split(" ")]) & 0xFFFFFFFF

    for text, signature in zip(texts, ours(texts), strict=True):
        plain = MinHash(PERMUTATIONS, hashfunc=hashed)
        plain.update_batch(shingles(text))
        assert np.array_equal(plain.hashvalues, signature), text[:80]
        assert as_datasketch(signature).jaccard(plain) == 1.0


def time_ways(texts: Sequence[str], rounds: int) -> dict[str, tuple[float, float]]:
    """Median CPU seconds of every way over all texts: from raw text, and of signing alone."""
    seconds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, (split, sign) in ways().items():
            started = time.process_time()
            parts = split(texts)
            between = time.process_time()
            sign(parts)
            ended = time.process_time()
            seconds.setdefault(name, []).append((ended - started, ended - between))
    return {
        name: (statistics.median(w for w, _ in runs), statistics.median(s for _, s in runs))
        for name, runs in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="*", type=Path, help="texts to use instead of made ones")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    texts = made_texts()
    if options.file:
        texts = [t for file in options.file for t in read_texts(single(file))]
    check(texts[:20])
    grams = int(gram_hashes(*word_hashes(texts), N)[1].sum())
    print(f"{len(texts):,} texts, {grams:,} shingles of {N} words, {PERMUTATIONS} permutations")
    print(f"{'million shingles a second, one core':40s} raw text    signing")
    found = time_ways(texts, options.rounds)
    for name, (whole, signing) in found.items():
        print(f"{name:40s} {grams / whole / 1e6:8.2f} {grams / signing / 1e6:10.2f}")
    best = found["datasketch, bulk + xxh32 (its best)"]
    own = found["calgrid"]
    print(
        f"calgrid / datasketch's best: {best[0] / own[0]:.2f} from raw text, "
        f"{best[1] / own[1]:.2f} signing; beside its best signing alone, ours from raw text: "
        f"{best[1] / own[0]:.2f}"
    )


if __name__ == "__main__":
    main()
