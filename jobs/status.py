"""Say how far a run is: `python -m jobs.status RUN`.

Everything but what keeps jobs waiting is read from the files of the run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.claims import held
from jobs.failures import old_failures
from jobs.files import read_json
from jobs.plain import plain_console
from jobs.plan.plan import Plan
from jobs.run import RunFolder, UnreadablePlanError

MOST_RUNNING = 40
"""Running cells that are listed one by one."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.status", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder, for example runs/demo")
    run = RunFolder(parser.parse_args(arguments).run)
    try:
        plan = run.read_plan()
    except (FileNotFoundError, UnreadablePlanError) as error:
        parser.error(str(error))
    console = plain_console()
    states = states_of(run, plan)
    counts = Counter(states.values())
    console.print(f"{plan.name}: {len(states):,} cells", highlight=False)
    for state in ("done", "running", "queued", "failed"):
        console.print(f"{counts[state]:>8,} {state}", highlight=False)
    running = [key for key, state in states.items() if state == "running"]
    table = _running_table(run, running)
    if table.row_count:
        console.print(table)
    _print_failures(run, [key for key, state in states.items() if state == "failed"], console)
    for line in _obstacles(run, counts["queued"]):
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def states_of(run: RunFolder, plan: Plan) -> dict[str, str]:
    """Of every cell: done, running, failed or queued."""
    done, claimed, failed = run.done_cells(plan), held(run.claims), run.failed_cells()

    def state(key: str) -> str:
        if key in done:
            return "done"
        if key in claimed:
            return "running"
        return "failed" if key in failed else "queued"

    return {key: state(key) for key in plan.cells}


def _running_table(run: RunFolder, running: list[str]) -> Table:
    """What is being run, and how far it is; what cells share first."""
    table = Table("cell", "what", "stage", "done", "note", "host", "heard of")
    shared = sorted(path.stem for path in (run.path / "heartbeats").glob("shared-*.json"))
    for key in [*shared, *running[:MOST_RUNNING]]:
        try:
            beat = read_json(run.heartbeat(key))
        except (FileNotFoundError, ValueError):
            continue  # it has just begun or ended
        done = f"{beat['done']}/{beat['total']}" if beat["total"] else ""
        ago = f"{time.time() - beat['time']:.0f} s ago"
        name = "-" if key in shared else key
        where = [beat["stage"], done, beat.get("note", ""), beat["host"], ago]
        table.add_row(name, beat["what"], *where)
    if len(running) > MOST_RUNNING:
        table.add_row(f"... and {len(running) - MOST_RUNNING:,} more")
    return table


def _print_failures(run: RunFolder, failed: list[str], console: Console) -> None:
    latest = [run.failures(key)[-1] for key in failed]
    for signature, count in Counter(f["signature"] for f in latest).most_common():
        example = next(f for f in latest if f["signature"] == signature)
        console.print(f"{count} failed: {example['cause']}", highlight=False)
        if example["log"]:
            console.print(f"    log: {run.path / example['log']}", highlight=False, soft_wrap=True)
    if said := old_failures(run, failed):
        console.print(said, highlight=False, soft_wrap=True)


def _obstacles(run: RunFolder, queued: int) -> list[str]:
    """Why cells that are left do not start: the run was stopped, or the cluster says."""
    stop = run.read_stop()
    if stop is not None and queued:
        return [f"{stop['reason']}: {stop['cause']}; launch again to run what is left"]
    try:
        launch: dict[str, Any] = read_json(run.launch)
    except (FileNotFoundError, ValueError):  # never launched, or damaged: nothing to ask Slurm for
        launch = {}
    if not queued or launch.get("profile", {}).get("backend") != "slurm":
        return []
    from cluster.squeue import AwayError, queue, stuck

    try:
        entries = queue(f"calgrid-{run.path.name}")
    except AwayError as error:
        return [f"Slurm does not answer: {error}"]
    live = Counter(entry.state.lower() for entry in entries.values() if entry.live)
    counts = ", ".join(f"{n:,} {state}" for state, n in live.most_common())
    said = stuck(entries)
    return [f"in Slurm's queue: {counts or 'nothing; launch again to run what is left'}"] + (
        [said] if said else []
    )


if __name__ == "__main__":
    sys.exit(main())
