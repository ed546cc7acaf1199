"""Where the files of a hub id lie: a mirror folder, the local hub cache, or the hub itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

Kind = Literal["model", "dataset"]


class NotFetchedError(LookupError):
    """A hub repository that is not on this machine, where nothing may be fetched."""


def split_revision(name: str) -> tuple[str, str | None]:
    """`owner/name@revision` as (`owner/name`, revision or None)."""
    repo, _, revision = name.partition("@")
    return repo, revision or None


def under(base: Path, name: str) -> Path:
    """`name` as a path: absolute, from a home folder (`~`), or relative to `base`."""
    try:
        return base / Path(name).expanduser()
    except RuntimeError:  # a `~user` that there is not
        return base / name


def find(name: str, kind: Kind, mirror: Path | None, base: Path) -> Path:
    """The folder that holds a repository, without fetching anything.

    Args:
        name: hub id (`owner/name`, optionally `@revision`) or a folder.
        kind: "model" or "dataset".
        mirror: a folder that hub ids resolve in, as `<mirror>/<owner>/<name>`; nothing else is
            looked at then. A mirror holds one revision, which is taken whatever is asked for.
        base: what a relative folder is relative to.

    Raises:
        FileNotFoundError: a folder was named, or a mirror given, and it is not there.
        NotFetchedError: a hub id that is neither mirrored nor in the hub cache.
    """
    repo, revision = split_revision(name)
    folder = under(base, name)
    if folder.is_dir():
        return folder.resolve()
    if not re.fullmatch(r"(?!.*(--|\.\.))\w[\w.-]*/\w[\w.-]*", repo):
        raise FileNotFoundError(f"no folder {folder}, and {name!r} is no hub id (owner/name)")
    if mirror is not None:
        if not (mirror / repo).is_dir():
            raise FileNotFoundError(
                f"{kind} {repo!r} is not in the mirror: no folder {mirror / repo}; fetch it there, "
                "or set mirror: null to use the hub"
            )
        return (mirror / repo).resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = snapshot_download(repo, repo_type=kind, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        raise NotFetchedError(f"{kind} {name!r} is not on this machine yet") from None
    return Path(path)


def fetch(name: str, kind: Kind, patterns: Sequence[str] | None = None) -> Path:
    """Download the files of a hub id that match `patterns` (all of them if None) to the hub cache.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: the hub refused, or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    repo, revision = split_revision(name)
    return Path(
        snapshot_download(
            repo,
            repo_type=kind,
            revision=revision,
            allow_patterns=list(patterns) if patterns else None,
        )
    )
