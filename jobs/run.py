"""A run folder: the plan of its cells, and where everything about them lies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from calib.pool import SEPARATOR
from jobs.built import is_whole
from jobs.files import disk_error, read_json, unique_suffix, write_text
from jobs.plan.cells import (
    Cell,
    Draw,
    calibration_science,
    canonical,
    digest,
    digest_of_text,
    varied_axes,
)
from jobs.plan.grid import Compare, Evaluate, Pruning, Resources, Similarity
from jobs.plan.inputs import Inputs
from jobs.whole import KeptTexts, is_record_whole
from prune.recipe import DENSE

EVALUATION_VERSION = 2
"""Raised when an evaluation computes something else than before."""

FEWSHOT_SEED = 1234
"""Chooses the examples of few-shot prompts; lm-eval's default. No cell's seed changes a prompt."""


@dataclass(frozen=True)
class Evaluation:
    """One thing a cell is measured on; `key` identifies it together with the cell.

    Attributes:
        kind: "task" (lm-eval) or "text" (perplexity).
        name: of the task or text in the grid.
        settings: all that the figures depend on beside the model. A text is told by its content
            alone, not by the name it has in a grid; a task also by lm-eval's name of it.
    """

    kind: str
    name: str
    settings: dict[str, Any]

    def key(self, cell: str) -> str:
        """The identity of this evaluation of one cell: the digest of cell, kind and settings."""
        before, after = self._around
        return digest_of_text(f'{before}"cell":"{cell}"{after}')

    @cached_property
    def _around(self) -> tuple[str, str]:
        """What comes before and after the cell in the text that its key is made from.

        It is the same for all cells, and every command asks for the keys of all.
        """
        data = {"kind": self.kind, **self.settings}
        before = canonical({name: value for name, value in data.items() if name < "cell"})
        after = canonical({name: value for name, value in data.items() if name > "cell"})
        comma = "," if len(before) > len("{}") else ""
        return before[:-1] + comma, "," + after[1:]


class OtherName(BaseModel):
    """What the grid calls a cell's model and dataset elsewhere, where two names are one content."""

    model_config = ConfigDict(extra="forbid")

    model: str
    dataset: str | None


class Plan(BaseModel):
    """What a run is to do: the grid, looked up and expanded. Written by every launch."""

    model_config = ConfigDict(extra="forbid")

    name: str
    grid: str
    dtype: str
    keep: str
    reference: dict[str, str | None]
    seqlen: int
    harness: str
    pruning: Pruning
    similarity: Similarity
    evaluate: Evaluate
    compare: Compare
    resources: Resources
    inputs: Inputs
    cells: dict[str, dict[str, Any]]
    other_names: dict[str, list[OtherName]] = {}

    def cell(self, key: str) -> Cell:
        """The cell of a key.

        Raises:
            KeyError: the grid has no such cell.
        """
        return Cell.from_json(self.cells[key])

    def label(self, key: str) -> str:
        """A short name of a cell for people."""
        return self.cell(key).label(varied_axes(self.cells.values()))

    def calibration_key(self, draw: Draw, model: str) -> str:
        """The identity of a calibration set."""
        pool = self.inputs.pool(draw.dataset, model, self.dtype, draw.seqlen)
        content = self.inputs.models[model].content
        return digest(calibration_science(draw, pool) | {"model": content})

    def dataset_key(self, dataset: str, model: str, seqlen: int) -> str:
        """The identity of what is recorded of a dataset beside the reference and evaluations."""
        reference = self.reference[model]
        names = [dataset] if reference is None else [dataset, reference]
        return digest(
            {
                "dataset": dataset,
                "model": self.inputs.models[model].content,
                "pools": [self.inputs.pool(n, model, self.dtype, seqlen) for n in names],
                "similarity": self.similarity.model_dump(),
                "tasks": [task.name for task in self.evaluate.tasks],
                "texts": sorted(str(text.identity) for text in self.inputs.texts.values()),
                "harness": self.harness,
            }
        )

    def evaluations(self, model: str) -> list[Evaluation]:
        """What every cell of a model is measured on, in the order of the grid."""
        return [*self._tasks(), *self._texts(model)]

    def _tasks(self) -> Iterator[Evaluation]:
        common = {
            "bos": self.evaluate.bos,
            "max_length": self.evaluate.max_length,
            "truncation": "left",
            "limit": self.evaluate.limit,
            "fewshot_seed": FEWSHOT_SEED,
            "harness": self.harness,
            "version": EVALUATION_VERSION,
        }
        for task in self.evaluate.tasks:
            settings = common | {"task": task.name, "num_fewshot": task.num_fewshot}
            settings |= {"data": self.inputs.tasks[task.name].identity}
            if task.name.startswith("demo_") and self.inputs.demo is not None:
                settings["data"] = self.inputs.demo.name
            yield Evaluation("task", task.name, settings)

    def _texts(self, model: str) -> Iterator[Evaluation]:
        for name in self.evaluate.perplexity:
            text = self.inputs.texts.get(name)
            settings: dict[str, Any] = {
                "bos": self.evaluate.bos,
                "limit": self.evaluate.limit,
                "version": EVALUATION_VERSION,
            }
            if text is None:  # a dataset of the grid: its pool, as a stream
                pool = self.inputs.pool(name, model, self.dtype, self.seqlen)
                settings |= {"text": pool, "join": SEPARATOR, "seqlen": self.seqlen}
                settings |= {"max_length": None}
            else:
                by_row = text.spec.join is None
                settings |= {"text": text.identity, "join": text.spec.join}
                settings |= {"seqlen": None if by_row else self.seqlen}
                settings |= {"max_length": self.evaluate.max_length if by_row else None}
            yield Evaluation("text", name, settings)


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
            stop: dict[str, Any] = read_json(self.stop)
        except FileNotFoundError:
            return None
        except ValueError:
            return {"reason": "held", "cause": f"{self.stop} is damaged, and may have said so"}
        return stop

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
            and KeptTexts(self, plan).of(cell.draw, cell.model)
            and not self.missing_evaluations(plan, key)
        )

    def done_cells(self, plan: Plan) -> set[str]:
        """The cells that `is_done` says yes to, of thousands, by listing folders."""
        texts = KeptTexts(self, plan)
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
            if texts.of(Draw.from_json(cell["draw"]), cell["model"]):
                done.add(key)
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
            partial.write_text(json.dumps(record, indent=1), "utf-8")
            try:
                os.link(partial, path)  # whole, and only if nobody took the number
            except FileExistsError:
                attempt += 1
            else:
                return path
            finally:
                partial.unlink()


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
