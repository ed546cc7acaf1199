"""Failures: the record of each, which of them are worth another attempt, and when to hold a run."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster.backend import Ended
from jobs.files import write_json
from jobs.run import RunFolder

REPEATS = 2
"""A cell that failed so many times in the same way is not tried again by itself."""

LOST_TRIES = 3
"""Lost work is done again by itself, unless its nodes are lost so many times."""

IN_A_ROW = 5
"""Cells that fail alike one after another before the run is held."""

NOT_ITS_OWN = ("killed", "lost", "cancelled", "disk")
"""Kinds of failure that say nothing of the cell."""

MORE_MEMORY = 2
"""By how much the memory is raised after a job was killed for want of it."""


def record_failure(run: RunFolder, key: str, failure: dict[str, Any]) -> Path:
    """Keep a failed attempt; holds the run where the same failure hits one cell after another."""
    path = run.write_failure(key, {"time": time.time(), **failure})
    if failure["kind"] not in ("lost", "cancelled") and (alike := _in_a_row(run)):
        cause = f"{len(alike)} cells in a row failed alike: {failure['cause']}"
        log = failure.get("log")
        stop = {"reason": "held", "cause": cause, "log": log, "cells": alike, "time": time.time()}
        write_json(run.stop, stop)
    return path


def _in_a_row(run: RunFolder) -> list[str]:
    """The cells that failed alike since anything else came of this launch; empty if they are few.

    Looks at times of files only, and reads the newest failures.
    """
    launched = run.launch.stat().st_mtime if run.launch.is_file() else 0.0
    finished = max(
        (e.stat().st_mtime for f in ("cells", "evaluations") for e in _entries(run.path / f)),
        default=0.0,
    )
    since = max(launched, finished)
    newest = sorted(
        (
            (t, e.name)
            for e in _entries(run.path / "failures")
            if e.name.endswith(".json") and (t := e.stat().st_mtime) > since
        ),
        reverse=True,
    )
    alike: dict[str, str] = {}
    for _, name in newest:
        failure = run.read_failure(run.path / "failures" / name)
        if failure["kind"] in ("lost", "cancelled"):
            continue
        alike.setdefault(failure["cell"], failure["signature"])
        if len(set(alike.values())) > 1:
            return []
        if len(alike) == IN_A_ROW:
            return list(alike)
    return []


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except FileNotFoundError:
        return []


def keeps_failing(run: RunFolder, key: str) -> bool:
    """Did the latest attempts end in the same way? What is not the cell's own does not count."""
    own = [f for f in run.failures(key) if f["kind"] not in NOT_ITS_OWN][-REPEATS:]
    return len(own) == REPEATS and len({f["signature"] for f in own}) == 1


def old_failures(run: RunFolder, keys: Iterable[str]) -> str:
    """What to say of cells that keep failing and were not tried by the latest launch, if any."""
    launched = run.launch.stat().st_mtime if run.launch.is_file() else math.inf
    count = 0
    for key in keys:
        attempts = len(run.failures(key))
        old = attempts and run.failure(key, attempts).stat().st_mtime < launched
        count += bool(old and keeps_failing(run, key))
    if not count:
        return ""
    return f"{count:,} of these failed twice alike and were not tried again; --retry-failed does"


def worth_another(run: RunFolder, key: str) -> bool:
    """Shall a cell that just failed be run again in the same launch?

    Lost work is, up to a number of times; once what was killed for memory, with more of it; and
    what ran out of time, unless it stopped where it had stopped before.
    """
    failures = run.failures(key)
    latest = failures[-1]
    alike = [f for f in failures if f["kind"] == latest["kind"]]
    if latest["kind"] == "lost":
        return len(alike) < LOST_TRIES
    if latest["kind"] == "memory":
        return len(alike) == 1
    if latest["kind"] == "timeout":
        return len(alike) == 1 or _advanced(alike[-2], latest)
    return False


def unbegun_losses(run: RunFolder, key: str) -> int:
    """How often a cell was lost before it had begun, if that is what happened to it last."""
    failures = [f["kind"] == "lost" and f["stage"] is None for f in run.failures(key)]
    return sum(failures) if failures[-1:] == [True] else 0


def gave_up(run: RunFolder, key: str) -> bool:
    """Did a cell fail since the run was launched, so that nobody tries it again by themselves?"""
    attempts = len(run.failures(key))
    if not attempts or worth_another(run, key):
        return False
    return run.failure(key, attempts).stat().st_mtime >= run.launch.stat().st_mtime


def _advanced(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Did an attempt that ran out of time get further than the one before?"""
    if before["stage"] != after["stage"]:
        return True
    total = after.get("total") or 0
    return (after.get("done") or 0) - (before.get("done") or 0) > total / 10


def memory_gb(run: RunFolder, key: str, asked: int) -> int:
    """The memory to ask for: more than the grid's where a job of the cell was killed for it."""
    killed = any(f["kind"] == "memory" for f in run.failures(key))
    return asked * MORE_MEMORY if killed else asked


def death(run: RunFolder, key: str, ended: Ended) -> dict[str, Any]:
    """The failure record of a cell whose job ended without saying why."""
    kind, cause = ended.kind, ended.cause
    if kind is None and ended.code is not None and ended.code < 0:
        kind, cause = "killed", f"the process was killed by signal {-ended.code}"
        if ended.code == -9:
            cause += " (often by the system, for want of memory)"
    elif kind is None:
        kind, cause = "error", f"the process ended with exit code {ended.code}: {_tail(ended)}"
    beat = _last_beat(run, key)
    signature = {"memory": "memory", "timeout": f"timeout: {beat.get('stage')}"}
    return {
        "kind": kind,
        "stage": beat.get("stage"),
        "done": beat.get("done"),
        "total": beat.get("total"),
        "cause": cause,
        "signature": signature.get(kind or "", f"{kind}: {ended.code}"),
        "log": str(ended.job.log.relative_to(run.path)),
        "job": ended.job.env.get("CALGRID_JOB"),
    }


def _last_beat(run: RunFolder, key: str) -> dict[str, Any]:
    path = run.heartbeat(key)
    try:
        beat: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    path.unlink(missing_ok=True)
    return beat


def _tail(ended: Ended) -> str:
    """The last line that a job printed."""
    try:
        text = ended.job.log.read_text("utf-8", "replace").strip()
    except FileNotFoundError:
        return "it printed nothing"
    own = text.rpartition("\n-- Slurm's log of job")[0]  # the scheduler's words come after its own
    return (own.strip() or text).rpartition("\n")[2]
