"""Sketches of corpora of any size, shard by shard: `python -m calib.sketch make FILE... --out S`.

A sketch holds the MinHash minima of a text's n-grams; sketches of shards merge into that of the
whole, so that a large corpus is an array of jobs, one `make` a file. Memory holds some documents
of one file, whatever the corpus.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import islice
from pathlib import Path

from calib.minhash import Sketch
from calib.readers import read_texts
from calib.samples import Split, cut
from calib.shingles import gram_hashes, word_hashes
from calib.sources import single

CHARACTERS_AT_ONCE = 2**22
"""Text that is sketched together: enough for repeats to be met and dropped."""


def sketch(
    texts: Iterable[str],
    n: int = 3,
    permutations: int = 16_384,
    seed: int = 1,
    split: Split = word_hashes,
    most: int | None = None,
) -> Sketch:
    """The sketch of the n-grams of texts, read once and not held.

    Args:
        texts: the documents. n: units in a gram. permutations, seed: of the sketch.
        split: texts to hashed units. most: units after which it ends, None = all.
    """
    import numpy as np

    whole = Sketch.of(np.zeros(0, np.uint64), permutations, seed=seed)
    for batch in _batches(iter(texts)):
        units, counts = split(batch)
        if most is not None:
            units, counts = cut(units, counts, most - whole.units)
        grams, _ = gram_hashes(units, counts, n)
        whole |= Sketch.of(grams, permutations, len(units), seed)
        if whole.units == most:
            break
    return whole


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m calib.sketch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="sketch the texts of files")
    make.add_argument("file", nargs="+", type=Path, help="json, jsonl, csv, parquet or txt")
    make.add_argument("--text", default="text", help="the column that holds the text (text)")
    make.add_argument("-n", type=int, default=3, help="words in a gram (3)")
    make.add_argument("--num-perm", type=int, default=16_384, help="permutations (16384)")
    make.add_argument("--seed", type=int, default=1, help="of the permutations (1)")
    make.add_argument("--limit", type=int, help="first so many documents of each file")
    make.add_argument("--out", type=Path, required=True, help="the sketch's file")
    merge = commands.add_parser("merge", help="the sketch of several shards together")
    merge.add_argument("sketch", nargs="+", type=Path)
    merge.add_argument("--out", type=Path, required=True, help="the sketch's file")
    compare = commands.add_parser("compare", help="the Jaccard similarity of two sketches")
    compare.add_argument("sketch", nargs=2, type=Path)
    options = parser.parse_args(arguments)
    try:
        {"make": _make, "merge": _merge, "compare": _compare}[options.command](options)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


def _make(options: argparse.Namespace) -> None:
    parts = [_sketch_file(file, options) for file in options.file]
    reduce(Sketch.__or__, parts).save(options.out)


def _sketch_file(file: Path, options: argparse.Namespace) -> Sketch:
    texts = read_texts(single(file, options.text))
    return sketch(islice(texts, options.limit), options.n, options.num_perm, options.seed)


def _merge(options: argparse.Namespace) -> None:
    reduce(Sketch.__or__, map(Sketch.load, options.sketch)).save(options.out)


def _compare(options: argparse.Namespace) -> None:
    one, other = map(Sketch.load, options.sketch)
    jaccard = one.jaccard(other)
    error = math.sqrt(jaccard * (1 - jaccard) / len(one.signature))
    print(f"jaccard {jaccard:.5f}, standard error of the sketch {error:.5f}")
    print(f"words {one.units:,} and {other.units:,}; n-grams {one.grams:,} and {other.grams:,}")


if __name__ == "__main__":
    sys.exit(main())
