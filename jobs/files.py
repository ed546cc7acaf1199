"""Files that are written once: beside their name first, then renamed; and their content hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a disk without room says."""

DISK_ERRORS = (*FULL, errno.EIO, errno.EROFS)
"""What a disk says that is full, ill, or turned read-only."""


def unique_suffix() -> str:
    """A suffix for temporary names that no other process or thread uses."""
    return f".{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}.partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write under, renamed to `path` at the end; of what fails, nothing is left.

    Raises:
        OSError: with the name of the file, which a disk that is full does not tell.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + unique_suffix())
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise


def write_text(path: Path, text: str) -> None:
    """Put `text` under `path` in one step; readers see the old file, the new one, or none."""
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: Path, data: Any) -> None:
    """Like `write_text`, for plain data; NaN and infinities become null, as JSON has neither."""
    write_text(path, json.dumps(finite(data), indent=1))


def finite(data: Any) -> Any:
    """Plain data with every NaN or infinite number replaced by None."""
    if isinstance(data, float):
        return data if data - data == 0 else None
    if isinstance(data, dict):
        return {k: finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [finite(v) for v in data]
    return data


def read_json(path: Path) -> Any:
    """Plain data from a file."""
    return json.loads(path.read_text("utf-8"))


def disk_error(error: OSError) -> str:
    """What a disk refused, for people: the path and the cause."""
    if error.filename is None or error.strerror is None:
        return str(error)
    written = error.filename2 if error.errno in FULL else None  # of a copy
    return f"{written or error.filename}: {error.strerror.lower()}"


def is_disk_error(error: BaseException) -> bool:
    """Is a disk that is full or ill the cause, rather than what was to be written?"""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return True
    return any(os.strerror(number) in str(error) for number in DISK_ERRORS)  # safetensors' own


def unwritable(folder: Path) -> str | None:
    """Why a folder, there or still to be made, takes no files of ours; None where it does."""
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.exists(p))  # noqa: PTH110  (Path.exists raises where it may not look)
    if not there.is_dir():
        return f"{there} is no folder"
    allowed = os.access(
        there, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
    )
    return None if allowed else f"{there} cannot be written to"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_of(path: Path) -> str:
    """Size and time of change of a file: the same as long as nobody wrote to it."""
    stat = path.stat()
    return f"{stat.st_size}|{stat.st_mtime_ns}"


def combined(hashes: Iterable[str]) -> str:
    """One hash of several, whatever their order."""
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


def remembered(path: Path) -> dict[str, Any] | None:
    """What a cache file holds; None where it is gone or damaged, and has to be found again."""
    try:
        data = read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) else None


class Fingerprints:
    """SHA-256 of files, hashed once and remembered by path, size and time of change."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "files.json"
        self.known: dict[str, str] = remembered(self.path) or {}
        self.changed = False
        self.asked: dict[str, tuple[str, str]] = {}  # by path: its stamp, and its hash

    def of(self, path: Path) -> str:
        """The SHA-256 of one file, hexadecimal."""
        stamp = stamp_of(path)
        key = f"{path}|{stamp}"
        if key not in self.known:
            self.known[key] = sha256_of(path)
            self.changed = True
        self.asked[str(path)] = stamp, self.known[key]
        return self.known[key]

    def trust(self, path: Path, sha256: str) -> None:
        """Take another's word for the hash of a file."""
        key = f"{path}|{stamp_of(path)}"
        if self.known.get(key) != sha256:
            self.known[key] = sha256
            self.changed = True

    def of_all(self, paths: Iterable[Path]) -> str:
        """One hash of several files' contents, whatever their names and order."""
        return combined(map(self.of, paths))

    def save(self) -> None:
        """Remember what was hashed; of two processes that save at once, one is forgotten."""
        if self.changed:
            write_json(self.path, self.known)
            self.changed = False
