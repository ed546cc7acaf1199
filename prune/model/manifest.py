"""The manifest of a mirror: what was fetched into it, from which commit, and what it hashes to."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

NAME = "manifest.json"


class File(BaseModel):
    """A file of a mirror.

    Attributes:
        sha256: of its content. size, mtime_ns: as it was written; while they are the same, so is
            the content.
        made_from: SHA-256 of the pickled weights on the hub that it was converted from.
    """

    model_config = ConfigDict(extra="forbid")

    sha256: str
    size: int
    mtime_ns: int
    made_from: str | None = None

    def is_untouched(self, path: Path) -> bool:
        """Is the file as it was written, by its size and time?"""
        try:
            stat = path.stat()
        except FileNotFoundError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


class Fetched(BaseModel):
    """A repository of a mirror.

    Attributes:
        revision: that was asked for. commit: that it stood for.
        listing: every file that the repository has there, fetched or not.
        files: those that were fetched, by name.
    """

    model_config = ConfigDict(extra="forbid")

    revision: str
    commit: str
    listing: list[str] = []
    files: dict[str, File] = {}


class Manifest(BaseModel):
    """A mirror's manifest.

    Attributes:
        repositories: by kind and id, for example `model owner/name`.
        tasks: evaluation tasks whose datasets are all there: the datasets' ids.
        harness: the version of lm-eval that the tasks were read with.
    """

    model_config = ConfigDict(extra="forbid")

    repositories: dict[str, Fetched] = {}
    tasks: dict[str, list[str]] = {}
    harness: str | None = None

    def repository(self, kind: str, repo: str) -> Fetched | None:
        """A repository; None where it was not fetched."""
        return self.repositories.get(f"{kind} {repo}")

    @classmethod
    def read(cls, mirror: Path) -> Manifest:
        """The manifest of a mirror; an empty one where it was filled by hand.

        Raises:
            ValueError: it is damaged.
        """
        path = mirror / NAME
        try:
            stat = path.stat()
        except FileNotFoundError:
            return cls()
        return _parse(path, stat.st_mtime_ns, stat.st_size)

    def write(self, mirror: Path) -> None:
        """Put it in place of the one before."""
        partial = mirror / f".{NAME}.{os.getpid()}"
        partial.write_text(self.model_dump_json(indent=1), "utf-8")
        partial.replace(mirror / NAME)


@lru_cache(maxsize=4)
def _parse(path: Path, mtime_ns: int, size: int) -> Manifest:
    """Read a manifest once for each of its versions."""
    try:
        return Manifest.model_validate_json(path.read_text("utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"{path} is damaged ({first['msg']}); delete it and prefetch again"
        ) from error
