"""Standard errors of similarity beside the spread that is seen: over random orders of real text.

`python -m tests.bench.standard_errors FILE FILE... [--words 20000] [--orders 40]`

Each pair of files is put in random orders; of each order the first words are compared. The spread
of the figures is what their standard errors claim to be. It is divided by sqrt(1 - share), for
samples of one file are no samples of the world; near 1 is right. A file with a document that holds
a large part of it needs many orders.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
from pathlib import Path

from calib.pool import Pool
from calib.readers import read_texts
from calib.shingles import word_hashes
from calib.similarity import compare
from calib.sources import single


def ordered(texts: list[str], seed: int) -> Pool:
    """The documents in a random order; the ids say only which they are."""
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    return Pool([f"{i:032x}" for i in order], [texts[i] for i in order])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="+", type=Path)
    parser.add_argument("--words", type=int, default=20_000)
    parser.add_argument("--orders", type=int, default=40)
    options = parser.parse_args()
    texts = {file.name: sorted(set(read_texts(single(file)))) for file in options.file}
    print(f"{'files':40s} jaccard     seen    claimed / seen    within 3")
    for one, other in itertools.combinations(texts, 2):
        both = set(texts[one]) & set(texts[other])  # they would be on one side only
        sides = [[t for t in texts[name] if t not in both] for name in (one, other)]
        share = max(options.words / max(int(word_hashes(side)[1].sum()), 1) for side in sides)
        if share >= 1:
            print(f"{one} {other}: fewer than {options.words:,} words")
            continue
        values, errors = [], []
        for seed in range(options.orders):
            first = ordered(sides[0], 2 * seed)
            second = ordered(sides[1], 2 * seed + 1)
            shifted = [f"{int(i, 16) + len(sides[0]):032x}" for i in second.ids]
            found = compare(first, Pool(shifted, second.texts), 3, options.words)
            values.append(found.common / found.union)
            errors.append(found.stderr("jaccard"))
        mean = statistics.fmean(values)
        seen = statistics.stdev(values) / math.sqrt(1 - share)
        within = sum(abs(v - mean) <= 3 * e for v, e in zip(values, errors, strict=True))
        print(
            f"{one + ' ' + other:40s} {mean:.5f} {seen:.6f} {statistics.fmean(errors) / seen:17.2f}"
            f" {within / len(values):11.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
