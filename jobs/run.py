"""A run folder: where everything about the cells of a run lies, and what of it is there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jobs.built import is_whole
from jobs.files import disk_error, read_json, unique_suffix, write_text
from jobs.plan.cells import Draw
from jobs.plan.plan import Evaluation, Plan
from jobs.whole import KeptTexts, is_record_whole
from prune.recipe import DENSE

STOP_KEYS = ("reason", "cause")
"""What `stop.json` has to say."""


class UnreadablePlanError(ValueError):
    """The plan of a run is damaged, or was written by another version."""


class RunFolder:
    """The files of a run, by what they are."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @property
    def artefacts(self) -> Path:
        """What runs share."""
        return self.path.parent / "artefacts"

    @property
    def database(self) -> Path:
        """The run's results."""
        return self.path / "results.duckdb"

    def write_plan(self, plan: Plan) -> None:
        """Put a plan in place of the one before."""
        write_text(self.path / "plan.json", plan.model_dump_json(by_alias=True, indent=1))

    def read_plan(self) -> Plan:
        """The plan of the latest launch.

        Raises:
            FileNotFoundError: this is no run folder.
            UnreadablePlanError: its plan cannot be read.
        """
        path = self.path / "plan.json"
        try:
            if not path.is_file():
                raise FileNotFoundError(f"{self.path} is no run: it has no plan.json")
            return Plan.model_validate_json(path.read_text("utf-8"))
        except PermissionError as error:
            raise UnreadablePlanError(f"{disk_error(error)}; make it readable to you") from error
        except ValueError as error:
            cause = str(error).split("\n", 1)[0]
            raise UnreadablePlanError(
                f"{path} cannot be read ({cause}); launching the grid again writes it"
            ) from error

    def record(self, cell: str) -> Path:
        """What came of pruning a cell."""
        return self.path / "cells" / f"{cell}.json"

    def tables(self, cell: str) -> Path:
        """The long tables of a cell's pruning."""
        return self.path / "cells" / f"{cell}.parquet"

    def evaluation(self, cell: str, evaluation: str) -> Path:
        """What came of one evaluation of a cell."""
        return self.path / "evaluations" / cell / f"{evaluation}.json"

    def dataset(self, key: str) -> Path:
        """What a dataset's pool is, and what it shares with the evaluations."""
        return self.path / "datasets" / f"{key}.json"

    def similarity(self, key: str) -> Path:
        """How near a calibration set and its pool are to the reference."""
        return self.path / "similarity" / f"{key}.json"

    def calibration(self, key: str) -> Path:
        """The folder of a calibration set."""
        return self.path / "calibration" / key

    def model(self, cell: str) -> Path:
        """The folder of a kept model."""
        return self.path / "models" / cell

    def masks(self, cell: str) -> Path:
        """The folder of kept masks."""
        return self.path / "masks" / cell

    def checkpoints(self, cell: str) -> Path:
        """The folder of the finished blocks of a cell that is being pruned."""
        return self.path / "checkpoints" / cell

    def claim(self, cell: str) -> Path:
        """Says which process works on a cell."""
        return self.claims / cell

    def heartbeat(self, cell: str) -> Path:
        """Says how far a cell is."""
        return self.path / "heartbeats" / f"{cell}.json"

    def log(self, name: str) -> Path:
        """What a job printed."""
        return self.path / "logs" / f"{name}.log"

    @property
    def damaged(self) -> Path:
        """Where files lie that could not be read."""
        return self.path / "damaged"

    @property
    def claims(self) -> Path:
        """The claims of the cells that are being run."""
        return self.path / "claims"

    @property
    def launch(self) -> Path:
        """How the run was launched last: profile, time, options."""
        return self.path / "launch.json"

    @property
    def driver(self) -> Path:
        """The claim of whoever settles and submits jobs on a cluster."""
        return self.path / "slurm" / "driver"

    @property
    def stop(self) -> Path:
        """Is there while no further cell shall start; says why."""
        return self.path / "stop.json"

    def read_stop(self) -> dict[str, Any] | None:
        """Why no further cell shall start: `reason` is "cancelled" or "held"; None = go on."""
        try:
            stop = read_json(self.stop)
        except FileNotFoundError:
            return None
        except ValueError:
            stop = None
        if isinstance(stop, dict) and all(isinstance(stop.get(k), str) for k in STOP_KEYS):
            return stop
        return {"reason": "held", "cause": f"{self.stop} is damaged, and may have said so"}

    def is_recorded(self, key: str) -> bool:
        """Is there the record of a cell's pruning, with its tables?"""
        return is_record_whole(self.record(key))

    def missing_evaluations(self, plan: Plan, key: str) -> list[Evaluation]:
        """The evaluations that a cell still needs, or whose outcomes are gone."""
        return [
            e
            for e in plan.evaluations(plan.cells[key]["model"])
            if not is_record_whole(self.evaluation(key, e.key(key)))
        ]

    def is_kept(self, plan: Plan, key: str) -> bool:
        """Is there what the grid keeps of a cell? Of the dense baseline it keeps nothing."""
        if plan.keep == "none" or plan.cells[key]["recipe"]["name"] == DENSE:
            return True
        return is_whole(self.model(key) if plan.keep == "models" else self.masks(key))

    def is_done(self, plan: Plan, key: str) -> bool:
        """Is a cell pruned, kept with its text, and measured on everything?"""
        cell = plan.cell(key)
        return (
            self.is_recorded(key)
            and self.is_kept(plan, key)
            and not KeptTexts(self, plan).missing(cell.draw, cell.model)
            and not self.missing_evaluations(plan, key)
        )

    def done_cells(self, plan: Plan) -> set[str]:
        """The cells with nothing left to do, of thousands, by listing folders.

        What is missing of text that several cells share is left to the first of them.
        """
        texts, left = KeptTexts(self, plan), set[Path]()
        pruned = _whole(self.path / "cells")
        folder = self.path / "evaluations"
        measured = set(_names(folder))
        kept = set(_names(self.path / plan.keep))  # `masks` and `models` name their folders
        wanted = {m: plan.evaluations(m) for m in {c["model"] for c in plan.cells.values()}}
        done = set()
        for key, cell in plan.cells.items():
            needed = wanted[cell["model"]]
            if key not in pruned or (needed and key not in measured):
                continue
            if plan.keep != "none" and cell["recipe"]["name"] != DENSE and key not in kept:
                continue
            if needed and not {e.key(key) for e in needed} <= _whole(f"{folder}/{key}"):
                continue
            missing = texts.missing(Draw.from_json(cell["draw"]), cell["model"])
            if missing <= left:
                done.add(key)
            left |= missing
        return done

    def failed_cells(self) -> set[str]:
        """The cells that any attempt of failed."""
        names = _names(self.path / "failures")
        return {name.partition(".")[0] for name in names if name.endswith(".json")}

    def failures(self, cell: str) -> list[dict[str, Any]]:
        """The failed attempts of a cell, oldest first."""
        found: list[dict[str, Any]] = []
        while (path := self.failure(cell, len(found) + 1)).is_file():
            found.append(self.read_failure(path))
        return found

    def read_failure(self, path: Path) -> dict[str, Any]:
        """What is kept of one failed attempt; where that is damaged, of unknown cause."""
        try:
            failure: dict[str, Any] = read_json(path)
        except ValueError:
            cause = f"{path} is damaged: what went wrong is not known any more"
            failure = {"kind": "lost", "cause": cause, "signature": "damaged", "log": None}
            failure |= {"cell": path.name.partition(".")[0], "stage": None}
        return failure

    def failure(self, cell: str, attempt: int) -> Path:
        """Why one attempt of a cell failed; they are counted from 1."""
        return self.path / "failures" / f"{cell}.{attempt}.json"

    def write_failure(self, cell: str, failure: dict[str, Any]) -> Path:
        """Keep a failed attempt under the next free number."""
        attempt = len(self.failures(cell)) + 1
        self.failure(cell, attempt).parent.mkdir(parents=True, exist_ok=True)
        while True:
            path = self.failure(cell, attempt)
            partial = path.with_name(path.name + unique_suffix())
            record = {"cell": cell, "attempt": attempt, **failure}
            try:
                partial.write_text(json.dumps(record, indent=1), "utf-8")
                os.link(partial, path)  # whole, and only if nobody took the number
            except FileExistsError:
                attempt += 1
            else:
                return path
            finally:
                partial.unlink(missing_ok=True)


def _whole(folder: Path | str) -> set[str]:
    """The records in a folder that have their tables beside them, by their names without suffix."""
    names = set(_names(folder))
    stems = {name.removesuffix(".json") for name in names if name.endswith(".json")}
    return {stem for stem in stems if f"{stem}.parquet" in names}


def _names(folder: Path | str) -> list[str]:
    """What lies in a folder; nothing where there is none."""
    try:
        return os.listdir(folder)  # noqa: PTH208  (names are all that is needed, of thousands)
    except FileNotFoundError:
        return []
