"""Records: the immutable files that say what came of a cell and of each of its evaluations."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet

from jobs.cells import Cell
from jobs.files import finite, unique_suffix, write_json
from jobs.heartbeat import Heartbeat
from jobs.run import Evaluation, RunFolder
from jobs.tasks import task_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from jobs.evaluation import Scores
    from jobs.stages import Stages

LINEARS = pyarrow.schema(
    [
        ("cell", pyarrow.string()),
        ("block", pyarrow.int32()),
        ("linear", pyarrow.string()),
        ("rows", pyarrow.int32()),
        ("columns", pyarrow.int32()),
        ("pruned", pyarrow.int64()),
        ("error", pyarrow.float64()),
        ("heldout_error", pyarrow.float64()),
        ("notes", pyarrow.string()),
        ("mask_sample", pyarrow.binary()),
    ]
)
OUTCOMES = pyarrow.schema(
    [
        ("cell", pyarrow.string()),
        ("evaluation", pyarrow.string()),
        ("task", pyarrow.string()),
        ("doc_id", pyarrow.int64()),
        ("metric", pyarrow.string()),
        ("value", pyarrow.float64()),
    ]
)


def write_table(path: Path, rows: list[dict[str, Any]], schema: pyarrow.Schema) -> None:
    """Put rows under `path` as Parquet, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + unique_suffix())
    table = pyarrow.Table.from_pylist(rows, schema=schema)
    pyarrow.parquet.write_table(table, partial, compression="zstd")
    partial.replace(path)


def write_record(
    run: RunFolder, key: str, record: dict[str, Any], linears: list[dict[str, Any]]
) -> None:
    """Write what came of pruning a cell; the JSON last, since it says that all is there."""
    write_table(run.tables(key), linears, LINEARS)
    write_json(run.record(key), record)


def evaluate_and_record(
    stages: Stages,
    key: str,
    cell: Cell,
    model: PreTrainedModel,
    evaluation: Evaluation,
    beat: Heartbeat,
) -> None:
    """Measure a pruned model on one task or text and write the result."""
    from jobs.provenance import provenance

    beat(evaluation.name)
    started = time.monotonic()
    scores = _evaluate(stages, cell, model, evaluation)
    identity = evaluation.key(key)
    path = stages.run.evaluation(key, identity)
    rows = [
        {"cell": key, "evaluation": identity, "task": t, "doc_id": d, "metric": m, "value": v}
        for t, d, m, v in scores.outcomes
    ]
    write_table(path.with_suffix(".parquet"), rows, OUTCOMES)
    record = {
        "cell": key,
        "evaluation": identity,
        "kind": evaluation.kind,
        "name": evaluation.name,
        "settings": evaluation.settings,
        **scores.to_json(),
        "seconds": time.monotonic() - started,
        "gpu": provenance()["gpu"],
        "time": time.time(),
    }
    write_json(path, finite(record))


def _evaluate(stages: Stages, cell: Cell, model: PreTrainedModel, evaluation: Evaluation) -> Scores:
    from jobs.evaluation import TaskRunner, corpus_perplexity, row_perplexity

    plan = stages.plan
    if evaluation.kind == "task":
        settings = plan.evaluate
        tokenizer = stages.tokenizer(cell.model)
        runner = TaskRunner(model, tokenizer, settings.max_length, settings.bos)
        return runner.run(
            evaluation.name,
            [task_folder(name) for name in plan.inputs.task_folders[evaluation.name]],
            evaluation.settings["num_fewshot"],
            settings.limit,
            plan.inputs.mirror,
            plan.inputs.demo,
        )
    windows, size, by_row = stages.text_windows(evaluation.name, cell.model)
    if plan.evaluate.bos == "add":
        bos = stages.tokenizer(cell.model).bos_token_id
        windows = [[bos, *window] for window in windows]
    if by_row:
        return row_perplexity(model, evaluation.name, windows)
    return corpus_perplexity(model, evaluation.name, windows, size)
