"""The table `comparisons`: what `analysis` makes of a database, stored in it for anybody's SQL."""

from __future__ import annotations

from pathlib import Path

import duckdb

from jobs import answers


def refill(built: Path, scratch: Path) -> str:
    """Compare the cells of a database, and store that.

    Args:
        built: the database, which nobody else has open. scratch: a folder for what is in between.

    Returns:
        Why the table is left empty, where they could not be made; the next collection tries again.
        Else nothing.
    """
    found = scratch / "comparisons.parquet"
    try:
        answers.compare(built, found)
    except answers.NoAnswerError as error:
        return f"the table comparisons is left empty: {error}"
    with duckdb.connect(str(built)) as connection:
        connection.execute(
            "INSERT INTO comparisons BY NAME SELECT * FROM read_parquet(?)", [str(found)]
        )
        connection.execute("UPDATE runs SET compared = true")
    return ""
