"""Say how far a run is: `python -m jobs.status RUN`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jobs.claims import is_held
from jobs.files import read_json
from jobs.run import Plan, RunFolder


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.status", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder, for example runs/demo")
    run = RunFolder(parser.parse_args(arguments).run)
    try:
        plan = run.read_plan()
    except FileNotFoundError as error:
        parser.error(str(error))
    console = Console()
    states = {key: state_of(run, plan, key) for key in plan.cells}
    counts = Counter(states.values())
    console.print(f"{plan.name}: {len(states):,} cells", highlight=False)
    for state in ("done", "running", "queued", "failed"):
        console.print(f"{counts[state]:>8,} {state}", highlight=False)
    running = [key for key, state in states.items() if state == "running"]
    if running:
        console.print(_running_table(run, plan, running))
    _print_failures(run, [key for key, state in states.items() if state == "failed"], console)
    return 0


def state_of(run: RunFolder, plan: Plan, key: str) -> str:
    """done, running, failed or queued."""
    if run.is_done(plan, key):
        return "done"
    if is_held(run.claim(key)):
        return "running"
    return "failed" if run.failures(key) else "queued"


def _running_table(run: RunFolder, plan: Plan, running: list[str]) -> Table:
    table = Table("cell", "what", "stage", "done", "host", "heard of")
    for key in running:
        try:
            beat = read_json(run.heartbeat(key))
        except FileNotFoundError:
            continue  # it has just begun or ended
        done = f"{beat['done']}/{beat['total']}" if beat["total"] else ""
        ago = f"{time.time() - beat['time']:.0f} s ago"
        table.add_row(key, plan.cell(key).label(), beat["stage"], done, beat["host"], ago)
    return table


def _print_failures(run: RunFolder, failed: list[str], console: Console) -> None:
    latest = [run.failures(key)[-1] for key in failed]
    for signature, count in Counter(f["signature"] for f in latest).most_common():
        example = next(f for f in latest if f["signature"] == signature)
        console.print(f"{count} failed: {example['cause']}", highlight=False)
        if example["log"]:
            console.print(f"    log: {run.path / example['log']}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
