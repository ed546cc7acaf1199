"""The NVIDIA driver of this node, asked without torch, and whether torch's CUDA fits it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def cuda_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver can run, as (major, minor); None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def misfit(
    built_for: str | None, driver: Callable[[], tuple[int, int] | None] = cuda_version
) -> str | None:
    """Why a torch that was built for a CUDA version cannot use this node's GPU; None where it can.

    A driver runs every minor version of the major versions that it knows.

    Args:
        built_for: `torch.version.cuda`, None for a build without CUDA.
        driver: tells the driver's version.
    """
    found = driver()
    if found is None:
        return None
    major, minor = found
    if built_for is None:
        return (
            f"this node has a GPU (its driver runs CUDA {major}.{minor}), and torch was built "
            "without CUDA; build the image with TORCH=cuda"
        )
    if int(built_for.split(".")[0]) > major:
        return (
            f"torch was built for CUDA {built_for}, and the driver of this node runs CUDA "
            f"{major}.{minor} at most; build the image with TORCH=cu{major}x, as PyTorch has it, "
            "or ask for nodes with a newer driver"
        )
    return None
