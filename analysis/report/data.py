"""What the report shows, read from a results database and the files beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb

from analysis.report import findings as tables
from analysis.report.answers import answer_all
from analysis.results import Results, generated_datasets, recipe_labels
from analysis.scores import opened

LOG_LINES, LOG_BUDGET = 40, 400_000
"""The last lines of a log that are kept, and the characters that all logs together may have."""

SETS_PER_DATASET = 1
TEXT_CHARACTERS = 4000
"""How much of the calibration text is shown: sets a dataset and model, characters a window."""

CELL_FIGURES = ("achieved_sparsity", "model_sparsity", "similarity", "similarity_se", "gpu_seconds")


def read(database: Path) -> dict[str, Any]:
    """Everything that the page needs, as plain data.

    Raises:
        DatabaseError: this is no results database of this version.
    """
    with opened(database) as connection:
        results = Results.read(connection)
        found = tables.gather(connection)
        reader = _Reader(connection, results, database.resolve().parent)
        return {
            "meta": reader.meta(database),
            "metrics": [vars(m) for m in results.metrics],
            "cells": reader.cells(),
            "answers": {
                score: [vars(a) for a in answers]
                for score, answers in answer_all(results, found).items()
            },
            "pairs": tables.listed_pairs(found),
            "gaps": tables.listed_gaps(found),
            "ties": tables.listed_ties(found),
            "blocks": reader.blocks(),
            "similarity": reader.similarity(),
            "windows": reader.windows(),
            "stages": reader.stages(),
            "failures": reader.failures(),
        }


class _Reader:
    """The parts of the page's data, one method each."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, results: Results, folder: Path
    ) -> None:
        self.connection = connection
        self.results = results
        self.folder = folder
        self.budget = LOG_BUDGET

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self.connection.execute(sql).fetchall()

    def meta(self, database: Path) -> dict[str, Any]:
        """What the run is."""
        rows = self.results.rows
        run = self.results.run
        commits = self.ask(
            "SELECT json_extract_string(provenance, '$.commit') AS c, "
            "json_extract_string(provenance, '$.dirty'), count(*) FROM cells "
            "WHERE c IS NOT NULL GROUP BY ALL ORDER BY 3 DESC"
        )
        return {
            "run": run.get("run") or database.parent.name,
            "grid": run.get("grid"),
            "primary": self.results.primary.name,
            "delta": run.get("delta"),
            "dtype": run.get("dtype"),
            "harness": run.get("harness"),
            "models": sorted({r["model"] for r in rows}),
            "counts": {s: sum(r["status"] == s for r in rows) for s in _statuses(rows)},
            "commits": [
                {"commit": c, "dirty": dirty == "true", "cells": n} for c, dirty, n in commits
            ],
            "generated": sorted(generated_datasets(run.get("grid"))),
            "recipes": recipe_labels(r["recipe"] for r in rows),
        }

    def cells(self) -> dict[str, Any]:
        """Every cell of the grid, column by column; repeated values are numbers into a list."""
        rows = self.results.rows
        extra = self._extra()
        names = [m.name for m in self.results.metrics]
        columns: dict[str, Any] = {"cell": [r["cell"] for r in rows]}
        for name in ("model", "dataset", "pruner", "recipe", "pattern", "sampler", "status"):
            columns[name] = coded([r[name] for r in rows])
        drawn = [r["dataset"] is not None for r in rows]
        columns["samplers"] = coded(
            [self.results.condition(r)[-1] if d else None for r, d in zip(rows, drawn, strict=True)]
        )
        for name in ("sparsity", "size", "seed", "seqlen", "replicate"):
            columns[name] = [r[name] for r in rows]
        for name in (*CELL_FIGURES, *names):
            columns[name] = [rounded(r[name]) for r in rows]
        for name in ("calibration", "record", "log", "provenance"):
            columns[name] = coded([extra[r["cell"]][name] for r in rows])
        for name in ("peak_memory_bytes", "attempt"):
            columns[name] = [extra[r["cell"]][name] for r in rows]
        stages, seconds = self._stage_seconds()
        columns["stages"] = [seconds.get(r["cell"], []) for r in rows]
        logs = {r["cell"]: self.tail(extra[r["cell"]]["log"]) for r in rows}
        return {
            "columns": columns,
            "stage_names": stages,
            "logs": {cell: text for cell, text in logs.items() if text},
        }

    def _extra(self) -> dict[str, dict[str, Any]]:
        """What the table of cells says beyond the view."""
        names = [
            "cell",
            "calibration",
            "record",
            "log",
            "provenance",
            "peak_memory_bytes",
            "attempt",
        ]
        return {
            row[0]: dict(zip(names, row, strict=True))
            for row in self.ask(f"SELECT {', '.join(names)} FROM cells WHERE in_grid")
        }

    def _stage_seconds(self) -> tuple[list[str], dict[str, list[list[float]]]]:
        """Names of stages; and by cell, the number of each stage's name with its seconds."""
        numbers: dict[str, int] = {}
        seconds: dict[str, list[list[float]]] = defaultdict(list)
        for cell, stage, value in self.ask("SELECT cell, stage, seconds FROM stages ORDER BY ALL"):
            number = numbers.setdefault(stage, len(numbers))
            seconds[cell].append([number, round(value, 2) if value is not None else 0.0])
        return list(numbers), seconds

    def tail(self, log: str | None) -> str | None:
        """The last lines of a log that lies beside the database, as long as there is room."""
        if not log or self.budget <= 0:
            return None
        path = self.folder / log
        if not path.is_file():
            return None
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            lines = file.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:]
        text = "\n".join(lines)
        self.budget -= len(text)
        return text or None

    def blocks(self) -> list[dict[str, Any]]:
        """Mean relative error of each block's output, over draws."""
        groups: dict[tuple[Any, ...], list[list[float]]] = defaultdict(list)
        for *key, errors in self.ask(
            "SELECT model, recipe, sparsity, pattern, size, seqlen, sampler, dataset, "
            "if(len(block_heldout_errors) > 0, block_heldout_errors, block_errors) AS errors "
            "FROM cells WHERE in_grid AND status = 'done' AND replicate = 0 AND len(errors) > 0"
        ):
            if None not in errors:
                groups[tuple(key)].append(errors)
        names = ("model", "recipe", "sparsity", "pattern", "size", "seqlen", "sampler", "dataset")
        return [
            dict(zip(names, key, strict=True))
            | {"errors": [rounded(sum(e) / len(e)) for e in zip(*lists, strict=False)]}
            for key, lists in groups.items()
        ]

    def similarity(self) -> list[dict[str, Any]]:
        """Every measure of every dataset; one that several cells share is listed once."""
        rows = self.ask(
            "SELECT c.model, c.seqlen, s.dataset, s.measure, avg(s.value), avg(s.stderr), max(s.n) "
            "FROM similarity s JOIN cells c USING (cell) WHERE c.in_grid "
            "GROUP BY ALL ORDER BY c.model, c.seqlen, s.measure, avg(s.value) DESC"
        )
        names = ("model", "seqlen", "dataset", "measure", "value", "stderr", "n")
        return [dict(zip(names, map(rounded, row), strict=True)) for row in rows]

    def windows(self) -> list[dict[str, Any]]:
        """The first windows of one calibration set of every dataset, to read."""
        found = self.ask(
            "SELECT c.model, c.dataset, c.sampler, c.calibration, any_value(c.seed), "
            "any_value(c.size), any_value(c.seqlen) FROM cells c WHERE c.in_grid AND "
            "c.calibration IN (SELECT calibration FROM windows) GROUP BY ALL "
            "ORDER BY 1, 2, 3, 5, 6 DESC"
        )
        shown: dict[tuple[Any, ...], int] = defaultdict(int)
        sets = []
        for model, dataset, sampler, calibration, seed, size, seqlen in found:
            shown[model, dataset, sampler] += 1
            if shown[model, dataset, sampler] > SETS_PER_DATASET:
                continue
            rows = self.connection.execute(
                "SELECT number, documents, document, start, text FROM windows "
                "WHERE calibration = ? AND (text IS NOT NULL OR number < 1) ORDER BY number",
                [calibration],
            ).fetchall()
            pages = [
                {"number": n, "documents": d, "document": i, "start": s, "text": _short(t)}
                for n, d, i, s, t in rows
            ]
            sets.append(
                {
                    "model": model,
                    "dataset": dataset,
                    "sampler": sampler,
                    "calibration": calibration,
                    "seed": seed,
                    "size": size,
                    "seqlen": seqlen,
                    "windows": pages,
                }
            )
        return sets

    def stages(self) -> list[dict[str, Any]]:
        """Seconds by stage, over all cells of the grid."""
        rows = self.ask(
            "SELECT s.stage, count(*), sum(s.seconds), median(s.seconds), max(s.seconds) "
            "FROM stages s JOIN cells c USING (cell) WHERE c.in_grid GROUP BY 1 ORDER BY 3 DESC"
        )
        names = ("stage", "times", "total", "median", "most")
        return [dict(zip(names, map(rounded, row), strict=True)) for row in rows]

    def failures(self) -> list[dict[str, Any]]:
        """Failed cells, equal causes together, the most frequent first."""
        groups: dict[str, dict[str, Any]] = {}
        for cell, attempt, kind, stage, cause, signature, log, status in self.ask(
            "SELECT f.cell, f.attempt, f.kind, f.stage, f.cause, f.signature, f.log, c.status "
            "FROM failures f JOIN cells c USING (cell) WHERE c.in_grid ORDER BY f.cell, f.attempt"
        ):
            key = f"{signature} {status == 'done'}"
            group = groups.setdefault(
                key,
                {
                    "cause": cause,
                    "kind": kind,
                    "stage": stage,
                    "log": log,
                    "recovered": status == "done",
                    "attempts": 0,
                    "cells": [],
                },
            )
            group["attempts"] = max(group["attempts"], attempt)
            if cell not in group["cells"]:
                group["cells"].append(cell)
        for group in groups.values():
            group["tail"] = self.tail(group["log"])
        return sorted(groups.values(), key=lambda g: (g["recovered"], -len(g["cells"])))


def coded(values: Sequence[Any]) -> dict[str, Any]:
    """A column of few distinct values: those once, and a number for each row."""
    numbers: dict[Any, int] = {}
    codes = [numbers.setdefault(value, len(numbers)) for value in values]
    return {"values": list(numbers), "codes": codes}


def rounded(value: Any) -> Any:
    """A figure with six significant digits: enough to show, and half the size."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= TEXT_CHARACTERS else text[:TEXT_CHARACTERS] + " …"


def _statuses(rows: Iterable[dict[str, Any]]) -> list[str]:
    found = {r["status"] for r in rows}
    return [s for s in ("done", "failed", "missing") if s in found]
