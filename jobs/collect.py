"""Merge the records of a run into its database: `python -m jobs.collect RUN`.

The database is updated on local disk from the immutable record files and renamed into place, so
collecting twice gives the same, and readers always see a whole database. It can be deleted: the
next collection builds it again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from jobs.claims import take
from jobs.files import disk_error, replacing
from jobs.run import RunFolder, UnreadablePlanError
from jobs.store import comparisons, merge
from jobs.store.readback import Damaged, Damages

POLL_SECONDS = 0.2


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 1 where a record had to be set aside."""
    parser = argparse.ArgumentParser(prog="python -m jobs.collect", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder, for example runs/demo")
    run = RunFolder(parser.parse_args(arguments).run)
    try:
        damaged = collect(run, lambda line: print(line, file=sys.stderr, flush=True), compare=True)
    except OSError as error:
        parser.error(disk_error(error))
    except UnreadablePlanError as error:
        parser.error(str(error))
    for file in damaged:
        print(describe(run, file), file=sys.stderr)
    print(run.database)
    return 1 if damaged else 0


def describe(run: RunFolder, damaged: Damaged) -> str:
    """What a person is told of a damaged file."""
    return (
        f"set aside, since it cannot be read: {run.path / damaged.file} ({damaged.reason}); it is "
        f"in {run.path / 'damaged'} now, and launching the grid again computes what is missing"
    )


def collect(
    run: RunFolder, say: Callable[[str], None] = lambda line: None, compare: bool = False
) -> list[Damaged]:
    """Bring the database of a run up to date with its records.

    Args:
        run: the run.
        say: told who holds the database, where another collector does; and what is left out.
        compare: is the table `comparisons` to be filled? Else it is empty after a change.

    Returns:
        The damaged files. They are set aside, and nothing else is left out.

    Raises:
        FileNotFoundError: this is no run folder.
        UnreadablePlanError: its plan cannot be read.
        OSError: a file cannot be read at the moment, or a disk is full; the database stays
            as it was.
    """
    plan = run.read_plan()
    with _only_collector(run, say):
        state = merge.state_of(run, plan)
        if merge.is_current(run.database, state, compare):
            return []
        damages = Damages(run)
        with tempfile.TemporaryDirectory(prefix="calgrid-") as scratch:
            built = Path(scratch) / run.database.name
            if run.database.is_file():
                shutil.copyfile(run.database, built)
            try:
                merge.update(built, run, plan, damages, state)
            except (duckdb.IOException, duckdb.FatalException) as error:  # its disk is full
                raise OSError(f"{scratch}: {str(error).split(chr(10), 1)[0]}") from error
            if compare and (problem := comparisons.refill(built, Path(scratch))):
                say(problem)
            _put_into_place(built, run.database)
    return damages.found


@contextmanager
def _only_collector(run: RunFolder, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the right to write the database; waits for whoever has it, and says who that is."""
    path = run.path / "collector"
    said = None
    while (claim := take(path)) is None:
        holder = _holder(path)
        if holder not in (None, said):
            say(f"waiting for another collector of this run: {holder}")
            said = holder
        time.sleep(POLL_SECONDS)
    with claim:
        yield


def _holder(path: Path) -> str | None:
    """Who holds a claim; None where it was released, is just being written, or is damaged."""
    try:
        owner = json.loads(path.read_text("utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _put_into_place(built: Path, database: Path) -> None:
    """Copy a finished database beside its place, then rename; readers keep the one they have."""
    for left in database.parent.glob(f"{database.name}.*.partial"):
        left.unlink()  # of a collector that was killed: this one alone writes now
    with replacing(database) as partial:
        shutil.copyfile(built, partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
    database.with_name(database.name + ".wal").unlink(missing_ok=True)  # of the database before


if __name__ == "__main__":
    sys.exit(main())
