"""Checking a mirror against its manifest, before anything relies on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.files import Fingerprints
from prune.model import hub
from prune.model.manifest import File, Manifest


def check(
    mirror: Path,
    kind: hub.Kind,
    name: str,
    files: Sequence[Path] | None,
    fingerprints: Fingerprints,
) -> Iterator[str]:
    """What is wrong with files of a mirrored repository; nothing where it was put there by hand.

    A file that nobody touched since it was fetched has the hash that the manifest says; of any
    other the content is hashed, once.

    Args:
        mirror, kind, name: the repository. files: that are read; None = all that were fetched.
        fingerprints: learns the hashes of files that are as they were fetched.
    """
    repo, _ = hub.split_revision(name)
    entry = Manifest.read(mirror).repository(kind, repo)
    if entry is None:
        return
    known = {(mirror / repo).resolve() / name: file for name, file in entry.files.items()}
    for path in known if files is None else files:
        problem = _problem(path, known.get(path), fingerprints)
        if problem is not None:
            yield f"{kind} {repo}: {path}: {problem}; prefetch it again"


def _problem(path: Path, file: File | None, fingerprints: Fingerprints) -> str | None:
    if file is None:
        return "the mirror's manifest does not know this file"
    if not path.is_file():
        return "this file is missing"
    if file.is_untouched(path):
        fingerprints.trust(path, file.sha256)
    elif fingerprints.of(path) != file.sha256:
        return "its content is not what was fetched"
    return None
