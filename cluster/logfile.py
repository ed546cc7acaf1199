"""The ends of logs, where what matters is."""

from __future__ import annotations

from pathlib import Path

TAIL_BYTES = 4096


def tail(log: Path) -> str:
    """The end of a log; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
