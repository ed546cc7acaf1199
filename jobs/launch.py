"""Launch a grid: `python -m jobs.launch grid.yaml`.

Checks everything first, runs what is missing, collects, and prints the results. Exit codes: 0 all
cells done, 1 some failed, 2 the input was wrong and nothing was started.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from rich.console import Console

from cluster.yamlfile import InputError
from jobs.planning import Planned, plan_grid
from jobs.run import RunFolder

EXIT_DONE, EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)  # logs are not 80 columns
    try:
        planned = plan_grid(options.grid, options.set, options.out)
        if not options.dry_run:
            planned = _prepare(planned, options, console)
    except InputError as error:
        for line in error.lines:
            print(line, file=sys.stderr)
        return EXIT_INPUT
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: stop the jobs, keep what is done
        signal.signal(number, signal.default_int_handler)
    try:
        return _launch(planned, options, console)
    except KeyboardInterrupt:
        console.print("interrupted: what is done is kept; the same command goes on from there")
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("grid", type=Path, help="the grid file")
    parser.add_argument("--cluster", default="local", choices=["local"], help="where to run")
    parser.add_argument("--dry-run", action="store_true", help="show the cells, start nothing")
    parser.add_argument("--retry-failed", action="store_true", help="run cells that keep failing")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the grid"
    )
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of runs (runs)")
    return parser


def _prepare(planned: Planned, options: argparse.Namespace, console: Console) -> Planned:
    """Collect or fetch what is not on this machine yet, then plan again with it.

    Raises:
        InputError: something cannot be had.
    """
    from jobs.demo.text import collect
    from jobs.inputs import fetch_missing, uses_demo

    if not planned.unresolved:
        return planned
    if uses_demo(planned.grid):
        with console.status("collecting the demo's text from the installed packages"):
            collect(options.out / "artefacts")
        planned = plan_grid(options.grid, options.set, options.out)
    if planned.unresolved:
        try:
            fetch_missing(planned.grid, planned.plan.inputs, console.print)
        except Exception as error:  # whatever the hub or the network said, the user must know
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            names = ", ".join(sorted(set(planned.unresolved)))
            raise InputError(
                [
                    f"{options.grid}: cannot fetch {names}: {cause}; without internet, set "
                    "`mirror:` to a folder that holds them as <owner>/<name>"
                ]
            ) from error
        planned = plan_grid(options.grid, options.set, options.out)
    return planned


def _launch(planned: Planned, options: argparse.Namespace, console: Console) -> int:
    from cluster.local import LocalBackend
    from jobs import show
    from jobs.drive import drive, to_run

    run = RunFolder(options.out / planned.plan.name)
    state = to_run(run, planned.plan, options.retry_failed)
    if options.dry_run:
        show.dry_run(planned, state, run, console)
        return EXIT_DONE
    backend = LocalBackend()
    console.print(
        f"backend local: {backend.concurrency} processes; {len(state.queued):,} of "
        f"{len(planned.cells):,} cells to run, in {run.path}",
        highlight=False,
        soft_wrap=True,
    )
    run.write_plan(planned.plan)
    with show.Watch(run, planned.cells, console) as watch:
        drive(run, planned.plan, planned.cells, state, backend, watch)
    return _finish(run, state, console)


def _finish(run: RunFolder, state: object, console: Console) -> int:
    from jobs import show
    from jobs.collect import collect
    from jobs.drive import State

    assert isinstance(state, State)
    damaged = collect(run)
    for path in damaged:
        console.print(
            f"left out, since it cannot be read: {path}; delete it and launch again",
            highlight=False,
            soft_wrap=True,
        )
    console.print(show.results_table(run.database, console.width))
    show.failures(run, state, console)
    database = os.path.relpath(run.database)
    console.print(f"\nThe database: {database}. Ask it anything, for example:", highlight=False)
    command = f'python -m analysis.query {database} --sql "{show.example_query(run.database)}"'
    console.print(f"  {command}", highlight=False, soft_wrap=True)
    return EXIT_FAILED if state.failed or damaged else EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
