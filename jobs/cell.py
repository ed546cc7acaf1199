"""Run cells in this process: `python -m jobs.cell RUN CELL...`.

A cell is: calibration set, similarity, pruning, evaluation, record. What is there already is not
computed again; what fails is kept as a failure with its cause, and the next cell goes on.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from jobs.claims import take
from jobs.heartbeat import Heartbeat
from jobs.run import Plan, RunFolder

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.cell", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder, for example runs/demo")
    parser.add_argument("cell", nargs="+", help="keys of cells, as the database names them")
    options = parser.parse_args(arguments)
    run = RunFolder(options.run)
    try:
        plan = run.read_plan()
    except FileNotFoundError as error:
        parser.error(str(error))
    unknown = [key for key in options.cell if key not in plan.cells]
    if unknown:
        parser.error(f"not in the grid of this run: {', '.join(unknown)}; see {run.path}/plan.json")
    _quiet_libraries(plan, run)
    failed = [key for key in options.cell if not attempt_cell(run, plan, key)]
    return EXIT_FAILED if failed else 0


def attempt_cell(run: RunFolder, plan: Plan, key: str) -> bool:
    """Run one cell unless it is done or claimed; keeps a failure. False where it failed."""
    claim = take(run.claim(key))
    if claim is None:
        print(f"cell {key} is being run by another process; left to it", flush=True)
        return True
    with claim:
        beat = Heartbeat(run.heartbeat(key))
        print(f"cell {key}: {plan.cell(key).label()}", flush=True)
        try:
            if not run.is_done(plan, key):
                run_cell(run, plan, key, beat)
        except Exception as error:
            failure = describe_failure(error, beat.stage)
            path = run.write_failure(key, failure)
            traceback.print_exc()
            print(f"cell {key} failed: {failure['cause']} ({path})", file=sys.stderr, flush=True)
            return False
        finally:
            beat.remove()
    return True


def run_cell(run: RunFolder, plan: Plan, key: str, beat: Heartbeat) -> None:
    """The whole experiment: text to calibration set to pruned model to scores, each recorded."""
    from jobs.prune_stage import kept_model, prune_and_record
    from jobs.records import evaluate_and_record
    from jobs.stages import Stages, free_memory

    cell = plan.cell(key)
    stages = Stages(run, plan, beat)
    recorded = run.record(key).is_file() and run.is_kept(plan, key)
    model = kept_model(stages, key) if recorded else None
    if model is None:
        model = prune_and_record(stages, key, cell, beat)
    for evaluation in run.missing_evaluations(plan, key):
        evaluate_and_record(stages, key, cell, model, evaluation, beat)
    del model
    free_memory()


def describe_failure(error: Exception, stage: str) -> dict[str, Any]:
    """What a failure record says: the cause in one line, its signature, and the whole trace."""
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    return {
        "kind": "error",
        "stage": stage,
        "cause": cause,
        "signature": f"{stage}: {type(error).__name__}",
        "traceback": "".join(traceback.format_exception(error)),
        "time": time.time(),
        "log": os.environ.get("CALGRID_LOG"),
    }


def peak_memory_bytes() -> int:
    """The most memory this process held so far: of the GPU where it has one, else its own."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _quiet_libraries(plan: Plan, run: RunFolder) -> None:
    """No progress bars in logs; no network where a mirror stands for it; caches beside the runs."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_CACHE", str(run.artefacts / "datasets-cache"))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if plan.inputs.mirror is not None:
        os.environ["HF_HUB_OFFLINE"] = "1"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
