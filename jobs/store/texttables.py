"""The tables about text: pools, their documents, contamination and overlaps.

They are small beside the others and depend on each other: each collection fills them anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow

from jobs.plan.cells import Cell
from jobs.plan.plan import Plan
from jobs.run import RunFolder
from jobs.store import schema
from jobs.store.readback import Damages, content_of

KINDS = {"BIGINT": pyarrow.int64(), "INTEGER": pyarrow.int32()}
"""Types of the columns that are no text."""

_FILL_OVERLAPS = """
INSERT INTO text_overlaps BY NAME
WITH labels AS (SELECT pool, any_value(dataset) AS dataset FROM pools GROUP BY pool),
draws AS (
    SELECT calibration, any_value(dataset) AS dataset,
        (any_value(model), any_value(dataset), any_value(size), any_value(seqlen),
         any_value(sampler)) AS alike
    FROM cells WHERE calibration IS NOT NULL GROUP BY calibration
),
members AS (
    SELECT 'pools' AS kind, pool AS key, dataset, NULL AS alike, document, domain
    FROM pool_documents JOIN labels USING (pool)
    UNION ALL
    SELECT 'draws', calibration, dataset, alike, document, domain
    FROM documents JOIN draws USING (calibration)
),
sizes AS (
    SELECT kind, key, any_value(dataset) AS dataset, any_value(alike) AS alike,
        count(*) AS documents, count(DISTINCT domain) AS domains
    FROM members GROUP BY kind, key
),
shared AS (
    SELECT a.kind, a.key, b.key AS other_key, count(*) AS documents
    FROM members a JOIN members b USING (kind, document) WHERE a.key < b.key GROUP BY ALL
),
hosts AS (SELECT DISTINCT kind, key, domain FROM members WHERE domain IS NOT NULL),
shared_hosts AS (
    SELECT a.kind, a.key, b.key AS other_key, count(*) AS domains
    FROM hosts a JOIN hosts b USING (kind, domain) WHERE a.key < b.key GROUP BY ALL
)
SELECT a.kind, a.dataset, b.dataset AS other_dataset, a.key, b.key AS other_key, a.documents,
    b.documents AS other_documents, coalesce(shared.documents, 0) AS shared_documents, a.domains,
    coalesce(shared_hosts.domains, 0) AS shared_domains
FROM sizes a
JOIN sizes b ON a.kind = b.kind AND a.key < b.key AND a.alike IS NOT DISTINCT FROM b.alike
LEFT JOIN shared
    ON shared.kind = a.kind AND shared.key = a.key AND shared.other_key = b.key
LEFT JOIN shared_hosts
    ON shared_hosts.kind = a.kind AND shared_hosts.key = a.key AND shared_hosts.other_key = b.key
"""
"""Fills `text_overlaps` from the other tables: pools with each other, and the draws of a pool that
differ by seed alone."""


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
    connection.execute(_FILL_OVERLAPS)


def _records(run: RunFolder, plan: Plan, damages: Damages) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The records of the datasets that the grid uses, in order of name."""
    used = set()
    for cell in map(Cell.from_json, plan.cells.values()):
        if cell.draw is not None:
            for name in {cell.draw.dataset, plan.reference[cell.model]} - {None}:
                used.add((str(name), cell.model, cell.draw.seqlen))
    for path in sorted(run.dataset(plan.dataset_key(*one)) for one in used):
        try:
            record = json.loads(content_of(path))
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
        content_of(path)  # one that cannot be read at the moment ends the collection, and stays
        damages.set_aside(path, str(error).split("\n", 1)[0])
