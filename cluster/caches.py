"""Where compiled kernels are kept: shared by jobs, and apart for what they were compiled for."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMPILERS = ("torch", "triton")


def compile_caches(base: Path, driver: Path = Path("/proc/driver/nvidia")) -> dict[str, str]:
    """The variables that tell Triton and torch.compile where to keep what they compile.

    Code that was compiled for one GPU, or by another version, is of no use elsewhere. Both write
    beside and rename, so jobs can share a folder.

    Args:
        base: a folder that jobs share. driver: the folder in which the driver tells of its GPUs.
    """
    parts = [*_gpus(driver), f"python{platform.python_version()}", *_versions()]
    folder = base / re.sub(r"[^\w.+-]+", "_", "-".join(parts))
    return {
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }


def _gpus(driver: Path) -> list[str]:
    """The models of this node's GPUs, `cpu` where it has none."""
    models = set()
    for path in (driver / "gpus").glob("*/information"):
        if model := re.search(r"^Model:\s*(.+?)\s*$", path.read_text("utf-8", "replace"), re.M):
            models.add(model[1])
    return sorted(models) or ["cpu"]


def _versions() -> Iterable[str]:
    for name in COMPILERS:
        try:
            yield f"{name}{version(name)}"
        except PackageNotFoundError:
            continue
