"""Records: the immutable files that say what came of a cell and of each of its evaluations."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet

from jobs.evaluate.gate import ReferenceValueError, deviation
from jobs.evaluate.scores import Metric
from jobs.files import finite, read_json, replacing, write_json
from jobs.heartbeat import Heartbeat
from jobs.plan.cells import Cell
from jobs.plan.plan import Evaluation
from jobs.run import RunFolder
from prune.recipe import DENSE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from jobs.stages.calibration import Stages

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
    table = pyarrow.Table.from_pylist(rows, schema=schema)
    with replacing(path) as partial:
        pyarrow.parquet.write_table(table, partial, compression="zstd")


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
    """Measure a pruned model on one task or text and write the result.

    A dense model is measured once for all runs that share artefacts: its key says nothing of a
    run, so neither does its result.

    Raises:
        ReferenceValueError: a dense figure is not what is known of the model, and the grid wants
            that refused.
    """
    beat(evaluation.name)

    def measure(folder: Path) -> None:
        _measure(stages, key, cell, model, evaluation, folder)

    if cell.recipe.name == DENSE:
        baseline = stages.artefact("baselines", evaluation.key(key), measure)
        notes = _pass_gate(stages, cell, evaluation, baseline)
        _publish(baseline, stages.run, key, evaluation, notes)
        return
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch))
        _publish(Path(scratch), stages.run, key, evaluation, {})


def _pass_gate(
    stages: Stages, cell: Cell, evaluation: Evaluation, baseline: Path
) -> dict[str, str]:
    """Compare a dense figure with what is known of its model; what to note of that."""
    metrics = [Metric(**m) for m in read_json(baseline / "record.json")["metrics"]]
    wrong = deviation(cell.model, evaluation, metrics)
    if wrong is None:
        return {}
    if stages.plan.evaluate.gate == "refuse":
        raise ReferenceValueError(f"{wrong} (evaluate.gate: warn goes on all the same)")
    print(f"warning: {wrong}", file=sys.stderr, flush=True)
    return {"reference": wrong}


def _measure(
    stages: Stages,
    key: str,
    cell: Cell,
    model: PreTrainedModel,
    evaluation: Evaluation,
    folder: Path,
) -> None:
    """Write what an evaluation gives into `folder`: `record.json`, `outcomes.parquet`."""
    from jobs.provenance import provenance
    from jobs.stages.evaluate import evaluate

    started = time.monotonic()
    scores = evaluate(stages, cell, model, evaluation)
    identity = evaluation.key(key)
    rows = [
        {"cell": key, "evaluation": identity, "task": t, "doc_id": d, "metric": m, "value": v}
        for t, d, m, v in scores.outcomes
    ]
    write_table(folder / "outcomes.parquet", rows, OUTCOMES)
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
    write_json(folder / "record.json", finite(record))


def _publish(
    folder: Path, run: RunFolder, key: str, evaluation: Evaluation, notes: dict[str, str]
) -> None:
    """Write an evaluation into the run, with more notes; the JSON last: it says that all is there.

    A baseline may come from a run that has another name for its text; it gets this run's.
    """
    path = run.evaluation(key, evaluation.key(key))
    record = read_json(folder / "record.json")
    rows = pyarrow.parquet.read_table(folder / "outcomes.parquet").to_pylist()
    before, name = record["name"], evaluation.name
    for item in (*record["metrics"], *rows):
        item["task"] = name if item["task"] == before else item["task"]
    write_table(path.with_suffix(".parquet"), rows, OUTCOMES)
    write_json(path, record | {"name": name, "notes": record["notes"] | notes})
