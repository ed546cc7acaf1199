"""Can this machine compile and run a Triton kernel?"""

from __future__ import annotations

import warnings
from functools import cache

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # torch brings it where it can use a GPU
    triton = None


@cache
def triton_runs() -> bool:
    """Does a kernel run on the GPU at hand? Tried once; where it does not, it is said why."""
    try:
        _try()
    except Exception as error:  # no C compiler, no place for its cache, an old GPU
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(f"no fused kernels, plain torch instead: Triton: {reason}", stacklevel=2)
        return False
    return True


def _try() -> None:
    if triton is None:
        raise ImportError("it is not installed")
    x = torch.zeros(1, device="cuda")
    triton.jit(_write_one)[(1,)](x)
    if float(x) != 1:
        raise RuntimeError("a kernel wrote nothing")


def _write_one(x):  # type: ignore[no-untyped-def]  # Triton reads annotations as code
    tl.store(x, 1.0)
