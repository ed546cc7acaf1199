"""Is the difference real? `python -m analysis.compare results.duckdb [TABLE]`.

Without a table it says in sentences what the grid found: how far datasets are apart, and which
differences are real, equivalent within the grid's delta, or undecided and what would settle them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pyarrow.parquet

from analysis.command import database_parser, run
from analysis.data import Data
from analysis.formats import FORMATS
from analysis.scores import DatabaseError, opened, scores, told_scores
from analysis.sentences import Teller, summary, with_unit
from analysis.tables import TABLES

MOST_SENTENCES = 60
"""Of comparisons that are spelled out; the tables have them all."""

MOST_GAPS = 20
"""The same of gaps, one a setting."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        with opened(options.database) as connection:
            return _answer(connection, options)
    except (DatabaseError, UnknownNameError) as error:
        print(error, file=sys.stderr)
        return 2


class UnknownNameError(ValueError):
    """A score or table that is not there."""


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:11}{question}" for name, (_, question) in TABLES.items())
    parser = database_parser("compare", f"{__doc__}\ntables:\n{listed}")
    parser.add_argument("table", nargs="?", help="a table, in full; `all` with --out")
    parser.add_argument(
        "--score",
        action="append",
        help="a score of results (default: the primary one, the mean accuracy, the perplexities)",
    )
    parser.add_argument("--format", choices=sorted(FORMATS), default="table")
    parser.add_argument("--out", type=Path, help="a folder that takes every table as Parquet")
    parser.add_argument(
        "--headline", action="store_true", help="the main finding, in a line or two"
    )
    return parser


def _answer(connection: duckdb.DuckDBPyConnection, options: argparse.Namespace) -> int:
    data = [Data(connection, score) for score in _chosen(connection, options.score)]
    if options.table is not None and options.table not in TABLES:
        raise UnknownNameError(f"no table {options.table!r}; " + _choices(options.table, TABLES))
    if options.headline:
        for line in summary(data):
            print(line)
    elif options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, (rows, _) in TABLES.items():
            path = options.out / f"{name}.parquet"
            found = [row for d in data for row in rows(d)]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), path)
            print(f"{path}: {len(found):,} rows")
    elif options.table is not None:
        found = [row for d in data for row in TABLES[options.table][0](d)]
        if not found:
            print(f"the grid has nothing for the table {options.table}", file=sys.stderr)
        columns = list(dict.fromkeys(name for row in found for name in row))
        FORMATS[options.format](columns, [[row.get(c) for c in columns] for row in found])
    else:
        for note in _same_texts(connection):
            print(note)
        for d in data:
            _tell(d)
    return 0


def _same_texts(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """What is to be said of datasets that are one text."""
    rows = connection.execute(
        "SELECT DISTINCT dataset, other_dataset, shares_cells FROM same_texts ORDER BY ALL"
    ).fetchall()
    return [
        f"{dataset} and {other} hold the same text: "
        + (f"it is compared once, as {dataset}" if once else "they count as two datasets")
        for dataset, other, once in rows
    ]


def _chosen(connection: duckdb.DuckDBPyConnection, names: Sequence[str] | None) -> list[Any]:
    """The scores to look at: those named, else those that are told of."""
    if not names:
        return told_scores(connection)
    known = scores(connection)
    for name in names:
        if name not in known:
            raise UnknownNameError(f"no score {name!r}; " + _choices(name, known))
    return [known[name] for name in names]


def _choices(name: str, known: Any) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f"there is: {', '.join(known)}" + (f" (did you mean {near[0]!r}?)" if near else "")


def _tell(data: Data) -> None:
    """Say what the database knows of one score."""
    teller, score = Teller(data), data.score
    matters = with_unit(score.shown(score.delta), score.unit)
    print(f"{score.name} (a difference of {matters} matters)")
    if not teller.pairs:
        print("  nothing to compare: no two cells that are done differ in one axis alone")
    gaps = teller.told_gaps()
    for row in gaps[:MOST_GAPS]:
        print("  " + teller.gap(row))
    if len(gaps) > MOST_GAPS:
        print(f"  gaps in {len(gaps) - MOST_GAPS:,} more settings: the table `gaps`")
    for sentence in islice(teller.comparisons(), MOST_SENTENCES):
        print("  " + sentence)
    print(f"  all comparisons ({len(teller.pairs):,}), with p values: the table `pairs`")


if __name__ == "__main__":
    run(main)
