"""Settle and collect a run on a cluster when its jobs are over: `python -m jobs.settle RUN`.

The last job of a launch is this one, so that a run ends well when nobody watches: what died is
explained and recorded, what is worth it runs again, and the database is built.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from cluster.backend import open_backend
from cluster.profile import Profile
from cluster.slurm import SlurmBackend
from cluster.squeue import AwayError
from jobs.collect import collect, describe
from jobs.drive import Driver, lead, to_run
from jobs.failures import gave_up
from jobs.files import read_json
from jobs.plan.plan import Plan
from jobs.run import RunFolder
from jobs.work import collect_job


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.settle", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder")
    run = RunFolder(parser.parse_args(arguments).run)
    plan = run.read_plan()
    profile = Profile.model_validate(read_json(run.launch)["profile"])
    with lead(run, profile, lambda: print("a launcher leads this run; waiting for its end")):
        settle(run, plan, profile)
    for file in collect(run, print, compare=True):
        print(describe(run, file), file=sys.stderr)
    return 0


def settle(run: RunFolder, plan: Plan, profile: Profile) -> None:
    """Deal with every job that is over; where others are queued, leave the rest to a later call."""
    cells = {key: plan.cell(key) for key in plan.cells}
    backend = open_backend(profile, run.path)
    state = to_run(run, plan, retry_failed=False)
    state.failed |= {key for key in state.queued if gave_up(run, key)}
    state.queued = [key for key in state.queued if key not in state.failed]
    driver = Driver(run, plan, cells, state, backend)
    driver.start(anew=False)
    while driver.step():
        if isinstance(backend, SlurmBackend) and _goes_on(backend):
            backend.at_last(collect_job(run, plan))
            print(f"{len(backend.live()):,} jobs are queued or running; a later job collects them")
            return
        time.sleep(backend.interval)
    backend.finish()
    print(f"done: {len(state.done):,}, failed: {len(state.failed):,}, left: {len(state.queued):,}")


def _goes_on(backend: SlurmBackend) -> bool:
    """Is there work that has to be waited for?"""
    try:
        return backend.queued() > 0
    except AwayError:
        return False  # ask again


if __name__ == "__main__":
    sys.exit(main())
