"""Heartbeats: small files that say how far a cell is, for whoever watches."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from jobs.files import write_json

LEAST_SECONDS = 0.5
"""Time between two writes of the same stage."""


class Heartbeat:
    """The heartbeat of one cell; also measures the time that each stage takes."""

    def __init__(self, path: Path, what: str) -> None:
        """Beat in the file `path`; `what` is the cell's name for people."""
        self.path = path
        self.what = what
        self.stage = ""
        self.done = self.total = 0
        self.seconds: dict[str, float] = {}
        self._since = self._written = time.monotonic()

    def __call__(self, stage: str, done: int = 0, total: int = 0, note: str = "") -> None:
        """Say that `stage` is at `done` of `total` (0 of 0 where it does not count).

        `note` is for people: how fast it is, or a sample of what it makes.
        """
        now = time.monotonic()
        self.done, self.total = done, total
        if stage == self.stage and now - self._written < LEAST_SECONDS:
            return
        if stage != self.stage:
            self.stop()
            self.stage, self._since = stage, now
        self._written = now
        where = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        count = {"stage": stage, "done": done, "total": total, "note": note}
        write_json(self.path, {"what": self.what, **count, **where})

    def stop(self) -> None:
        """End the current stage."""
        if self.stage:
            passed = time.monotonic() - self._since
            self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + passed
            self.stage = ""

    def remove(self) -> None:
        """The cell is over."""
        self.stop()
        self.path.unlink(missing_ok=True)
