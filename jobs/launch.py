"""Launch a grid: `python -m jobs.launch grid.yaml`.

Checks everything first, runs what is missing, collects, and prints the results. Exit codes: 0 all
cells done, 1 some failed, 2 the input was wrong and nothing was started.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cluster.profile import Profile, default_name, load_profile
from cluster.yamlfile import InputError
from jobs.evaluate.taskfiles import DEMO
from jobs.files import FULL, disk_error, unwritable, write_json
from jobs.plain import plain_console
from jobs.plan.planning import Planned, plan_grid
from jobs.run import RunFolder

EXIT_DONE, EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    console = plain_console()
    name = options.cluster or default_name()
    try:
        profile = load_profile(name)
        planned = _plan(options)
        if not options.dry_run:
            planned = _prepare(planned, options, console)
            _check_place(planned, profile, options, console)
        if profile.backend == "docker":
            _separate(planned)
    except InputError as error:
        return _refuse(error.lines)
    except OSError as error:
        return _refuse([f"{options.grid}: {_told(error)}"])
    _heed_signals()
    for notice in planned.notices:
        console.print(f"note: {notice}", highlight=False, soft_wrap=True)
    run = RunFolder(options.out / planned.plan.name)
    if options.dry_run:
        _dry_run(run, planned, profile, options, console)
        return EXIT_DONE
    try:
        _write_launch(run, planned, profile)
    except OSError as error:
        return _refuse([f"{options.grid}: {_told(error)}"])
    if options.detach and profile.backend != "slurm":
        return _detach(run, arguments or sys.argv[1:], console)
    try:
        return _launch(run, planned, profile, options, console)
    except KeyboardInterrupt:
        said = "the jobs go on without this command; see jobs.status, jobs.cancel"
        if profile.backend != "slurm":
            said = "what is done is kept; the same command goes on from there"
        console.print(f"interrupted: {said}", highlight=False, soft_wrap=True)
        return EXIT_INTERRUPTED
    except InputError as error:  # what only the cluster itself could tell: nothing was submitted
        return _refuse(error.lines)


def _heed_signals() -> None:
    """Take what ends a program as Ctrl-C: stop the jobs, keep what is done.

    What is ignored stays so: with `nohup`, a launch outlives its terminal.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def _refuse(lines: list[str]) -> int:
    print("\n".join(lines), file=sys.stderr)
    return EXIT_INPUT


def _told(error: OSError) -> str:
    """What a disk refused, and what to do; raises what is no file's, and not to be told as one."""
    if error.errno in FULL:
        return f"{disk_error(error)}; make room there"
    if error.filename is None:
        raise error
    return f"{disk_error(error)}; make it accessible to you"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("grid", type=Path, help="the grid file")
    parser.add_argument(
        "--cluster",
        metavar="PROFILE",
        help="where to run: local, docker, slurm, or a profile file (slurm where there is one)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the cells, and with --cluster the exact scripts; start nothing",
    )
    parser.add_argument("--detach", action="store_true", help="start, and do not wait")
    parser.add_argument("--retry-failed", action="store_true", help="run cells that keep failing")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the grid"
    )
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of runs (runs)")
    return parser


def _plan(options: argparse.Namespace) -> Planned:
    """The plan of the grid, once it is clear that its results can be written.

    Raises:
        InputError: they cannot, or the grid is wrong.
    """
    out: Path = options.out
    for folder in (out, out / ".fingerprints", out / "artefacts"):
        _check_writable(folder)
    planned = plan_grid(options.grid, options.set, out)
    _check_writable(out / planned.plan.name)
    return planned


def _check_writable(folder: Path) -> None:
    if wrong := unwritable(folder):
        raise InputError([f"--out: {wrong}; give a folder of runs that you may write into"])


def _prepare(planned: Planned, options: argparse.Namespace, console: Console) -> Planned:
    """Collect or fetch what is not on this machine yet, then plan again with it.

    Raises:
        InputError: something cannot be had.
    """
    from jobs.demo.text import collect
    from jobs.mirror.fetch_missing import fetch_missing
    from jobs.plan.used import uses_demo

    if not planned.unresolved:
        return planned
    if uses_demo(planned.grid):
        with console.status("collecting the demo's text from the installed packages"):
            collect(options.out / "artefacts")
        planned = plan_grid(options.grid, options.set, options.out)
    if planned.unresolved:
        try:
            pools = options.out / "artefacts" / "pools"
            fetch_missing(planned.plan.inputs, pools, console.print)
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


def _separate(planned: Planned) -> None:
    """Give every cell a container of its own, whatever the grid shares elsewhere for speed."""
    resources = planned.plan.resources
    if resources.cells_per_job > 1:
        planned.plan.resources = resources.model_copy(update={"cells_per_job": 1})
        planned.notices.append(
            f"resources.cells_per_job: {resources.cells_per_job} is not for backend docker, where "
            "each cell has a container of its own"
        )


def _dry_run(
    run: RunFolder,
    planned: Planned,
    profile: Profile,
    options: argparse.Namespace,
    console: Console,
) -> None:
    from cluster.backend import open_backend
    from jobs import answers, show
    from jobs.drive import to_run
    from jobs.work import jobs_for

    state = to_run(run, planned.plan, options.retry_failed)
    show.dry_run(planned, state, run, console)
    _say(console, answers.smallest_gap(planned.cells.values(), planned.grid.compare))
    if options.cluster:
        backend = open_backend(profile, run.path)
        cells = {key: planned.cells[key] for key in state.queued}
        for text in backend.preview(jobs_for(run, planned.plan, cells, backend.slots)):
            print(text)


def _write_launch(run: RunFolder, planned: Planned, profile: Profile) -> None:
    """Put down what is launched, for the jobs and for whoever settles the run later."""
    run.write_plan(planned.plan)
    who = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    write_json(run.launch, {"profile": profile.model_dump(), **who})
    run.stop.unlink(missing_ok=True)


def _detach(run: RunFolder, arguments: list[str], console: Console) -> int:
    """Start this very command in the background, for backends whose jobs need a launcher."""
    log = run.log("launch")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "jobs.launch", *(a for a in arguments if a != "--detach")]
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    _say_left(run, console, f"started as process {process.pid}; its log: {log}")
    return EXIT_DONE


def _say_left(run: RunFolder, console: Console, how: str) -> None:
    where = os.path.relpath(run.path)
    console.print(f"{how}\nsee `python -m jobs.status {where}`", highlight=False, soft_wrap=True)


def _check_place(
    planned: Planned, profile: Profile, options: argparse.Namespace, console: Console
) -> None:
    """See that jobs can run where they shall, before anything is written.

    Raises:
        InputError: they cannot.
    """
    from cluster.backend import open_backend

    container, inputs = profile.container, planned.plan.inputs
    offline = container.runtime != "none" and not container.network
    asking = [t.name for t in planned.grid.evaluate.tasks if inputs.tasks[t.name].folders != [DEMO]]
    if offline and inputs.mirror is None and asking:
        grid = options.grid
        raise InputError(
            [
                f"{grid}: the datasets of {', '.join(asking)} are on the hub, and containers have "
                f"no network; run `python -m jobs.prefetch {grid} --mirror DIR` and set "
                "mirror: DIR, or set container.network: true in the profile"
            ]
        )
    run = options.out / planned.plan.name
    open_backend(profile, run.resolve()).prepare(lambda line: _plain(console, line))


def _launch(
    run: RunFolder,
    planned: Planned,
    profile: Profile,
    options: argparse.Namespace,
    console: Console,
) -> int:
    from cluster.backend import open_backend
    from jobs import show
    from jobs.drive import Driver, drive, lead, to_run

    with lead(run, profile, lambda: console.print("another launch leads this run; waiting for it")):
        backend = open_backend(profile, run.path)
        backend.prepare(lambda line: _plain(console, line))
        state = to_run(run, planned.plan, options.retry_failed)
        console.print(
            f"backend {profile.backend}: {backend.describe()}; {len(state.queued):,} of "
            f"{len(planned.cells):,} cells to run, in {run.path}",
            highlight=False,
            soft_wrap=True,
        )
        if options.detach:
            Driver(run, planned.plan, planned.cells, state, backend).start()
            _say_left(run, console, f"{len(backend.live()):,} jobs are queued or running")
            return EXIT_DONE
        with show.Watch(run, planned.cells, console) as watch:
            drive(run, planned.plan, planned.cells, state, backend, watch)
    return _finish(run, state, console)


def _plain(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


def _say(console: Console, text: str) -> None:
    """Print an answer as it is, where there is one."""
    if text:
        _plain(console, text)


def _finish(run: RunFolder, state: object, console: Console) -> int:
    from jobs import answers, show
    from jobs.collect import collect, describe
    from jobs.drive import State

    assert isinstance(state, State)
    try:
        damaged = collect(run, console.print, compare=True)
    except OSError as error:
        again = f"python -m jobs.collect {shlex.quote(os.path.relpath(run.path))}"
        print(
            f"not collected: {disk_error(error)}; what is done is kept, and `{again}` collects it",
            file=sys.stderr,
        )
        return EXIT_FAILED
    for file in damaged:
        _say(console, describe(run, file))
    _say(console, answers.headline(run.database))
    console.print(show.results_table(run.database, console.width))
    for warning in show.warnings(run.database):
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    show.failures(run, state, console)
    stop = run.read_stop()
    if stop is not None:
        console.print(Text.assemble((stop["reason"], "red"), f": {stop['cause']}"))
        console.print(f"    {len(state.queued):,} cells were not run; launch again to run them")
    database = os.path.relpath(run.database)
    console.print(f"\nThe database: {database}. Ask it anything, for example:", highlight=False)
    sql = re.sub(
        r'([\\"$`])', r"\\\1", show.example_query(run.database)
    )  # within quotes of a shell
    command = f'python -m analysis.query {shlex.quote(database)} --sql "{sql}"'
    console.print(f"  {command}", highlight=False, soft_wrap=True)
    return EXIT_FAILED if state.failed or state.queued or damaged else EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
