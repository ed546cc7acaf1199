"""Write the report of a run: `python -m analysis.report results.duckdb --out report/`.

One page, `report/index.html`, that needs no network: it opens from disk and can be sent by mail.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis.report.data import read
from analysis.report.page import render
from analysis.scores import DatabaseError


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("database", type=Path, help="the database, runs/<name>/results.duckdb")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the report")
    options = parser.parse_args(arguments)
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is a file; give a folder")
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
    sys.exit(main())
