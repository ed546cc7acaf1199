"""The plan of a run: its cells, what they are measured on, and the identities of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from calib.pool import SEPARATOR
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

    def similarity_key(self, draw: Draw, model: str) -> str:
        """The identity of what is measured of a calibration set's text, against which reference."""
        reference = self.reference[model]
        pool = reference and self.inputs.pool(reference, model, self.dtype, draw.seqlen)
        return digest(
            {
                "calibration": self.calibration_key(draw, model),
                "reference": pool,
                "similarity": self.similarity.model_dump(),
                "dtype": self.dtype,
            }
        )

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
