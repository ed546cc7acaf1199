"""Claims: who works on what, by exclusive-create files with a lease; no locks, no server."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from jobs.files import unique_suffix

LEASE_SECONDS = 60.0
"""A claim that was not renewed for so long is taken for dead; one so far in the future, too, as a
clock that went wrong leaves it: who lives renews it with the time of now."""

RENEW_SECONDS = 10.0

CLOCK_SECONDS = 60.0
"""How long the clock of a file system is taken to differ by the same from this machine's."""


class Claim:
    """The right to do one thing, renewed by a thread until it is released."""

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self._owner = owner
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            with suppress(OSError):  # the file system may come back before the lease is over
                if self._is_ours():
                    os.utime(self.path)

    def _is_ours(self) -> bool:
        """False where it was taken for dead, for example while this process was suspended."""
        try:
            return _read(self.path) == self._owner
        except FileNotFoundError:
            return False

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()
        self._thread.join()
        if self._is_ours():
            self.path.unlink(missing_ok=True)


def take(path: Path) -> Claim | None:
    """Claim `path`, or None where a living process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = json.dumps(
        {
            "host": _host(),
            "pid": os.getpid(),
            "job": os.environ.get("CALGRID_JOB"),
            "nonce": os.urandom(8).hex(),
        }
    )
    for _ in range(2):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(owner)
        except FileExistsError:
            if not _remove_dead(path):
                return None
        else:
            return Claim(path, owner)
    return None


def is_held(path: Path) -> bool:
    """Does a living process hold this claim?"""
    try:
        return not _is_dead(path, _read(path))
    except FileNotFoundError:
        return False


def held(folder: Path) -> set[str]:
    """The names of the claims in a folder that living processes hold."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  (names are all that is needed)
    except FileNotFoundError:
        return set()
    return {name for name in names if not name.startswith(".") and is_held(folder / name)}


def release_of(path: Path, job: str) -> bool:
    """Release the claim that a job left, which is over; False where it holds none."""
    try:
        owner = _read(path)
    except FileNotFoundError:
        return False
    if _owner(owner).get("job") != job:
        return False
    path.unlink(missing_ok=True)
    return True


def _read(path: Path) -> str:
    """What a claim says, even where it is damaged and no text."""
    return path.read_text("utf-8", "replace")


def _owner(text: str) -> dict[str, Any]:
    """Who wrote a claim; nothing where it is damaged, or between being created and written."""
    try:
        who = json.loads(text)
    except ValueError:
        return {}
    return who if isinstance(who, dict) and isinstance(who.get("pid"), int) else {}


def _remove_dead(path: Path) -> bool:
    """Remove a dead claim; False where it lives, or another process was faster."""
    try:
        owner = _read(path)
        if not _is_dead(path, owner):
            return False
        aside = path.with_name(path.name + unique_suffix())
        path.rename(aside)
        if _read(aside) != owner:  # somebody else's fresh claim: put it back
            with suppress(FileExistsError):
                os.link(aside, path)
            aside.unlink()
            return False
        aside.unlink()
    except FileNotFoundError:
        pass
    return True


def _is_dead(path: Path, owner: str) -> bool:
    """Is its process gone, or its lease over by the file system's clock?

    A process is known to be gone where it ran on this machine, or where it was an earlier start
    of this very job.
    """
    who = _owner(owner)
    here = who.get("host") == _host()
    if here and not Path(f"/proc/{who['pid']}").exists():
        return Path("/proc/self").exists()
    job = who.get("job")
    if job is not None and job == os.environ.get("CALGRID_JOB"):
        return not (here and who["pid"] == os.getpid())
    return abs(_now(path.parent) - path.stat().st_mtime) > LEASE_SECONDS


def _host() -> str:
    """This machine, or this container where it numbers its processes for itself."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return socket.gethostname()


_skews: dict[Path, tuple[float, float]] = {}


def _now(folder: Path) -> float:
    """The time by the clock of a folder's file system, which is asked once a minute."""
    since, skew = _skews.get(folder, (-CLOCK_SECONDS, 0.0))
    if time.monotonic() - since >= CLOCK_SECONDS:
        clock = folder / f".clock{unique_suffix()}"
        try:
            clock.touch()
            skew = clock.stat().st_mtime - time.time()
            clock.unlink()
        except PermissionError:  # somebody looks at another's run
            skew = 0.0
        _skews[folder] = (time.monotonic(), skew)
    return time.time() + skew
