"""Folders that are built once: by one process at a time, and again where a file of one is gone.

Each lists its files with their sizes, since what was complete need not stay so: scratch file
systems are swept of old files, and a disk that was full cuts them short. Whoever reads it compares
their hashes, too, once: after a power cut, files can have their length and not their content.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from jobs.claims import take
from jobs.files import read_json, sha256_of, unique_suffix, write_json, write_text

LISTING = ".files.json"

SUMS = ".sha256"
"""Hashes of the files, as `sha256sum --check` reads them."""

_sound: set[Path] = set()  # what this process has compared with its hashes


def build_once(
    path: Path, build: Callable[[Path], None], waiting: Callable[[], None] = lambda: None
) -> Path:
    """The folder `path`, built by one process at a time and renamed into place when complete.

    Args:
        path: where it shall be.
        build: writes the contents into the folder it is given.
        waiting: called about once a second while another process builds it.
    """
    while not attempt(path, build):
        waiting()
        time.sleep(1.0)
    return path


def attempt(path: Path, build: Callable[[Path], None]) -> bool:
    """Build the folder `path` unless another process does; says whether it is there now."""
    if is_sound(path):
        return True
    claim = take(path.parent.parent / "claims" / f"{path.parent.name}-{path.name}")
    if claim is None:
        return False
    with claim:
        if not is_sound(path):
            partial = path.with_name(f".{path.name}{unique_suffix()}")
            partial.mkdir(parents=True)
            try:
                build(partial)
                sizes = {str(p.relative_to(partial)): p.stat().st_size for p in _files(partial)}
                write_text(
                    partial / SUMS, "".join(f"{sha256_of(partial / n)}  {n}\n" for n in sizes)
                )
                write_json(partial / LISTING, sizes)
                if path.is_dir():
                    print(f"{path} is damaged: made again", flush=True)
                    aside = path.with_name(f"{partial.name}.damaged")
                    path.rename(aside)
                    shutil.rmtree(aside)
                partial.rename(path)
            finally:
                if partial.is_dir():
                    shutil.rmtree(partial)
    return True


def is_whole(path: Path) -> bool:
    """Is the folder there, with every file as long as it was when it was built?"""
    try:
        sizes = read_json(path / LISTING)
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, AttributeError):
        return False  # AttributeError: the listing is no JSON object


def is_sound(path: Path) -> bool:
    """Is the folder whole, with every file's content as it was built? Compared once a process."""
    if not is_whole(path):
        return False
    if path not in _sound:
        try:
            lines = (path / SUMS).read_text("utf-8").splitlines()
        except FileNotFoundError:  # built by an earlier version
            lines = []
        known = (line.split("  ", 1) for line in lines)
        if any(sha256_of(path / name) != content for content, name in known):
            return False
        _sound.add(path)
    return True


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]
