"""What a dataset shares with the grid's evaluations: their n-grams, each gathered once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.contamination import N, TaskGrams
from calib.readers import read_rows
from jobs.plan.cells import digest

if TYPE_CHECKING:
    from jobs.stages.calibration import Stages

VERSION = 2
"""Raised when the n-grams of an evaluation are others than before."""


def task_grams(stages: Stages, model: str) -> Iterator[tuple[str, TaskGrams]]:
    """The n-grams of everything that the grid evaluates on, by its name in the grid."""
    plan = stages.plan
    for task in plan.evaluate.tasks:
        science = {"task": task.name, "harness": plan.harness, "n": N, "version": VERSION}
        science["data"] = plan.inputs.tasks[task.name].identity
        if plan.inputs.demo is not None and task.name.startswith("demo_"):
            science["files"] = plan.inputs.demo.name
        yield task.name, _grams_of(stages, science, partial(_task_texts, stages, task.name))
    for name in plan.evaluate.perplexity:
        text = plan.inputs.texts.get(name)
        identity = (
            plan.inputs.pool(name, model, plan.dtype, plan.seqlen)
            if text is None
            else text.identity
        )
        science = {"text": identity, "n": N, "version": VERSION}
        yield name, _grams_of(stages, science, partial(_text_rows, stages, name, model))


def _grams_of(
    stages: Stages, science: dict[str, Any], documents: Callable[[], Sequence[str]]
) -> TaskGrams:
    def build(folder: Path) -> None:
        TaskGrams.of(documents()).save(folder / "grams.safetensors")

    built = stages.artefact("evaluation-grams", digest(science), build)
    return TaskGrams.load(built / "grams.safetensors")


def _text_rows(stages: Stages, name: str, model: str) -> Sequence[str]:
    """The rows of a perplexity text, or the documents of a dataset that is one."""
    text = stages.plan.inputs.texts.get(name)
    if text is None:
        return stages.pool(name, model, stages.plan.seqlen).texts
    assert text.source is not None, f"text {name} is not on this machine; launch again"
    rows = list(islice(read_rows(text.source), text.spec.max_documents))
    stages.check(text.source.files)
    return rows


def _task_texts(stages: Stages, name: str) -> list[str]:
    """Every document that a task evaluates on, all its texts as one."""
    from lm_eval.tasks import TaskManager

    from jobs.evaluate.task_documents import loading

    inputs = stages.plan.inputs
    files = inputs.tasks[name]
    manager = TaskManager(include_defaults=False, include_path=files.paths)
    with (
        tempfile.TemporaryDirectory() as cache,
        loading(files.datasets, inputs.demo, files.paths, cache),
    ):
        tasks = manager.load([name])["tasks"]
        return [" ".join(_strings(dict(d))) for task in tasks.values() for d in task.eval_docs]


def _strings(value: Any) -> Iterator[str]:
    """The texts inside a document, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
