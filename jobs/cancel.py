"""Cancel a run: `python -m jobs.cancel RUN`. What is done is kept; launching goes on from there."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from cluster.backend import open_backend
from cluster.profile import Profile
from jobs.claims import held
from jobs.files import read_json, write_json
from jobs.run import RunFolder

WAIT_SECONDS = 60.0
"""Time that running cells have to stop, before they are left to it."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.cancel", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder, for example runs/demo")
    run = RunFolder(parser.parse_args(arguments).run)
    if not run.launch.is_file():
        parser.error(f"{run.path} was never launched: it has no launch.json")
    running = held(run.claims)
    stop = {"reason": "cancelled", "cause": "with jobs.cancel", "time": time.time()}
    write_json(run.stop, stop)  # launchers and cells look for it every few seconds
    profile = read_json(run.launch)["profile"]
    if profile["backend"] == "slurm":  # elsewhere the launcher stops what it started
        open_backend(Profile.model_validate(profile), run.path).stop()
    deadline = time.monotonic() + WAIT_SECONDS
    while (left := held(run.claims)) and time.monotonic() < deadline:
        time.sleep(0.5)
    print(f"cancelled: {len(running) - len(left)} running cells stopped; what is done is kept")
    if left:
        print(f"{len(left)} cells have not stopped yet: {', '.join(sorted(left))}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
