"""The documents in the files of a source: Parquet, JSON, CSV and plain text."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from calib.pool import Document, Pool
from calib.rows import RowFormat
from calib.sources import Source
from calib.spec import DatasetSpec


def read_pool(source: Source, spec: DatasetSpec) -> Pool:
    """The pool of a dataset that has files; see `Pool.collect`.

    Raises:
        ValueError: a file cannot be read, or no row has a text.
    """
    examples = spec.questions.examples if spec.questions is not None else 1
    pool = Pool.collect(read_documents(source), spec.max_documents * examples)
    if not pool.ids:
        names = ", ".join(str(file) for file in source.files[:3])
        raise ValueError(f"no row has any text, in {len(source.files)} file(s): {names}")
    return pool if examples == 1 else pool.joined(examples, "\n\n")


def read_texts(source: Source) -> Iterator[str]:
    """The texts of a source, one a document; those without a visible character are left out."""
    return (document.text for document in read_documents(source))


def read_documents(source: Source) -> Iterator[Document]:
    """The documents of a source; those without a visible character are left out."""
    return (d for d in _rows(source) if d.text and not d.text.isspace())


def read_rows(source: Source) -> Iterator[str]:
    """The text of every row of a source, in order; an empty one where the row has none."""
    return (document.text for document in _rows(source))


def _rows(source: Source) -> Iterator[Document]:
    """The document of every row.

    Raises:
        ValueError: a file is damaged or not UTF-8; or a row does not hold what the source's
            `RowFormat` makes documents of.
    """
    for file in source.files:
        rows = READERS[source.loader](file, source.rows)
        try:
            for number, row in enumerate(rows):
                yield source.rows.document(row, number)
        except (OSError, ValueError, csv.Error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk, not of the file's content
            hint = " (text is read as UTF-8)" if isinstance(error, UnicodeDecodeError) else ""
            raise ValueError(f"cannot read {file}: {error}{hint}") from error


def _open(file: Path) -> io.BufferedReader:
    """A file's bytes, decompressed as its name says."""
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(file), compression="detect"), 2**16)


def _read_parquet(file: Path, rows: RowFormat) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as parquet:
        columns = rows.wanted(parquet.schema_arrow.names)
        for batch in parquet.iter_batches(1000, columns=columns):
            yield from batch.to_pylist()


def _read_json(file: Path, rows: RowFormat) -> Iterator[Mapping[str, Any]]:
    """Rows of a JSON list of objects, or of JSON lines (ended by `\n` and nothing else)."""
    with _open(file) as stream:
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


def _read_csv(file: Path, rows: RowFormat) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    with io.TextIOWrapper(_open(file), "utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream, delimiter="\t" if ".tsv" in file.name else ",")


def _read_text(file: Path, rows: RowFormat) -> Iterator[Mapping[str, Any]]:
    """The whole file as one text."""
    with _open(file) as stream:
        yield {rows.column or "text": stream.read().decode("utf-8-sig")}


READERS: dict[str, Callable[[Path, RowFormat], Iterator[Mapping[str, Any]]]] = {
    "parquet": _read_parquet,
    "json": _read_json,
    "csv": _read_csv,
    "text": _read_text,
}
