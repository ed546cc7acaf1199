"""The tables about text: pools, their documents, contamination and overlaps.

They are small beside the others and depend on each other: each collection fills them anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow

from jobs.files import read_json
from jobs.plan.cells import Cell
from jobs.run import Plan, RunFolder
from jobs.store import schema
from jobs.store.readback import Damages

KINDS = {"BIGINT": pyarrow.int64(), "INTEGER": pyarrow.int32()}
"""Types of the columns that are no text."""


def refill(
    connection: duckdb.DuckDBPyConnection, run: RunFolder, plan: Plan, damages: Damages
) -> None:
    """Fill the tables about text from the dataset records of the grid."""
    for table in ("pools", "pool_documents", "contamination", "text_overlaps"):
        connection.execute(f"DELETE FROM {table}")
    records = dict(_records(run, plan, damages))
    _insert(connection, "pools", list(records.values()))
    _insert(
        connection,
        "contamination",
        [
            {"pool": record["pool"], "dataset": record["dataset"], **row}
            for record in records.values()
            for row in record["contamination"]
        ],
    )
    files = {record["pool"]: path.with_suffix(".parquet") for path, record in records.items()}
    for pool, path in files.items():
        _insert_documents(connection, pool, path, damages)
    connection.execute(schema.FILL_OVERLAPS)


def _records(run: RunFolder, plan: Plan, damages: Damages) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The records of the datasets that the grid uses, in order of name."""
    used = set()
    for cell in map(Cell.from_json, plan.cells.values()):
        if cell.draw is not None:
            for name in {cell.draw.dataset, plan.reference[cell.model]} - {None}:
                used.add((str(name), cell.model, cell.draw.seqlen))
    for path in sorted(run.dataset(plan.dataset_key(*one)) for one in used):
        try:
            record = read_json(path)
            record["pool"], record["dataset"], record["contamination"]
        except FileNotFoundError:
            continue  # none of its cells has got so far
        except (ValueError, KeyError, TypeError) as error:
            damages.set_aside(path, f"{type(error).__name__}: {error}")
        else:
            yield path, record


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    columns = {
        name: pyarrow.array([row.get(name) for row in rows], KINDS.get(kind, pyarrow.string()))
        for name, (kind, _) in schema.TABLES[table][1].items()
    }
    connection.register("incoming", pyarrow.table(columns))
    connection.execute(f"INSERT INTO {table} BY NAME FROM incoming")
    connection.unregister("incoming")


def _insert_documents(
    connection: duckdb.DuckDBPyConnection, pool: str, path: Path, damages: Damages
) -> None:
    if not path.is_file():
        return
    names = ", ".join(f'"{n}"' for n in schema.TABLES["pool_documents"][1] if n != "pool")
    try:
        connection.execute(
            f"INSERT INTO pool_documents SELECT ? AS pool, {names} FROM read_parquet(?)",
            [pool, str(path)],
        )
    except duckdb.Error as error:
        damages.set_aside(path, str(error).split("\n", 1)[0])
