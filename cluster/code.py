"""Which code this is: a hash of every file of the packages, and what differs from another copy.

`python -m cluster.code` prints the hashes as JSON, for a comparison with the code of an image.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
KINDS = (".py", ".yaml", ".sql", ".safetensors", ".json", ".md", ".sh")
"""Endings of the files that are installed, as pyproject.toml has them."""

PACKAGES = ("analysis", "calib", "cluster", "jobs", "prune")


def import_path(environment: Mapping[str, str]) -> str:
    """PYTHONPATH for a process that runs this code: its folder, then what was there already."""
    return os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))


@cache
def code_files() -> dict[str, str]:
    """SHA-256 of each file of the packages, by its path from their common folder."""
    paths = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*") if p.is_file())
    return {
        path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.suffix in KINDS and not path.name.startswith(".")
    }


def code_hash() -> str:
    """One hash of all of them."""
    lines = (f"{name} {digest}\n" for name, digest in sorted(code_files().items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """The files that two copies of the code do not have alike."""
    return sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))


@cache
def commit() -> tuple[str | None, bool | None]:
    """The git commit of this code, and whether files differ from it; as its image says, if any.

    None where it is neither in a checkout nor in an image, or git is missing.
    """
    if "CALGRID_COMMIT" in os.environ:
        dirty = os.environ.get("CALGRID_DIRTY")
        return os.environ["CALGRID_COMMIT"] or None, None if dirty is None else dirty == "1"
    head = _git("rev-parse", "HEAD")
    changed = None if head is None else _git("status", "--porcelain")
    return head, None if changed is None else bool(changed)


def _git(*arguments: str) -> str | None:
    """What git says of the folder of this code; None where it says nothing."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=10
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    print(json.dumps(code_files()))
