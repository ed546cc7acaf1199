"""Where and with what a result was made."""

from __future__ import annotations

import os
import platform
import socket
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cluster.code import commit
from cluster.driver import cuda_version

PACKAGES = ("calgrid", "torch", "transformers", "datasets", "datasketch", "lm-eval", "tokenizers")


@cache
def provenance() -> dict[str, Any]:
    """Commit, package versions, host and GPU of this process, for the record."""
    revision, dirty = commit()
    return {
        "commit": revision,
        "dirty": dirty,
        "image": os.environ.get("CALGRID_IMAGE"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "host": os.environ.get("CALGRID_HOST") or socket.gethostname(),
        **_gpu(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu() -> dict[str, Any]:
    import torch

    driver = cuda_version()
    known = {"cuda": torch.version.cuda, "driver": ".".join(map(str, driver)) if driver else None}
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"gpu": name, **known}
