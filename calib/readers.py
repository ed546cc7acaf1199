"""The documents in the files of a source: Parquet, JSON, CSV and plain text."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from calib.pool import Document, Pool
from calib.rows import RowFormat
from calib.sources import Source
from calib.spec import DatasetSpec

Opener = Callable[[Path], "str | BinaryIO"]
"""Gives a source's file as a path, or as what can be read like an open file."""


def read_pool(source: Source, spec: DatasetSpec, opener: Opener = str) -> Pool:
    """The pool of a dataset that has files; see `Pool.collect`.

    Args:
        source: the files. spec: the dataset. opener: opens them; they are on this machine, or not.

    Raises:
        ValueError: a file cannot be read, or no row has a text.
    """
    examples = spec.questions.examples if spec.questions is not None else 1
    pool = Pool.collect(read_documents(source, opener), spec.max_documents * examples)
    if not pool.ids:
        names = ", ".join(str(file) for file in source.files[:3])
        raise ValueError(f"no row has any text, in {len(source.files)} file(s): {names}")
    return pool if examples == 1 else pool.joined(examples, "\n\n")


def read_texts(source: Source) -> Iterator[str]:
    """The texts of a source, one a document; those without a visible character are left out."""
    return (document.text for document in read_documents(source))


def read_documents(source: Source, opener: Opener = str) -> Iterator[Document]:
    """The documents of a source; those without a visible character are left out."""
    return (
        d for d in islice(_rows(source, opener), source.most) if d.text and not d.text.isspace()
    )


def read_rows(source: Source) -> Iterator[str]:
    """The text of every row of a source, in order; an empty one where the row has none."""
    return (document.text for document in islice(_rows(source, str), source.most))


def _rows(source: Source, opener: Opener) -> Iterator[Document]:
    """The document of every row.

    Raises:
        ValueError: a file is damaged or not UTF-8; or a row does not hold what the source's
            `RowFormat` makes documents of.
    """
    for file in source.files:
        rows = READERS[source.loader](file, source.rows, opener)
        try:
            for number, row in enumerate(rows):
                yield source.rows.document(row, number)
        except (OSError, ValueError, csv.Error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk, not of the file's content
            hint = " (text is read as UTF-8)" if isinstance(error, UnicodeDecodeError) else ""
            raise ValueError(f"cannot read {file}: {error}{hint}") from error


COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
"""By the end of a file's name."""


def _open(file: Path, opener: Opener) -> io.BufferedReader:
    """A file's bytes, decompressed as its name says."""
    import pyarrow

    compression = COMPRESSIONS.get(file.suffix)
    return io.BufferedReader(pyarrow.input_stream(opener(file), compression), 2**16)


def _read_parquet(file: Path, rows: RowFormat, opener: Opener) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(opener(file)) as parquet:
        columns = rows.wanted(parquet.schema_arrow.names)
        for batch in parquet.iter_batches(1000, columns=columns):
            yield from batch.to_pylist()


def _read_json(file: Path, rows: RowFormat, opener: Opener) -> Iterator[Mapping[str, Any]]:
    """Rows of a JSON list of objects, or of JSON lines (ended by `\n` and nothing else)."""
    with _open(file, opener) as stream:
        if stream.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            items = json.loads(stream.read().decode("utf-8-sig"))
            found: Iterator[tuple[int, Any]] = enumerate(items)
            unit = "item"
        else:
            found, unit = _json_lines(stream), "line"
        for number, row in found:
            if not isinstance(row, dict):
                raise ValueError(f"{unit} {number} is no JSON object but a {type(row).__name__}")
            yield row


def _json_lines(stream: io.BufferedReader) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(stream, 1):
        if line.isspace():
            continue
        try:
            yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number} is not UTF-8: {error}") from error
        except ValueError as error:
            raise ValueError(f"line {number} is not one JSON object: {error}") from error


def _read_csv(file: Path, rows: RowFormat, opener: Opener) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    with io.TextIOWrapper(_open(file, opener), "utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream, delimiter="\t" if ".tsv" in file.name else ",")


def _read_text(file: Path, rows: RowFormat, opener: Opener) -> Iterator[Mapping[str, Any]]:
    """The whole file as one text."""
    with _open(file, opener) as stream:
        yield {rows.column or "text": stream.read().decode("utf-8-sig")}


READERS: dict[str, Callable[[Path, RowFormat, Opener], Iterator[Mapping[str, Any]]]] = {
    "parquet": _read_parquet,
    "json": _read_json,
    "csv": _read_csv,
    "text": _read_text,
}
