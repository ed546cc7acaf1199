"""Is there as much text as a grid asks for? Counted where files are small enough; no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

from calib.draw import TooLittleTextError, check_documents, check_stream
from calib.pool import SEPARATOR, Pool
from calib.readers import read_pool, read_rows
from calib.sources import Source
from cluster.yamlfile import Problem
from jobs.plan.cells import Cell
from jobs.plan.grid import Grid
from jobs.plan.inputs import Inputs

MOST_BYTES = 8_000_000
"""Files larger than this are not read for the sake of a check."""

BYTES_PER_TOKEN = 16
"""No tokenizer of natural text needs more: so many characters for a token asked for are enough."""


class SmallTexts:
    """Pools of datasets, and their tokens, where they are small enough to be looked at."""

    def __init__(self, inputs: Inputs, pools: Path) -> None:
        """Get ready; `pools` is the folder of pools that were made before."""
        self.inputs = inputs
        self.pools = pools
        self.pool = cache(self._pool)
        self.lengths = cache(self._lengths)

    def bytes(self, dataset: str) -> int | None:
        """Size of all that a dataset is made of; None where it is not known yet."""
        entry = self.inputs.datasets[dataset]
        if entry.spec.mixture is not None:
            parts = [self.bytes(name) for name in entry.spec.mixture]
            return None if None in parts else sum(part or 0 for part in parts)
        if entry.source is not None:
            return size_of(entry.source)
        kept = self._kept(dataset)
        return None if kept is None else kept.stat().st_size

    def _kept(self, dataset: str) -> Path | None:
        """The stored pool of a dataset that is read from the hub."""
        entry = self.inputs.datasets[dataset]
        path = self.pools / str(entry.identity) / "documents.parquet"
        return path if entry.spec.streaming and path.is_file() else None

    def _pool(self, dataset: str) -> Pool | None:
        """The pool of a small dataset.

        Raises:
            ValueError: it cannot be read, or has no text.
        """
        size = self.bytes(dataset)
        if size is None or size > MOST_BYTES:
            return None
        entry, kept = self.inputs.datasets[dataset], self._kept(dataset)
        if entry.spec.mixture is not None:
            pools = {name: pool for name in entry.spec.mixture if (pool := self.pool(name))}
            return Pool.mix(pools, entry.spec.mixture, entry.spec.max_documents)
        if kept is not None:
            return Pool.load(kept.parent)
        assert entry.source is not None
        return read_pool(entry.source, entry.spec)

    def documents(self, dataset: str) -> int | None:
        """The documents that a dataset has at most; None where nothing is known."""
        spec = self.inputs.datasets[dataset].spec
        if spec.generate is not None:
            return spec.generate.kept
        if spec.select is not None:
            return spec.select.documents
        if spec.control is not None:
            return None
        pool = self.pool(dataset)
        return spec.max_documents if pool is None else len(pool.ids)

    def _lengths(self, dataset: str, model: str, separator: str) -> list[int] | None:
        """Tokens of each document of a small pool; needs the tokenizer's file only."""
        tokenizer = (self.inputs.models[model].folder or Path()) / "tokenizer.json"
        pool = self.pool(dataset) if tokenizer.is_file() else None
        if pool is None:
            return None
        from tokenizers import Tokenizer

        encoder = Tokenizer.from_file(str(tokenizer))
        encoder.no_truncation()
        texts = [separator + text for text in pool.texts]
        return [len(e.ids) for e in encoder.encode_batch(texts, add_special_tokens=False)]


def size_of(source: Source) -> int:
    """Bytes of the files of a source."""
    return sum(path.stat().st_size for path in source.files)


def unreadable(inputs: Inputs) -> Iterator[Problem]:
    """Datasets and texts with a row that cannot be read, or without any text.

    Of large files the first row is tried.
    """
    for kind, entries in (("datasets", inputs.datasets), ("texts", inputs.texts)):
        for name, entry in entries.items():
            if entry.source is not None:
                few = size_of(entry.source) <= MOST_BYTES
                try:
                    rows = islice(read_rows(entry.source), None if few else 1)
                    if sum(not row.isspace() and bool(row) for row in rows) == 0 and few:
                        named = ", ".join(map(str, entry.source.files[:3]))
                        raise ValueError(f"no row has any text, in {named}")
                except (ValueError, OSError) as error:
                    yield Problem((kind, name), f"{name}: {error}")


def shortages(cells: Iterable[Cell], inputs: Inputs, texts: SmallTexts) -> Iterator[Problem]:
    """Draws that ask for more text than a dataset has, where that can be counted here."""
    largest: dict[tuple[str, str, str, int, tuple[int, int] | None], int] = {}
    for cell in cells:
        if (d := cell.draw) is not None:
            key = (cell.model, d.dataset, d.sampler, d.seqlen, d.fold)
            largest[key] = max(largest.get(key, 0), d.size)
    for (model, dataset, sampler, seqlen, fold), size in largest.items():
        pool = texts.pool(dataset)
        enough = size * seqlen * BYTES_PER_TOKEN if sampler == "stream" and not fold else math.inf
        if pool is None or sum(map(len, pool.texts)) > enough:
            continue
        lengths = texts.lengths(dataset, model, SEPARATOR if sampler == "stream" else "")
        if lengths is None:
            continue
        if fold is not None:
            lengths = _of_fold(pool, lengths, *fold)
        try:
            if sampler == "stream":
                check_stream(sum(lengths), size, seqlen)
            else:
                check_documents(sum(n >= seqlen for n in lengths), size, seqlen)
        except TooLittleTextError as error:
            part = "" if fold is None else f" (fold {fold[0]} of calibration.folds: {fold[1]})"
            yield Problem(("cells", "size"), f"dataset {dataset}{part}: {error}")


def _of_fold(pool: Pool, lengths: Sequence[int], index: int, folds: int) -> list[int]:
    """The lengths of the documents of one fold; see `Tokens.fold`."""
    return [n for n, i in zip(lengths, pool.ids, strict=True) if int(i, 16) % folds == index]


def selection_problems(inputs: Inputs, texts: SmallTexts) -> Iterator[Problem]:
    """Selections of more documents than there are to choose from."""
    for name, entry in inputs.datasets.items():
        if (chosen := entry.spec.select) is not None:
            most = texts.documents(chosen.source)
            if most is not None and most < chosen.documents:
                yield Problem(
                    ("datasets", name),
                    f"select.documents is {chosen.documents:,}, and {chosen.source} has {most:,} "
                    "documents at most: ask for fewer, or choose from a larger dataset",
                )


def perplexity_problems(grid: Grid, texts: SmallTexts) -> Iterator[Problem]:
    """Perplexity texts of a single token, of which none is predicted."""
    for i, name in enumerate(grid.evaluate.perplexity):
        if name in texts.inputs.datasets and (texts.bytes(name) or MOST_BYTES) < BYTES_PER_TOKEN:
            for model in grid.model:
                lengths = texts.lengths(name, model, SEPARATOR)
                bos = grid.evaluate.bos == "add"
                if lengths is not None and sum(lengths) + bos < 2:
                    message = f"{name} is too short: perplexity needs two tokens or more"
                    yield Problem(("evaluate", "perplexity", i), message)
