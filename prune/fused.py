"""Where fused GPU kernels stand in for plain torch; everywhere else plain torch does the work.

Three parts of today's blocks are many small kernels in plain torch, and one here: the root mean
square norm, the rotation of queries and keys, and silu(gate) * up. Which module is which is told
by its attributes; whether the kernel computes what the module does, to the last bit, is found out
by comparing the two before first use. Where they differ the module keeps its own code, so that a
model is pruned to the same bits with the kernels and without.

First use on a machine compiles the kernels (2 s beside an H200); they are kept where
`TRITON_CACHE_DIR` says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

ROTATIONS = ("apply_rotary_pos_emb", "_rotate")
"""Names of the function that rotates queries and keys, in the modules that define blocks."""

_agrees: dict[Any, bool] = {}  # by class or function: does its kernel compute the same?


def fused(x: Tensor) -> bool:
    """Do the kernels of `prune.kernels` take `x`: on a GPU, in float32 or less, with Triton?"""
    if not x.is_cuda or x.element_size() > 4:
        return False
    from prune.model.triton_check import triton_runs

    return triton_runs()


@contextmanager
def fused_block(block: nn.Module) -> Iterator[None]:
    """Within, the block runs with fused kernels where it has parts that they are for."""
    swapped: list[tuple[Any, type]] = []
    patched: list[tuple[Any, str, Any]] = []
    for module in block.modules():
        replacement = _replacement(module)
        if replacement is not None and _stands_in(module, replacement):
            cls: Any = type(module)
            swapped.append((module, cls))
            module.__class__ = _fused_class(cls, replacement)
    for home in {sys.modules[type(module).__module__] for module in block.modules()}:
        for name in ROTATIONS:
            original = vars(home).get(name)
            if original is not None:
                patched.append((home, name, original))
                setattr(home, name, _fused_rotation(original))
    try:
        yield
    finally:
        for module, cls in swapped:
            module.__class__ = cls
        for home, name, original in patched:
            setattr(home, name, original)


def _replacement(module: nn.Module) -> Callable[[Any, Any], Any] | None:
    """What stands in for the forward of a module of this kind; None for all others."""
    parts = module._modules
    if any("limit" in name or "clamp" in name for name in vars(module)):
        return None  # what it cuts off, ordinary input may never reach
    if type(module).__name__.endswith("RMSNorm") and getattr(module, "weight", None) is not None:
        return _norm
    if {"gate_proj", "up_proj", "down_proj", "act_fn"} == parts.keys():
        return _gated if type(parts["act_fn"]).__name__.lower().startswith("silu") else None
    return _gated_openlm if {"w12", "w3"} == parts.keys() else None


def _stands_in(module: Any, replacement: Callable[[Any, Any], Any]) -> bool:
    """Does the replacement compute what modules of this class do? Tried once, on random input."""
    import torch

    cls = type(module)
    if cls not in _agrees:
        weight = next(module.parameters())
        if not fused(weight) or weight.element_size() != 2:
            return False
        x = torch.randn(64, weight.shape[-1], device=weight.device, dtype=weight.dtype)
        _agrees[cls] = _equal(replacement(module, x), module(x))
    return _agrees[cls]


@cache
def _fused_class(cls: type, replacement: Callable[[Any, Any], Any]) -> type:
    """A subclass whose forward is the replacement."""
    return type(f"Fused{cls.__name__}", (cls,), {"forward": replacement})


@cache
def _fused_rotation(original: Callable[..., Any]) -> Callable[..., Any]:
    """A rotation by the kernel, once that was seen to agree."""

    def rotation(*arguments: Any, **keywords: Any) -> Any:
        if keywords:
            return original(*arguments, **keywords)
        *tensors, cos, sin = arguments
        usable = fused(cos) and cos.element_size() == 2 and cos.dtype == sin.dtype
        if not usable or not _agrees.get(original, True):
            return original(*arguments)
        from prune.kernels.block_parts import rotate

        if cos.dim() == 3:
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        if any(x.shape[-1] != cos.shape[-1] or x.stride(-1) != 1 for x in tensors):
            return original(*arguments)
        found = tuple(rotate(x, cos, sin) for x in tensors)
        if original not in _agrees:
            expected = original(*arguments)
            several = expected if isinstance(expected, tuple) else (expected,)
            _agrees[original] = all(_equal(a, b) for a, b in zip(found, several, strict=True))
            return expected if not _agrees[original] else _as(expected, found)
        return found if len(found) > 1 else found[0]

    return rotation


def _as(like: Any, found: tuple[Any, ...]) -> Any:
    return found if isinstance(like, tuple) else found[0]


def _equal(found: Tensor, expected: Tensor) -> bool:
    import torch

    return found.dtype == expected.dtype and torch.equal(found, expected)


def _norm(module: Any, x: Tensor) -> Tensor:
    from prune.kernels.block_parts import root_mean_square_norm

    epsilon = getattr(module, "variance_epsilon", None)
    return root_mean_square_norm(x, module.weight, module.eps if epsilon is None else epsilon)


def _gated(module: Any, x: Tensor) -> Tensor:
    from prune.kernels.block_parts import silu_times

    answer: Tensor = module.down_proj(silu_times(module.gate_proj(x), module.up_proj(x)))
    return answer


def _gated_openlm(module: Any, x: Tensor) -> Tensor:
    from prune.kernels.block_parts import silu_times

    answer: Tensor = module.w3(silu_times(*module.w12(x).chunk(2, dim=-1)))
    return answer
