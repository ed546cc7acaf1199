"""Run cells in this process: `python -m jobs.cell RUN CELL...`.

A cell is: calibration set, similarity, pruning, evaluation, record. What is there already is not
computed again; what fails is kept as a failure with its cause, and the next cell goes on. With
`--check` a finished cell is computed anew beside its results, and every difference is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.caches import compile_caches
from cluster.code import code_hash
from cluster.driver import misfit
from jobs.claims import take
from jobs.failures import record_failure, worth_another
from jobs.files import is_disk_error
from jobs.heartbeat import Heartbeat
from jobs.plan.plan import Plan
from jobs.run import RunFolder, UnreadablePlanError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""What asks a cell to stop: Ctrl-C, the end of a job, and Slurm's word that time is nearly up. They
count even where they are ignored, as a launch in the background of a script leaves SIGINT to its
jobs: it stops them with it.
"""

MOST_LETTERS = 200
"""Of a cause, by which failures are told apart."""

WATCH_SECONDS = 5.0
"""Time between two looks at whether somebody cancelled the run."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.cell", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder, for example runs/demo")
    parser.add_argument("cell", nargs="+", help="keys of cells, as the database names them")
    parser.add_argument(
        "--check", action="store_true", help="compute finished cells again and compare"
    )
    options = parser.parse_args(arguments)
    run = RunFolder(options.run)
    try:
        plan = run.read_plan()
    except (FileNotFoundError, UnreadablePlanError) as error:
        parser.error(str(error))
    unknown = [key for key in options.cell if key not in plan.cells]
    if unknown:
        parser.error(f"not in the grid of this run: {', '.join(unknown)}; see {run.path}/plan.json")
    quiet_libraries(plan, run)
    if options.check:
        from jobs.check import check

        return EXIT_FAILED if sum(check(run, plan, key) for key in options.cell) else 0
    failed = []
    with stopping(run):
        for key in options.cell:
            if (stop := run.read_stop()) is not None:
                print(f"the run was {stop['reason']}; cell {key} is left for later", flush=True)
                break
            if not attempt_cell(run, plan, key):
                failed.append(key)
    return EXIT_FAILED if failed else 0


@contextmanager
def stopping(run: RunFolder) -> Iterator[None]:
    """Turn every way of asking this process to stop into one KeyboardInterrupt."""

    def interrupt(number: int, frame: object) -> None:
        for other in STOP_SIGNALS:  # a second one must not disturb what the first one set off
            signal.signal(other, signal.SIG_IGN)
        print(f"asked to stop ({signal.Signals(number).name})", flush=True)
        raise KeyboardInterrupt

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            stop = run.read_stop()
            if stop is not None and stop["reason"] == "cancelled":
                os.kill(os.getpid(), signal.SIGTERM)
                return

    over = threading.Event()
    before = {number: signal.signal(number, interrupt) for number in STOP_SIGNALS}
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def attempt_cell(run: RunFolder, plan: Plan, key: str) -> bool:
    """Run one cell unless it is done or claimed; keeps a failure. False where it failed."""
    claim = take(run.claim(key))
    if claim is None:
        print(f"cell {key} is being run by another process; left to it", flush=True)
        return True
    with claim:
        label = plan.label(key)
        beat = Heartbeat(run.heartbeat(key), label)
        print(f"cell {key}: {label}", flush=True)
        try:
            if not run.is_done(plan, key):
                run_cell(run, plan, key, beat)
        except Exception as error:
            failure = describe_failure(error, beat)
            path = record_failure(run, key, failure)
            traceback.print_exc()
            print(f"cell {key} failed: {failure['cause']} ({path})", file=sys.stderr, flush=True)
            return False
        except KeyboardInterrupt:
            if not _is_late():
                raise
            path = record_failure(run, key, _describe_timeout(plan, beat))
            print(f"cell {key} ran out of time ({path})", file=sys.stderr, flush=True)
            if worth_another(run, key):
                raise
            sys.exit(EXIT_FAILED)
        finally:
            beat.remove()
    return True


def run_cell(run: RunFolder, plan: Plan, key: str, beat: Heartbeat) -> None:
    """The whole experiment: text to calibration set to pruned model to scores, each recorded."""
    import torch

    from jobs.stages.calibration import Stages, free_memory
    from jobs.stages.dataset import describe_datasets
    from jobs.stages.prune import kept_model, prune_and_record
    from jobs.stages.similarity import cell_figures
    from jobs.store.records import evaluate_and_record

    contained = "CALGRID_IMAGE" in os.environ
    if (contained or torch.version.cuda) and (problem := misfit(torch.version.cuda)):
        raise RuntimeError(problem)
    cell = plan.cell(key)
    stages = Stages(run, plan, beat)
    recorded = run.is_recorded(key) and run.is_kept(plan, key)
    if recorded and cell.draw is not None:  # what is missing of its text is made
        drawn, calibration = stages.calibration(cell.draw, cell.model)
        cell_figures(
            stages, cell.draw, cell.model, drawn, calibration, lambda: stages.load(cell.model)
        )
        describe_datasets(stages, cell)
    if recorded and not run.missing_evaluations(plan, key):
        return
    model = kept_model(stages, key) if recorded else None
    if model is None:
        model = prune_and_record(stages, key, cell, beat)
    for evaluation in run.missing_evaluations(plan, key):
        evaluate_and_record(stages, key, cell, model, evaluation, beat)
    shutil.rmtree(run.checkpoints(key), ignore_errors=True)
    del model
    free_memory()


def describe_failure(error: Exception, beat: Heartbeat) -> dict[str, Any]:
    """What a failure record says: the cause in one line, its signature, and the whole trace."""
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    return {
        "kind": "disk" if is_disk_error(error) else "error",
        "cause": cause,
        "signature": f"{beat.stage}: {alike(cause)}",
        "traceback": "".join(traceback.format_exception(error)),
        **_where(beat),
    }


def alike(cause: str) -> str:
    """What causes have in common that differ in paths, quoted names, and numbers alone."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|[\w.~-]*(?:/[\w.@+-]+)+|\d[\d.,]*", "_", cause)[
        :MOST_LETTERS
    ]


def _describe_timeout(plan: Plan, beat: Heartbeat) -> dict[str, Any]:
    minutes = plan.resources.timeout_min
    place = f"{beat.stage} ({beat.done} of {beat.total})" if beat.total else beat.stage
    cause = f"the job's {minutes} minutes were over in stage {place}; raise resources.timeout_min"
    return {
        "kind": "timeout",
        "cause": cause,
        "signature": f"timeout: {beat.stage}",
        **_where(beat),
    }


def _where(beat: Heartbeat) -> dict[str, Any]:
    """Where a cell was, in which job, and when."""
    return {
        "stage": beat.stage,
        "done": beat.done,
        "total": beat.total,
        "time": time.time(),
        "log": os.environ.get("CALGRID_LOG"),
        "job": os.environ.get("CALGRID_JOB"),
    }


def _is_late() -> bool:
    """Is this job so near its time limit that this is why it was asked to stop?"""
    late = os.environ.get("CALGRID_LATE")
    return late is not None and time.time() >= float(late)


def peak_memory_bytes() -> int:
    """The most memory this process held so far: of the GPU where it has one, else its own."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def quiet_libraries(plan: Plan, run: RunFolder) -> None:
    """No progress bars in logs; no network where a mirror stands for it; caches beside the runs.

    Ends the process where an image holds other code than the launcher: before anything is computed.
    """
    if problem := code_problem():
        sys.exit(problem)
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_CACHE", str(run.artefacts / "datasets-cache"))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRITON_CACHE_DIR", str(run.artefacts / "kernels"))
    if plan.inputs.mirror is not None:
        os.environ["HF_HUB_OFFLINE"] = "1"
    words = {str(folder) for task in plan.inputs.tasks.values() for folder in task.words}
    if words:
        os.environ["NLTK_DATA"] = os.pathsep.join(sorted(words))
    scratch = os.environ.get("CALGRID_SCRATCH")
    base = Path(scratch) if scratch else run.artefacts
    for name, folder in compile_caches(base / "compiled").items():
        os.environ.setdefault(name, folder)


def code_problem() -> str | None:
    """Why this image must not run a job of the launcher's; None where their code is the same."""
    wanted = os.environ.get("CALGRID_CODE")
    if wanted is None or wanted == code_hash():
        return None
    image = os.environ.get("CALGRID_IMAGE")
    return f"the image {image} holds other code than the launcher: build it anew"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
