"""The results database of a run, made equal to the run's files: rows merged, long tables by file.

Nothing here decides when or where: `jobs.collect` does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow

from jobs.plan.cells import Cell
from jobs.plan.describe import describe
from jobs.plan.plan import Plan
from jobs.run import RunFolder
from jobs.store import schema, texttables, views
from jobs.store.longtables import long_tables
from jobs.store.readback import (
    CellRecord,
    Damages,
    EvaluationRecord,
    FailureRecord,
    R,
    SimilarityRecord,
    read_all,
)

ARROW = {
    "VARCHAR": pyarrow.string(),
    "JSON": pyarrow.string(),
    "DOUBLE": pyarrow.float64(),
    "DOUBLE[]": pyarrow.list_(pyarrow.float64()),
    "INTEGER": pyarrow.int32(),
    "BIGINT": pyarrow.int64(),
    "BOOLEAN": pyarrow.bool_(),
}

FOLDERS = ("cells", "evaluations", "failures", "calibration", "similarity", "datasets", "damaged")
"""Folders of a run with what the database is built from."""

Row = dict[str, Any]


def state_of(run: RunFolder, plan: Plan) -> str:
    """A hash that changes with any file that the database is built from."""
    digest = hashlib.sha256(f"{schema.VERSION} {plan.model_dump_json()}".encode())
    for folder in FOLDERS:
        for line in sorted(_stamps(run.path / folder, folder)):
            digest.update(line.encode())
    return digest.hexdigest()


def _stamps(folder: Path, name: str) -> Iterator[str]:
    """Name, size and time of change of every file below a folder that is whole."""
    if not folder.is_dir():
        return
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _stamps(Path(entry.path), f"{name}/{entry.name}")
        elif entry.name.endswith((".json", ".parquet", ".reason")):
            stat = entry.stat(follow_symlinks=False)  # a link may lead nowhere
            yield f"{name}/{entry.name} {stat.st_size} {stat.st_mtime_ns}\n"


def is_current(database: Path, state: str, compared: bool) -> bool:
    """Was this database built from files that are all as they were?

    Args:
        database: the file. state: of the files now.
        compared: are the comparisons to be in it?
    """
    try:
        with duckdb.connect(str(database), read_only=True) as connection:
            found = connection.execute("SELECT state, compared FROM runs").fetchall()
    except duckdb.Error:  # none yet, damaged, or of another version: it is built anew
        return False
    return found == [(state, True)] or (not compared and found == [(state, False)])


def update(built: Path, run: RunFolder, plan: Plan, damages: Damages, state: str) -> None:
    """Make the database `built` equal to the files of a run; it is made where there is none.

    Args:
        state: of the files, from before any is read: what arrives later is for the next time.
    """
    with _open(built) as connection:
        records = Records(run, plan, damages)
        for table, rows in records.tables().items():
            _merge_rows(connection, table, rows)
        for files in long_tables(run, plan, records.cells, records.evaluations):
            files.merge(connection, damages)
        texttables.refill(connection, run, plan, damages)
        _merge_rows(connection, "damaged", map(vars, damages.known()))
        changed = bool(damages.found)  # files were moved: the state is another now
        connection.execute("DELETE FROM comparisons")  # they were of what was here before
        runs = run_row(plan) | {"state": None if changed else state, "compared": False}
        _merge_rows(connection, "runs", [runs])
        connection.execute(";".join(views.create_views(*figures(plan))))


def _open(built: Path) -> duckdb.DuckDBPyConnection:
    """The database to update: the one that is there, or a new one where it is of no use."""
    if built.is_file():
        try:
            connection = _connect(built)
            version = connection.execute("SELECT schema_version FROM runs").fetchall()
            if version == [(schema.VERSION,)]:
                return connection
            connection.close()
        except duckdb.Error:
            pass  # a damaged database is built anew, from the records
        built.unlink()
    connection = _connect(built)
    connection.execute(";".join(schema.create_tables()))
    return connection


def _connect(built: Path) -> duckdb.DuckDBPyConnection:
    """Open a database to write; of thousands of files that are read once, with half the work."""
    connection = duckdb.connect(str(built))
    connection.execute("SET preserve_insertion_order = false")  # rows have none
    connection.execute("SET enable_external_file_cache = false")
    return connection


def _merge_rows(connection: duckdb.DuckDBPyConnection, table: str, rows: Iterable[Row]) -> None:
    """Make a table equal to these rows; of rows with one key the last counts."""
    columns = schema.TABLES[table][1]
    unique = {tuple(row[k] for k in schema.KEYS[table]): row for row in rows}
    arrays = [
        pyarrow.array([_plain(row.get(name), kind) for row in unique.values()], ARROW[kind])
        for name, (kind, _) in columns.items()
    ]
    connection.register("incoming", pyarrow.table(arrays, list(columns)))
    connection.execute(schema.merge(table, "incoming"))
    connection.unregister("incoming")


def _plain(value: Any, kind: str) -> Any:
    return json.dumps(value) if kind == "JSON" and value is not None else value


def figures(plan: Plan) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Tasks with their headline metrics, and perplexity texts with theirs, as the grid has them."""
    tasks = [(t.name, plan.inputs.tasks[t.name].metric) for t in plan.evaluate.tasks]
    texts: list[tuple[str, str]] = []
    for name in plan.evaluate.perplexity:
        texts.append((name, "perplexity"))
        text = plan.inputs.texts.get(name)
        if text is not None and text.spec.join is None:
            texts.append((name, "corpus_perplexity"))
    return tasks, texts


def run_row(plan: Plan) -> Row:
    """The row of `runs`, but for its state."""
    return {
        "run": plan.name,
        "schema_version": schema.VERSION,
        "grid": plan.grid,
        "dtype": plan.dtype,
        "harness": plan.harness,
        "primary_metric": plan.compare.primary,
        "delta": plan.compare.delta,
    }


class Records:
    """The rows of the tables that are merged row by row, from the records of a run."""

    def __init__(self, run: RunFolder, plan: Plan, damages: Damages) -> None:
        self.plan = plan
        self.damages = damages

        def read(pattern: str, model: type[R], identity: Callable[[R], str]) -> Iterator[R]:
            paths = sorted(run.path.glob(pattern), key=str)
            return (record for _, record in read_all(paths, model, identity, damages))

        self.cells = {r.cell: r for r in read("cells/*.json", CellRecord, lambda r: r.cell)}
        self.evaluations = list(
            read("evaluations/*/*.json", EvaluationRecord, lambda r: f"{r.cell}/{r.evaluation}")
        )
        self.failures = list(
            read("failures/*.json", FailureRecord, lambda r: f"{r.cell}.{r.attempt}")
        )
        self.figures = {
            r.key: r.figures for r in read("similarity/*.json", SimilarityRecord, lambda r: r.key)
        }
        metrics = {name: task.metric for name, task in plan.inputs.tasks.items()}
        planned = {model: plan.evaluations(model) for model in plan.inputs.models}
        self.wanted = {  # evaluation -> its headline metric, by cell
            key: {
                e.key(key): metrics[e.name] if e.kind == "task" else "perplexity"
                for e in planned[cell["model"]]
            }
            for key, cell in plan.cells.items()
        }

    def tables(self) -> dict[str, Iterable[Row]]:
        """Rows by table."""
        return {
            "cells": self._cells(),
            "evaluations": self._evaluations(),
            "metrics": (
                {"cell": e.cell, "evaluation": e.evaluation, **vars(metric)}
                for e in self.evaluations
                for metric in e.metrics
            ),
            "similarity": self._similarity(),
            "other_names": (
                {"cell": key, "number": i, **vars(name)}
                for key, names in self.plan.other_names.items()
                for i, name in enumerate(names)
            ),
            "stages": self._stages(),
            "failures": map(vars, self.failures),
        }

    def _cells(self) -> Iterator[Row]:
        failed = {f.cell for f in self.failures}
        done = {e.evaluation for e in self.evaluations}
        gpu_seconds: dict[str, float] = {}
        for e in self.evaluations:
            if e.gpu is not None:
                gpu_seconds[e.cell] = gpu_seconds.get(e.cell, 0.0) + e.seconds
        for key, planned in self.plan.cells.items():
            complete = key in self.cells and self.wanted[key].keys() <= done
            status = "done" if complete else "failed" if key in failed else "missing"
            cell = Cell.from_json(planned)
            words = describe(cell, self.plan.dtype) | {"in_grid": True, "status": status}
            if cell.draw is not None:
                spec = self.plan.inputs.datasets[cell.draw.dataset].spec
                words["generated"] = spec.generate is not None
            yield self._cell(key, words, gpu_seconds)
        for key in self.cells:
            if key not in self.plan.cells:
                yield self._cell(key, {"in_grid": False, "status": "done"}, gpu_seconds)

    def _cell(self, key: str, words: Row, gpu_seconds: dict[str, float]) -> Row:
        row: Row = {"cell": key, "run": self.plan.name}
        record = self.cells.get(key)
        if record is not None:
            row |= vars(record) | {"record": f"cells/{key}.json"}
            if record.gpu_seconds is not None:
                row["gpu_seconds"] = record.gpu_seconds + gpu_seconds.get(key, 0.0)
        return row | words

    def _evaluations(self) -> Iterator[Row]:
        for e in self.evaluations:
            headline = self.wanted.get(e.cell, {}).get(e.evaluation)
            yield vars(e) | {"in_grid": headline is not None, "headline": headline}

    def _similarity(self) -> Iterator[Row]:
        key_of = cache(self.plan.similarity_key)  # many cells share a draw
        for key in self.plan.cells.keys() & self.cells.keys():
            cell = self.plan.cell(key)
            if cell.draw is not None:
                figures = self.figures.get(key_of(cell.draw, cell.model), {})
                for measure, value in figures.items():
                    row = {"cell": key, "dataset": cell.draw.dataset, "measure": measure}
                    yield row | vars(value)

    def _stages(self) -> Iterator[Row]:
        for key, record in self.cells.items():
            for stage, seconds in record.stages.items():
                yield {"cell": key, "stage": stage, "seconds": seconds}
        for e in self.evaluations:
            yield {"cell": e.cell, "stage": e.name, "seconds": e.seconds}
