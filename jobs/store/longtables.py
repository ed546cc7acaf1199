"""The long tables of the database: rows by the million, merged file by file.

A file's rows belong to its owner (a cell, an evaluation, a calibration set, a pool of generated
text). What is in the database already is not read again; what changed replaces its rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pyarrow.parquet
from pydantic import ValidationError

from jobs.plan.cells import Cell
from jobs.plan.plan import Plan
from jobs.run import RunFolder
from jobs.store import schema
from jobs.store.readback import (
    CellRecord,
    Damages,
    DocumentNotes,
    EvaluationRecord,
    Manifest,
    Text,
    content_of,
    reason_of,
)
from jobs.store.records import LINEARS, OUTCOMES

BATCH = 500
"""Files merged in one transaction; where one of them is damaged, the batch is halved to find it."""

Insert = Callable[[duckdb.DuckDBPyConnection, dict[str, Path]], None]


@dataclass(frozen=True)
class LongFiles:
    """Files of one kind, and the tables that they fill.

    Attributes:
        tables: the tables; the first names the content in `collected`.
        files: by owner; of those that are not there, rows merged before stay where `purgeable`.
        insert: inserts the rows of some of them.
        check: what is wrong with a file, or None; raises OSError where it cannot be read now.
        purgeable: may the files be deleted without loss?
        aside: what is moved away when a file is damaged.
    """

    tables: tuple[str, ...]
    files: dict[str, Path]
    insert: Insert
    check: Callable[[str, Path], str | None]
    purgeable: bool = False
    aside: Callable[[Path], Path] = lambda path: path

    def merge(self, connection: duckdb.DuckDBPyConnection, damages: Damages) -> None:
        """Bring the tables up to date with the files."""
        content = self.tables[0]
        rows = connection.execute(
            "SELECT owner, size, modified FROM collected WHERE content = ?", [content]
        ).fetchall()
        known = {owner: (size, modified) for owner, size, modified in rows}
        found = {owner: stamp for owner, path in self.files.items() if (stamp := _stamp(path))}
        kept = self.files if self.purgeable else found
        fresh = [owner for owner, stamp in found.items() if known.get(owner) != stamp]
        self._delete(connection, [owner for owner in known if owner not in kept])
        for i in range(0, len(fresh), BATCH):
            stamps = {owner: found[owner] for owner in fresh[i : i + BATCH]}
            self._merge(connection, stamps, known.keys(), damages)

    def _merge(
        self,
        connection: duckdb.DuckDBPyConnection,
        stamps: dict[str, tuple[int, int]],
        known: Container[str],
        damages: Damages,
    ) -> None:
        """Merge a batch of files, all or none; a damaged one is found by halving."""
        content = self.tables[0]
        connection.begin()
        try:
            self._delete(connection, [owner for owner in stamps if owner in known])
            self.insert(connection, {owner: self.files[owner] for owner in stamps})
            sizes, times = zip(*stamps.values(), strict=True)
            columns = {"owner": list(stamps), "size": sizes, "modified": times}
            _insert(connection, "collected", columns | {"content": [content] * len(stamps)})
            connection.commit()
        except (duckdb.Error, ValueError, OSError):
            connection.rollback()
            owners = list(stamps)
            if len(owners) > 1:
                half = len(owners) // 2
                for part in (owners[:half], owners[half:]):
                    self._merge(connection, {o: stamps[o] for o in part}, known, damages)
                return
            path = self.files[owners[0]]
            reason = self.check(owners[0], path)
            if reason is None:
                raise  # the file is sound: the database, or its disk, is at fault
            damages.set_aside(self.aside(path), reason)

    def _delete(self, connection: duckdb.DuckDBPyConnection, owners: Sequence[str]) -> None:
        if not owners:
            return
        for table in self.tables:
            connection.execute(
                f"DELETE FROM {table} WHERE {schema.OWNERS[table]} IN (SELECT unnest(?))", [owners]
            )
        connection.execute(
            "DELETE FROM collected WHERE content = ? AND owner IN (SELECT unnest(?))",
            [self.tables[0], owners],
        )


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None where it is not there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


def long_tables(
    run: RunFolder,
    plan: Plan,
    cells: dict[str, CellRecord],
    evaluations: Iterable[EvaluationRecord],
) -> list[LongFiles]:
    """All long tables of a run, and the files behind them."""
    outcomes = {
        e.evaluation: run.evaluation(e.cell, e.evaluation).with_suffix(".parquet")
        for e in evaluations
    }
    calibrations = dict.fromkeys(r.calibration for r in cells.values() if r.calibration)
    manifests = {key: run.calibration(key) / "manifest.json" for key in calibrations}
    written = dict(_generated_pools(plan))
    texts = {key: run.artefacts / "pools" / key / "texts.jsonl" for key in written}
    linears = {key: run.tables(key) for key in cells}
    return [
        LongFiles(("linears", "masks"), linears, _insert_linears, _check_linears),
        LongFiles(("outcomes",), outcomes, _insert_outcomes, _check_outcomes),
        LongFiles(
            ("windows", "documents"),
            manifests,
            _insert_windows,
            _check_manifest,
            purgeable=True,
            aside=lambda manifest: manifest.parent,  # the set is drawn again when it is needed
        ),
        LongFiles(("texts",), texts, partial(_insert_texts, written), _check_texts, purgeable=True),
    ]


def _generated_pools(plan: Plan) -> Iterator[tuple[str, str]]:
    """The pools of generated text that the grid's cells draw from, with their datasets."""
    for draw, model in {(c.draw, c.model): None for c in map(Cell.from_json, plan.cells.values())}:
        if draw is not None and plan.inputs.datasets[draw.dataset].spec.generate is not None:
            pool = plan.inputs.pool(draw.dataset, model, plan.dtype, draw.seqlen)
            if pool is not None:
                yield pool, draw.dataset


# -- parquet: linears with their mask samples, and outcomes


def _insert_linears(connection: duckdb.DuckDBPyConnection, files: dict[str, Path]) -> None:
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE incoming_linears AS {_read('linears', 'cell')}",
        [[str(path) for path in files.values()]],
    )
    columns = ", ".join(schema.TABLES["linears"][1])
    connection.execute(f"INSERT INTO linears SELECT {columns} FROM incoming_linears")
    connection.execute(
        """
        INSERT INTO masks
        SELECT cell, block, linear,
            least(8 * octet_length(mask_sample), rows::BIGINT * columns), mask_sample::BIT
        FROM incoming_linears WHERE mask_sample IS NOT NULL
        """
    )


def _insert_outcomes(connection: duckdb.DuckDBPyConnection, files: dict[str, Path]) -> None:
    paths = [[str(path) for path in files.values()]]
    connection.execute(f"INSERT INTO outcomes {_read('outcomes', 'evaluation')}", paths)
    twice = connection.execute(
        """
        SELECT evaluation FROM read_parquet(?) GROUP BY evaluation, task, metric
        HAVING count(*) > max(doc_id) - min(doc_id) + 1 LIMIT 1
        """,
        paths,
    ).fetchone()
    if twice:
        raise ValueError(f"evaluation {twice[0]} has two outcomes of one document and metric")


def _read(table: str, owner: str) -> str:
    """A query for the rows of Parquet files (a parameter), which have their owner's name.

    Columns that a file lacks are NULL, which the table refuses where they say anything; rows of
    another owner than the file's name has are an error.
    """
    columns = list(schema.TABLES[table][1])
    extra = ["mask_sample"] if table == "linears" else []
    mine = f"if({owner} = parse_filename(filename, true), {owner}, error('rows of another'))"
    chosen = ", ".join(f"{mine} AS {c}" if c == owner else c for c in [*columns, *extra])
    template = "".join(f", NULL::BLOB AS {c}" for c in extra)
    return (
        f"SELECT {chosen} FROM (SELECT *, NULL::VARCHAR AS filename{template} FROM {table} "
        "WHERE false UNION ALL BY NAME "
        "FROM read_parquet(?, union_by_name = true, filename = true))"
    )


def _check_linears(cell: str, path: Path) -> str | None:
    return _check_parquet(path, LINEARS, "cell", cell)


def _check_outcomes(evaluation: str, path: Path) -> str | None:
    wrong = _check_parquet(path, OUTCOMES, "evaluation", evaluation)
    if wrong is None:
        names = ["task", "metric", "doc_id"]
        groups = pyarrow.parquet.read_table(path, columns=names).group_by(names)
        if max(groups.aggregate([([], "count_all")])["count_all"].to_pylist(), default=0) > 1:
            return "it has two outcomes of one document and metric"
    return wrong


def _check_parquet(path: Path, columns: pyarrow.Schema, name: str, owner: str) -> str | None:
    """What is wrong with a Parquet file, read in full; None where it is sound."""
    content = pyarrow.BufferReader(content_of(path))  # what fails from here on is of the content
    try:
        table = pyarrow.parquet.read_table(content)
        needed = schema.NEVER_NULL["linears" if name == "cell" else "outcomes"]
        lacking = [c for c in needed if c not in table.column_names]
        if lacking:
            return f"it has no column {', '.join(lacking)}"
        for column in set(columns.names) & set(table.column_names):
            table[column].cast(columns.field(column).type)
        empty = [c for c in needed if table[c].null_count]
        if empty:
            return f"it has rows without {', '.join(empty)}"
        owners = set(table[name].to_pylist())
        for notes in (
            table["notes"].drop_null().to_pylist() if "notes" in table.column_names else ()
        ):
            json.loads(notes)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if owners - {owner}:
        return f"it holds rows of {name} {', '.join(map(str, owners - {owner}))}"
    return None


# -- JSON: the windows of calibration sets, and generated texts


def _insert_windows(connection: duckdb.DuckDBPyConnection, files: dict[str, Path]) -> None:
    for key, path in files.items():
        manifest = Manifest.model_validate_json(path.read_bytes())
        windows, begins = manifest.windows, dict(enumerate(manifest.texts))
        tokens: dict[str, int] = {}
        for window in windows:
            for document, _, count in window:
                tokens[document] = tokens.get(document, 0) + count
        _insert(
            connection,
            "windows",
            {
                "calibration": [key] * len(windows),
                "number": list(range(len(windows))),
                "documents": [len(window) for window in windows],
                "document": [window[0][0] for window in windows],
                "start": [window[0][1] for window in windows],
                "text": [begins.get(number) for number in range(len(windows))],
            },
        )
        _insert(
            connection,
            "documents",
            {
                "calibration": [key] * len(tokens),
                "document": list(tokens),
                "tokens": list(tokens.values()),
                **_notes(manifest, list(tokens)),
            },
        )


def _notes(manifest: Manifest, documents: Sequence[str]) -> dict[str, pyarrow.Array]:
    """What is noted of documents, by column."""
    notes = [manifest.documents.get(d) or DocumentNotes() for d in documents]
    kinds = {"domain": pyarrow.string(), "failed_rules": pyarrow.list_(pyarrow.string())}
    return {
        name: pyarrow.array(
            [getattr(note, name) for note in notes], kinds.get(name, pyarrow.float64())
        )
        for name in DocumentNotes.model_fields
    }


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, Sequence[Any]]
) -> None:
    connection.register("incoming", pyarrow.table(dict(columns)))
    connection.execute(f"INSERT INTO {table} BY NAME FROM incoming")
    connection.unregister("incoming")


def _check_manifest(_: str, path: Path) -> str | None:
    try:
        Manifest.model_validate_json(content_of(path))
    except ValidationError as error:
        return reason_of(error)
    return None


def _insert_texts(
    datasets: Mapping[str, str], connection: duckdb.DuckDBPyConnection, files: dict[str, Path]
) -> None:
    for key, path in files.items():
        rows = [Text.model_validate_json(line) for line in path.read_bytes().splitlines() if line]
        if not rows:
            continue
        dropped = sum(not row.kept for row in rows) / len(rows)
        columns: dict[str, Any] = {
            name: [getattr(row, name) for row in rows] for name in Text.model_fields
        }
        columns |= {"perplexity": pyarrow.array(columns["perplexity"], pyarrow.float64())}
        columns |= {"repetition": pyarrow.array(columns["repetition"], pyarrow.float64())}
        columns |= {"language": pyarrow.array(columns["language"], pyarrow.string())}
        columns |= {"source": pyarrow.array(columns["source"], pyarrow.string())}
        columns |= {"pool": [key] * len(rows), "number": list(range(len(rows)))}
        columns |= {"dataset": [datasets[key]] * len(rows)}
        _insert(connection, "texts", columns | {"dropped_fraction": [dropped] * len(rows)})


def _check_texts(_: str, path: Path) -> str | None:
    try:
        for line in content_of(path).splitlines():
            if line:
                Text.model_validate_json(line)
    except ValidationError as error:
        return reason_of(error)
    return None
