"""Fetch what a grid needs into a mirror: `python -m jobs.prefetch grid.yaml --mirror DIR`.

For machines whose jobs have no network: run this where there is one, and launch the grid with
`mirror: DIR`. Fetched are model files, the data files that the grid's datasets and perplexity
texts read, and the datasets of its evaluation tasks, each once and each at one commit, with every
file's hash in `DIR/manifest.json`. What is there already is not fetched again, and a transfer that
broke goes on where it stopped. Exit codes: 0 all is there, 1 a transfer broke, 2 the input was
wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from cluster.yamlfile import InputError
from jobs.claims import take
from jobs.evaluate.taskfiles import DEMO, datasets_of, index_folder, task_index
from jobs.files import disk_error, unwritable
from jobs.mirror.fetching import Fetcher, Wanted
from jobs.plain import plain_console
from jobs.plan.grid import Grid, load_grid
from jobs.plan.gridnames import name_problems
from jobs.plan.planning import plan_grid
from jobs.plan.used import hub_datasets
from prune.model import hub

EXIT_DONE, EXIT_BROKEN, EXIT_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    console = plain_console(highlight=False, soft_wrap=True)
    try:
        grid, file = load_grid(options.grid, options.set)
        problems = list(name_problems(grid))
        if problems:
            raise file.error(problems)
        for name, folder in (("--mirror", options.mirror), ("--out", options.out)):
            if wrong := unwritable(folder):
                raise InputError([f"{name}: {wrong}; give a folder that you may write into"])
        options.mirror.mkdir(parents=True, exist_ok=True)
        mirror = options.mirror.resolve()
        _fetch(grid, options.grid, mirror, options.out, console)
        override = f"mirror={json.dumps(str(mirror))}"
        plan_grid(options.grid, [*options.set, override], options.out)  # as the launch will
    except InputError as error:
        for line in error.lines:
            print(line, file=sys.stderr)
        return EXIT_INPUT
    except OSError as error:
        print(f"{options.grid}: {disk_error(error)}; make it accessible to you", file=sys.stderr)
        return EXIT_INPUT
    except hub.BrokenTransferError as error:
        print(f"{error}; the same command goes on from there", file=sys.stderr)
        return EXIT_BROKEN
    except KeyboardInterrupt:
        print("interrupted: what is fetched is kept; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    console.print(f"all is there; now: python -m jobs.launch {options.grid} --set mirror={mirror}")
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.prefetch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("grid", type=Path, help="the grid file")
    parser.add_argument("--mirror", type=Path, required=True, help="the folder to fetch into")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the grid"
    )
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of runs (runs)")
    return parser


def _fetch(grid: Grid, path: Path, mirror: Path, out: Path, console: Console) -> None:
    """Fetch everything, models first; one process at a time fills a mirror.

    Raises:
        InputError: something cannot be had, with every such thing.
        hub.BrokenTransferError: the network broke.
    """
    base = path.resolve().parent
    claim = take(mirror / ".prefetch")
    while claim is None:
        console.print(f"another prefetch fills {mirror}; waiting for it")
        time.sleep(5)
        claim = take(mirror / ".prefetch")
    with claim:
        fetcher = Fetcher(mirror, console)
        fetcher.fetch([*_models(grid, base), *_datasets(grid, base)], path)
        known = task_index(out / ".fingerprints")
        index = {name: found.folders for name, found in known.items()}
        tasks = [
            t.name for t in grid.evaluate.tasks if t.path is None and index.get(t.name) != [DEMO]
        ]
        unknown = [name for name in tasks if name not in index]
        if unknown:
            raise InputError([f"{path}: unknown tasks: {', '.join(unknown)}"])
        folders = {name: index[name] for name in tasks} | dict(_own_tasks(grid, base))
        if folders:
            from jobs.mirror.fetch_tasks import fetch_tasks

            fetch_tasks(fetcher, folders, path)


def _models(grid: Grid, base: Path) -> list[Wanted]:
    names = [n for n in grid.model if n != "demo" and hub.is_hub_id(n, base)]
    return [Wanted("model", name, None) for name in names]


def _datasets(grid: Grid, base: Path) -> list[Wanted]:
    found = hub_datasets(grid, base)
    return [Wanted("dataset", name, spec) for name, spec in found]


def _own_tasks(grid: Grid, base: Path) -> Iterator[tuple[str, list[str]]]:
    """The user's own tasks that load something from the hub, and the folders of their files."""
    for task in grid.evaluate.tasks:
        file = hub.under(base, task.path or "")
        if task.path is None or not file.is_file():
            continue  # the plan says what is wrong
        folder = file.resolve().parent
        files = index_folder(folder).get(task.name)
        leaves = [str(folder / name) for name in files.files] if files else []
        if any(hub.is_hub_id(repo, folder) for repo, _ in datasets_of(leaves)):
            yield task.name, [str(folder)]


if __name__ == "__main__":
    sys.exit(main())
