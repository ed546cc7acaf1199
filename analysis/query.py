"""Ask a results database: `python -m analysis.query results.duckdb [NAME | --sql "..."]`.

Without a name or SQL it lists the named queries, each with the question it answers.
"""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb

from analysis.command import database_parser, run
from analysis.formats import FORMATS, print_table


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = database_parser("query", __doc__)
    parser.add_argument("name", nargs="?", help="a named query")
    parser.add_argument("--sql", help="a query of your own")
    parser.add_argument("--format", choices=sorted(FORMATS), default="table")
    options = parser.parse_args(arguments)
    if not options.database.is_file():
        parser.error(f"no database {options.database}; python -m jobs.collect RUN makes it")
    queries = named_queries()
    if options.name and options.sql:
        parser.error("give a name or --sql, not both")
    if options.name and options.name not in queries:
        near = get_close_matches(options.name, queries, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        parser.error(f"no query {options.name!r}; there is: {', '.join(queries)}{hint}")
    if not options.name and not options.sql:
        print_table(["query", "question"], [(n, question(q)) for n, q in queries.items()])
        return 0
    try:
        columns, rows = ask(options.database, options.sql or queries[options.name])
    except duckdb.Error as error:
        why = _of_another_version(options.database) if options.name else ""
        print(why or f"{options.database}: {error}", file=sys.stderr)
        return 2
    FORMATS[options.format](columns, rows)
    return 0


def _of_another_version(database: Path) -> str:
    """Why a database has not what a query asks for, where it is no current one."""
    from analysis.scores import DatabaseError, opened  # here: numpy, which no answer needs

    try:
        with opened(database):
            return ""
    except DatabaseError as error:
        return str(error)


def named_queries() -> dict[str, str]:
    """The SQL of every file in `queries/`, by its name without `.sql`."""
    folder = files("analysis") / "queries"
    paths = sorted((p for p in folder.iterdir() if p.name.endswith(".sql")), key=lambda p: p.name)
    return {p.name.removesuffix(".sql"): p.read_text("utf-8") for p in paths}


def question(sql: str) -> str:
    """The question that a named query answers: its first line, a comment."""
    return sql.split("\n", 1)[0].removeprefix("--").strip()


def ask(database: Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Columns and rows of a query on a database that is opened read-only."""
    with duckdb.connect(str(database), read_only=True) as connection:
        result = connection.execute(sql)
        return [column[0] for column in result.description or ()], result.fetchall()


if __name__ == "__main__":
    run(main)
