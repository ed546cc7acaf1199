"""Write the report of a run: `python -m analysis.report results.duckdb --out report/`.

One page, `report/index.html`, that needs no network: it opens from disk and can be sent by mail.
"""

from __future__ import annotations

import sys

from analysis.command import database_parser, run
from analysis.report.data import read
from analysis.report.page import render
from analysis.scores import DatabaseError


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = database_parser("report", __doc__, out="report")
    options = parser.parse_args(arguments)
    try:
        report = read(options.database)
    except DatabaseError as error:
        print(error, file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "index.html"
    path.write_text(render(report), "utf-8")
    print(path)
    return 0


if __name__ == "__main__":
    run(main)
