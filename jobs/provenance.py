"""Where and with what a result was made."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("calgrid", "torch", "transformers", "datasets", "datasketch", "lm-eval", "tokenizers")


@cache
def provenance() -> dict[str, Any]:
    """Commit, package versions, host and GPU of this process, for the record."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "image": os.environ.get("CALGRID_IMAGE"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        **_gpu(),
    }


def _git(*arguments: str) -> str | None:
    """What git says of the folder of this code; None where it is no checkout or git is missing."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None, "cuda": None}
    return {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
