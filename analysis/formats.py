"""Answers as a table for people, CSV, Markdown, LaTeX, JSON or Parquet, on standard output."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow
import pyarrow.parquet
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

Rows = Sequence[Sequence[Any]]


def print_table(columns: Sequence[str], rows: Rows) -> None:
    """For people; as wide as it needs to be where the output is no terminal."""
    table = Table()
    for i, column in enumerate(columns):
        number = _is_number(rows, i)
        table.add_column(Text(column), justify="right" if number else "left")
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row))
    console = Console()
    if not console.is_terminal:
        console = Console(
            width=Measurement.get(console, console.options.update(max_width=10_000), table).maximum
        )
    with console.capture() as captured:  # rich itself would exit with 1 where nobody reads on
        console.print(table)
    print(captured.get(), end="")


def _is_number(rows: Rows, column: int) -> bool:
    return any(isinstance(row[column], int | float | Decimal) for row in rows)


def shown(value: Any) -> str:
    """A value for people: four significant digits, and no fewer than an integer has."""
    if value is None:
        return "-"
    if isinstance(value, float | Decimal):
        if not math.isfinite(value) or value == 0:
            return f"{value:g}"
        digits = max(4, math.floor(math.log10(abs(float(value)))) + 1)
        return f"{value:.{digits}g}" if digits < 16 else f"{value:.4g}"
    return str(value)


def print_csv(columns: Sequence[str], rows: Rows) -> None:
    """Every digit; an empty field is NULL."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def print_markdown(columns: Sequence[str], rows: Rows) -> None:
    """A Markdown table."""
    escaped = [[_one_line(shown(v)).replace("|", "\\|") for v in row] for row in rows]
    for line in (columns, ["---"] * len(columns), *escaped):
        print("| " + " | ".join(line) + " |")


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
"""Characters that mean something to LaTeX, and how they are written."""


def print_latex(columns: Sequence[str], rows: Rows) -> None:
    """A tabular for a paper; it needs the package booktabs."""

    def line(values: Sequence[str]) -> str:
        escaped = ["".join(LATEX.get(c, c) for c in _one_line(v)) for v in values]
        return " & ".join(escaped) + r" \\"

    numbers = [_is_number(rows, i) for i in range(len(columns))]
    print(r"\begin{tabular}{" + "".join("r" if n else "l" for n in numbers) + "}")
    print(r"\toprule")
    print(line(columns))
    print(r"\midrule")
    for row in rows:
        print(line([shown(value) for value in row]))
    print(r"\bottomrule")
    print(r"\end{tabular}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def print_json(columns: Sequence[str], rows: Rows) -> None:
    """A list of objects; what is no number becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Decimal):
            return float(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    records = [
        {name: plain(value) for name, value in zip(columns, row, strict=True)} for row in rows
    ]
    print(json.dumps(records, indent=1, default=str))


def print_parquet(columns: Sequence[str], rows: Rows) -> None:
    """Parquet, to be sent to a file."""
    if sys.stdout.isatty():
        print("parquet is no text: send it to a file, as in ... > answer.parquet", file=sys.stderr)
        return
    table = pyarrow.table({name: [row[i] for row in rows] for i, name in enumerate(columns)})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    sys.stdout.flush()
    sys.stdout.buffer.write(buffer.getvalue())


FORMATS = {
    "table": print_table,
    "csv": print_csv,
    "md": print_markdown,
    "latex": print_latex,
    "json": print_json,
    "parquet": print_parquet,
}
"""name -> prints columns and rows"""
