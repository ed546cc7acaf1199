"""Merge the records of a run into its database: `python -m jobs.collect RUN`.

The database is built anew on local disk from the immutable record files and renamed into place,
so collecting twice gives the same, and readers always see a whole database.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb

from jobs import schema
from jobs.cells import Cell
from jobs.describe import describe
from jobs.files import read_json, unique_suffix
from jobs.run import Plan, RunFolder


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.collect", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder, for example runs/demo")
    run = RunFolder(parser.parse_args(arguments).run)
    try:
        damaged = collect(run)
    except FileNotFoundError as error:
        parser.error(str(error))
    for path in damaged:
        print(f"left out, since it cannot be read: {path}", file=sys.stderr)
    print(run.database)
    return 1 if damaged else 0


def collect(run: RunFolder) -> list[Path]:
    """Build the database of a run from its records.

    Returns:
        The record files that cannot be read; they are left out, and nothing else is.

    Raises:
        FileNotFoundError: this is no run folder.
    """
    collection = _Collection(run, run.read_plan())
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "results.duckdb"
        with duckdb.connect(str(built)) as connection:
            for statement in schema.create_tables():
                connection.execute(statement)
            for table, rows in collection.tables().items():
                _insert(connection, table, rows)
            for table, paths in collection.parquet.items():
                _insert_files(connection, table, paths)
            for pool, path in collection.pool_documents.items():
                _insert_files(connection, "pool_documents", [path], pool=pool)
            connection.execute(schema.FILL_OVERLAPS)
            connection.execute(collection.results_view())
        partial = run.database.with_name(run.database.name + unique_suffix())
        shutil.copyfile(built, partial)
        partial.replace(run.database)
    return collection.damaged


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, rows: Iterable[dict[str, Any]]
) -> None:
    """Insert rows by way of a JSON lines file, which DuckDB reads by the thousand."""
    columns = schema.TABLES[table][1]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        count = 0
        for row in rows:
            file.write(json.dumps({name: row.get(name) for name in columns}) + "\n")
            count += 1
        file.flush()
        if count:
            types = {name: kind for name, (kind, _) in columns.items()}
            connection.execute(
                f"INSERT INTO {table} SELECT * FROM read_json(?, format='newline_delimited', "
                f"columns={types}, maximum_object_size=100000000)",
                [file.name],
            )


def _insert_files(
    connection: duckdb.DuckDBPyConnection, table: str, paths: list[Path], **constants: str
) -> None:
    """Insert the rows of Parquet files, with columns that are the same for all of them."""
    names = ", ".join(
        f"'{constants[name]}'" if name in constants else f'"{name}"'
        for name in schema.TABLES[table][1]
    )
    if paths:
        connection.execute(
            f"INSERT INTO {table} SELECT {names} FROM read_parquet(?, union_by_name=true)",
            [[str(path) for path in paths]],
        )


class _Collection:
    """The rows of every table, read from the files of a run."""

    def __init__(self, run: RunFolder, plan: Plan) -> None:
        self.run = run
        self.plan = plan
        self.damaged: list[Path] = []
        self.records = {r["cell"]: r for r in self._read("cells/*.json")}
        self.evaluations = list(self._read("evaluations/*/*.json"))
        self.failures = list(self._read("failures/*.json"))
        self.datasets = self._datasets()
        self.pool_documents = {
            record["pool"]: path.with_suffix(".parquet") for path, record in self.datasets.items()
        }
        self.wanted = {
            evaluation.key(key)
            for key, cell in plan.cells.items()
            for evaluation in plan.evaluations(cell["model"])
        }
        self.parquet = {
            "linears": [p for k in self.records if (p := run.tables(k)).is_file()],
            "outcomes": [
                p
                for e in self.evaluations
                if (
                    p := run.evaluation(e["cell"], e["evaluation"]).with_suffix(".parquet")
                ).is_file()
            ],
        }

    def _read(self, pattern: str) -> Iterator[dict[str, Any]]:
        """The records that match, in order of name; those that are damaged are noted."""
        for path in sorted(self.run.path.glob(pattern)):
            try:
                record = read_json(path)
                record["cell"]
            except (ValueError, TypeError, KeyError):
                self.damaged.append(path)
            else:
                yield record

    def _datasets(self) -> dict[Path, dict[str, Any]]:
        """The records of the datasets that the latest grid uses, in order of name."""
        used = set()
        for cell in map(Cell.from_json, self.plan.cells.values()):
            if cell.draw is not None:
                for name in {cell.draw.dataset, self.plan.reference[cell.model]} - {None}:
                    used.add((str(name), cell.model, cell.draw.seqlen))
        found = {}
        for path in sorted(self.run.dataset(self.plan.dataset_key(*one)) for one in used):
            try:
                found[path] = read_json(path)
            except FileNotFoundError:
                continue  # none of its cells has got so far
            except ValueError:
                self.damaged.append(path)
        return found

    def tables(self) -> dict[str, Iterable[dict[str, Any]]]:
        """Rows by table."""
        calibrations = dict.fromkeys(
            r["calibration"] for r in self.records.values() if r["calibration"]
        )
        manifests = {key: self._manifest(key) for key in calibrations}
        return {
            "runs": [self._run()],
            "cells": self._cells(),
            "evaluations": (
                e | {"in_grid": e["evaluation"] in self.wanted} for e in self.evaluations
            ),
            "metrics": (
                {"cell": e["cell"], "evaluation": e["evaluation"], **metric}
                for e in self.evaluations
                for metric in e["metrics"]
            ),
            "similarity": self._similarity(),
            "documents": self._documents(manifests),
            "pools": self.datasets.values(),
            "contamination": (
                {"pool": record["pool"], "dataset": record["dataset"], **row}
                for record in self.datasets.values()
                for row in record["contamination"]
            ),
            "windows": self._windows(manifests),
            "texts": self._texts(manifests),
            "stages": self._stages(),
            "failures": self.failures,
        }

    def results_view(self) -> str:
        """The statement that creates `results` for the latest grid."""
        tasks = [(task.name, task.metric) for task in self.plan.evaluate.tasks]
        texts: list[tuple[str, str]] = []
        for name in self.plan.evaluate.perplexity:
            texts.append((name, "perplexity"))
            text = self.plan.inputs.texts.get(name)
            if text is not None and text.spec.join is None:
                texts.append((name, "corpus_perplexity"))
        return schema.create_results(tasks, texts)

    def _run(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "run": plan.name,
            "schema_version": schema.VERSION,
            "grid": plan.grid,
            "dtype": plan.dtype,
            "harness": plan.harness,
            "primary_metric": plan.compare.primary,
            "delta": plan.compare.delta,
        }

    def _cells(self) -> Iterator[dict[str, Any]]:
        failed = {f["cell"] for f in self.failures}
        done = {e["evaluation"] for e in self.evaluations}
        for key, planned in self.plan.cells.items():
            needed = {e.key(key) for e in self.plan.evaluations(planned["model"])}
            complete = key in self.records and needed <= done
            status = "done" if complete else "failed" if key in failed else "missing"
            words = describe(Cell.from_json(planned), self.plan.dtype)
            yield self._cell(key, words | {"in_grid": True, "status": status})
        for key in self.records:
            if key not in self.plan.cells:
                yield self._cell(key, {"in_grid": False, "status": "done"})

    def _cell(self, key: str, words: dict[str, Any]) -> dict[str, Any]:
        record = self.records.get(key, {})
        files = {"record": f"cells/{key}.json", "log": record.get("log")} if record else {}
        return record | {"cell": key, "run": self.plan.name} | words | files

    def _similarity(self) -> Iterator[dict[str, Any]]:
        for key, record in self.records.items():
            for measure, value in (record["similarity"] or {}).items():
                yield {"cell": key, "dataset": record["dataset"], "measure": measure, **value}

    def _stages(self) -> Iterator[dict[str, Any]]:
        for key, record in self.records.items():
            for stage, seconds in record["stages"].items():
                yield {"cell": key, "stage": stage, "seconds": seconds}
        for e in self.evaluations:
            yield {"cell": e["cell"], "stage": e["name"], "seconds": e["seconds"]}

    def _manifest(self, key: str) -> dict[str, Any] | None:
        path = self.run.calibration(key) / "manifest.json"
        try:
            manifest: dict[str, Any] = read_json(path)
        except FileNotFoundError:
            return None  # purged; what it says of the windows is lost, the results are not
        except ValueError:
            self.damaged.append(path)
            return None
        return manifest

    def _documents(self, manifests: dict[str, dict[str, Any] | None]) -> Iterator[dict[str, Any]]:
        for key, manifest in manifests.items():
            tokens: dict[str, int] = {}
            for window in (manifest or {}).get("windows", ()):
                for document, _, count in window:
                    tokens[document] = tokens.get(document, 0) + count
            known = (manifest or {}).get("documents", {})
            for document, count in tokens.items():
                row = {"calibration": key, "document": document, "tokens": count}
                yield row | known.get(document, {})

    def _windows(self, manifests: dict[str, dict[str, Any] | None]) -> Iterator[dict[str, Any]]:
        for key, manifest in manifests.items():
            texts = dict(enumerate((manifest or {}).get("texts", ())))
            for number, window in enumerate((manifest or {}).get("windows", ())):
                yield {
                    "calibration": key,
                    "number": number,
                    "documents": len(window),
                    "document": window[0][0],
                    "start": window[0][1],
                    "text": texts.get(number),
                }

    def _texts(self, manifests: dict[str, dict[str, Any] | None]) -> Iterator[dict[str, Any]]:
        pools = {m["pool"]: m["dataset"] for m in manifests.values() if m and m["generate"]}
        for pool, dataset in sorted(pools.items()):
            path = self.run.artefacts / "pools" / pool / "texts.jsonl"
            if path.is_file():
                texts = [json.loads(x) for x in path.read_text("utf-8").split("\n") if x]
                dropped = sum(not text["kept"] for text in texts) / len(texts)
                more = {"pool": pool, "dataset": dataset, "dropped_fraction": dropped}
                for number, text in enumerate(texts):
                    yield more | {"number": number} | text


if __name__ == "__main__":
    sys.exit(main())
