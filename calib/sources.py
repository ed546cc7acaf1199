"""From what a dataset names to the files it is read from."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from calib.datafiles import loader_of, select_files
from calib.rows import RowFormat, some
from calib.spec import LOADERS, DatasetSpec
from prune.model import hub
from prune.model.stream import open_stream


@dataclass(frozen=True)
class Source:
    """The files of one dataset.

    Attributes:
        loader: one of `LOADERS`. files: in order of name.
        rows: how a row becomes a document.
        most: rows that are read, the first ones of the files in order; None = all.
    """

    loader: str
    files: tuple[Path, ...]
    rows: RowFormat
    most: int | None = None


def locate(spec: DatasetSpec, base: Path, mirror: Path | None, demo: Path | None) -> Source:
    """The files of a dataset that has a `path`, without fetching anything.

    Args:
        spec: the dataset.
        base: folder that relative paths are relative to.
        mirror: folder that hub ids resolve in, or None.
        demo: the demo's collected text, for `demo:` files.

    Raises:
        FileNotFoundError: nothing matches; the message says what was looked for, and where.
        hub.NotFetchedError: a hub repository that is not on this machine yet.
    """
    assert spec.path is not None
    if spec.path in LOADERS:
        return Source(
            spec.path, tuple(_local_files(spec, base, demo)), _rows(spec, spec.path), spec.max_rows
        )
    name = hub_name(spec)
    if file_problem := _is_no_folder(spec.path, base):
        raise FileNotFoundError(file_problem)
    folder = hub.find(name, "dataset", mirror, base)
    there = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    from_hub = hub.is_hub_id(name, base)
    names = hub.listing(name, "dataset", mirror, folder) if from_hub else None
    chosen = select_files(spec, names or there, _card(folder))
    missing = [n for n in chosen if not (folder / n).is_file()]
    if from_hub and names is None:
        missing = _gaps(spec, chosen)
    if missing and mirror is None:
        raise hub.NotFetchedError(f"dataset {name!r} is not whole on this machine yet")
    if missing:
        raise FileNotFoundError(f"{folder} lacks {some(missing)}; {hub.prefetch_hint}")
    return _source(spec, folder, chosen)


LOADER_NAMES = {"jsonl": "json", "ndjson": "json", "tsv": "csv", "txt": "text"}
"""What people call the loaders, by the endings of files."""


def _is_no_folder(path: str, base: Path) -> str | None:
    """What is wrong with a `path` that means files; None where it may be a repository or folder."""
    full = hub.under(base, path)
    if full.is_dir():
        return None
    if path in LOADER_NAMES:
        return f"path: {path} is not allowed; write {LOADER_NAMES[path]}, which reads these files"
    loader = loader_of(path)
    if full.is_file() or loader is not None:
        there = "is a file" if full.is_file() else "is not there"
        return (
            f"{full} {there}, and a path is a hub id or a folder; write path: {loader or 'json'} "
            f"and data_files: {path}"
        )
    return None


def _source(spec: DatasetSpec, folder: Path, names: Sequence[str]) -> Source:
    """Data files of a repository, by their names in it."""
    loader = loader_of(names[0])
    assert loader is not None
    return Source(loader, tuple(folder / n for n in names), _rows(spec, loader), spec.max_rows)


def single(file: Path, column: str = "text") -> Source:
    """One local file.

    Raises:
        ValueError: it is none that can be read.
    """
    loader = loader_of(file.name)
    if loader is None or not file.is_file():
        raise ValueError(f"{file} is no file of json, jsonl, csv, tsv, parquet or txt")
    return Source(loader, (file,), RowFormat(column))


def hub_name(spec: DatasetSpec) -> str:
    """The hub id of a dataset, with its revision where one is asked for."""
    assert spec.path is not None
    return f"{spec.path}@{spec.revision}" if spec.revision else spec.path


def _gaps(spec: DatasetSpec, chosen: Sequence[str]) -> list[str]:
    """What must be missing of a repository of which only the files that are here are known.

    Numbered files say how many they are (`train-00000-of-00003`); and where a dataset asks for
    more files than there are, somebody else did not need them all.
    """
    numbered = [m for name in chosen if (m := re.match(r"(.*?)(\d+)-of-(\d+)", name))]
    found = {(m[1], int(m[2]), m[3]) for m in numbered}
    wanted = []
    for stem, total in sorted({(m[1], m[3]) for m in numbered}):
        first = int((stem, int(total), total) in found)  # some count from 1
        wanted += [(stem, number, total) for number in range(first, first + int(total))]
    missing = [part for part in wanted[: spec.shards] if part not in found]
    if not numbered and len(chosen) < (spec.shards or 0):
        return [f"files, for it has {len(chosen)} of {spec.shards}"]
    return [f"{stem}{number:0{len(total)}}-of-{total}" for stem, number, total in missing]


def fetch(spec: DatasetSpec) -> None:
    """Download the data files of a hub dataset to the hub cache; of a streamed one, its card."""
    repository = hub.resolve(hub_name(spec), "dataset")
    described = [n for n in ("README.md",) if n in repository.files]
    folder = hub.fetch(repository, spec.revision, described)
    if not spec.streaming or streamed(spec) is None:
        chosen = select_files(spec, list(repository.files), _card(folder))
        hub.fetch(repository, spec.revision, chosen)


@dataclass(frozen=True)
class Streamed:
    """A dataset whose files stay on the hub.

    Attributes:
        repository: as it was when it was looked at. source: names of files in it.
    """

    repository: hub.Repository
    source: Source

    @property
    def hashes(self) -> list[str]:
        """The SHA-256 of each file."""
        found = (self.repository.files[file.as_posix()].sha256 for file in self.source.files)
        return [sha256 for sha256 in found if sha256 is not None]

    def open(self, file: Path) -> BinaryIO:
        """A file, to be read over the network."""
        return open_stream(self.repository, file.as_posix())


def streamed(spec: DatasetSpec) -> Streamed | None:
    """A hub dataset as far as this machine was told of it, to be read without downloading it.

    None where it was told nothing, or where the hub has no hash of a file, which is one so small
    that the hub keeps it in git: it is downloaded.

    Raises:
        FileNotFoundError: no file matches.
    """
    repository = hub.remembered(hub_name(spec), "dataset")
    if repository is None:
        return None
    card = _card(hub.find(hub_name(spec), "dataset", None, Path()))
    chosen = select_files(spec, list(repository.files), card)
    found = Streamed(repository, _source(spec, Path(), chosen))
    return found if len(found.hashes) == len(chosen) else None


def _card(folder: Path) -> str:
    """The README of a repository, as far as it is there."""
    path = folder / "README.md"
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def _local_files(spec: DatasetSpec, base: Path, demo: Path | None) -> list[Path]:
    found: set[Path] = set()
    for pattern in spec.data_files or []:
        root = base
        if pattern.startswith("demo:"):
            assert demo is not None
            root, pattern = demo, pattern.removeprefix("demo:")
        full = hub.under(root, pattern)
        # the pattern may be absolute, which Path.glob does not take; `root` is no pattern
        names = glob.glob(str(hub.under(Path(), pattern)), root_dir=root, recursive=True)  # noqa: PTH207
        matches = [p for p in (full, *(root / n for n in names)) if p.is_file()]
        if not matches:
            folder = next((p for p in full.parents if p.is_dir()), root)
            there = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
            raise FileNotFoundError(
                f"no file matches {full}; {folder} has: {some(there)} (data_files are names or "
                "globs, relative to the grid file)"
            )
        found.update(matches)
    return sorted(found)[: spec.shards]


def _rows(spec: DatasetSpec, loader: str) -> RowFormat:
    if spec.questions is not None:
        return RowFormat(None, spec.questions.templates, spec.url)
    if spec.template is not None:
        return RowFormat(None, (spec.template,), spec.url)
    return RowFormat("text" if loader == "text" else spec.text, (), spec.url)
