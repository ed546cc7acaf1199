"""The lowest saliencies of rows, of whole matrices, and of every M columns."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LONGEST_ROW = 65536
"""Columns of a row that one program ranks in its registers."""

PART = 8192
"""Weights that one program takes of a matrix that many rank together."""

DIGITS = {torch.float32: 4, torch.float16: 3, torch.bfloat16: 2}
"""Bytes of a number's key that are not 0 for all numbers of a dtype, from the front."""


@triton.jit
def _lowest_rows(  # type: ignore[no-untyped-def]  # Triton reads annotations as code
    saliency, mask, columns, count, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(saliency + row * columns + column, mask=inside, other=float("inf"))
    value = value.to(tl.float32)
    bits = tl.where(value == 0, 0.0, value).to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the floats
    low = tl.full((), -2147483648, tl.int64)
    high = tl.full((), 2147483647, tl.int64)
    for _ in range(32):  # the least key with `count` keys up to it
        middle = (low + high) >> 1
        enough = tl.sum((key <= middle.to(tl.int32)).to(tl.int32), 0) >= count
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    last = low.to(tl.int32)
    below = (key < last).to(tl.int32)
    equal = (key == last).to(tl.int32)
    left = count - tl.sum(below, 0)
    taken = (below == 1) | ((equal == 1) & (tl.cumsum(equal, 0) <= left))
    tl.store(mask + row * columns + column, taken.to(tl.int8), mask=inside)


def lowest_rows(saliency: Tensor, count: int) -> Tensor:
    """Mark the `count` lowest of every row, lowest index on ties.

    Args:
        saliency: float32 [rows, columns], without NaN.
        count: 1 to columns.
    """
    saliency = saliency.contiguous()
    rows, columns = saliency.shape
    mask = torch.empty(rows, columns, dtype=torch.int8, device=saliency.device)
    block = triton.next_power_of_2(columns)
    warps = min(16, max(1, block // 512))
    _lowest_rows[(rows,)](saliency, mask, columns, count, BLOCK=block, num_warps=warps)
    return mask.view(torch.bool)


@triton.jit
def _keys(saliency, at, inside):  # type: ignore[no-untyped-def]
    """Unsigned integers in the order of the floats."""
    value = tl.load(saliency + at, mask=inside, other=0.0).to(tl.float32)
    bits = tl.where(value == 0, 0.0, value).to(tl.uint32, bitcast=True)
    return bits ^ tl.where(bits >> 31 == 1, 0xFFFFFFFF, 0x80000000)


@triton.jit
def _last_key(counts, count, LEVEL: tl.constexpr):  # type: ignore[no-untyped-def]
    """The first LEVEL digits of the last key to mark, and how many keys with them to mark."""
    digits = tl.arange(0, 256)
    leading = tl.zeros((), tl.uint32)
    left = count + 0
    for level in tl.static_range(LEVEL):
        here = tl.load(counts + level * 256 + digits)
        digit = tl.sum((tl.cumsum(here, 0) < left).to(tl.int32), 0)
        left -= tl.sum(tl.where(digits < digit, here, 0), 0)
        leading = (leading << 8) | digit.to(tl.uint32)
    return leading, left


@triton.jit(do_not_specialize=["count"])
def _count_digits(  # type: ignore[no-untyped-def]
    saliency, counts, count, total, LEVEL: tl.constexpr, PART: tl.constexpr
):
    """Count the digits at LEVEL of the keys that begin as the last one to mark does."""
    leading, _ = _last_key(counts, count, LEVEL)
    at = tl.program_id(0).to(tl.int64) * PART + tl.arange(0, PART)
    inside = at < total
    key = _keys(saliency, at, inside) >> (24 - 8 * LEVEL)
    found = tl.histogram((key & 255).to(tl.int32), 256, inside & ((key >> 8) == leading))
    digits = tl.arange(0, 256)
    tl.atomic_add(counts + LEVEL * 256 + digits, found, mask=found > 0, sem="relaxed")


@triton.jit(do_not_specialize=["count"])
def _count_ties(  # type: ignore[no-untyped-def]
    saliency, counts, ties, count, total, LEVELS: tl.constexpr, PART: tl.constexpr
):
    """How many keys of each part are the last one to mark."""
    last, _ = _last_key(counts, count, LEVELS)
    at = tl.program_id(0).to(tl.int64) * PART + tl.arange(0, PART)
    inside = at < total
    key = _keys(saliency, at, inside) >> (32 - 8 * LEVELS)
    tl.store(ties + tl.program_id(0), tl.sum((inside & (key == last)).to(tl.int32), 0))


@triton.jit(do_not_specialize=["count"])
def _mark(  # type: ignore[no-untyped-def]
    saliency, mask, counts, ties_to, count, total, LEVELS: tl.constexpr, PART: tl.constexpr
):
    """Mark the keys before the last, and as many of those that tie with it as are left."""
    last, left = _last_key(counts, count, LEVELS)
    at = tl.program_id(0).to(tl.int64) * PART + tl.arange(0, PART)
    inside = at < total
    key = _keys(saliency, at, inside) >> (32 - 8 * LEVELS)
    tie = (inside & (key == last)).to(tl.int32)
    place = tl.load(ties_to + tl.program_id(0)) - tl.sum(tie, 0) + tl.cumsum(tie, 0)
    taken = (key < last) | ((tie == 1) & (place <= left))
    tl.store(mask + at, taken.to(tl.int8), mask=inside)


def lowest_of_all(saliency: Tensor, count: int) -> Tensor:
    """Mark the `count` lowest of a whole matrix, lowest index on ties.

    The last key to mark is found byte by byte, from the front: among the keys that begin as it
    does, the next byte's values are counted. Nothing is sorted or waited for.

    Args:
        saliency: float32, float16 or bfloat16, less than 2^31 numbers, without NaN.
        count: 1 to all.
    """
    saliency = saliency.contiguous()
    total, levels = saliency.numel(), DIGITS[saliency.dtype]
    programs = (triton.cdiv(total, PART),)
    counts = torch.zeros(levels, 256, dtype=torch.int32, device=saliency.device)
    for level in range(levels):
        _count_digits[programs](saliency, counts, count, total, LEVEL=level, PART=PART)
    ties = torch.empty(programs, dtype=torch.int32, device=saliency.device)
    _count_ties[programs](saliency, counts, ties, count, total, LEVELS=levels, PART=PART)
    ties_to = ties.cumsum(0, dtype=torch.int32)
    mask = torch.empty(saliency.shape, dtype=torch.int8, device=saliency.device)
    _mark[programs](saliency, mask, counts, ties_to, count, total, LEVELS=levels, PART=PART)
    return mask.view(torch.bool)


@triton.jit
def _lowest_of_each(  # type: ignore[no-untyped-def]
    saliency, mask, total, LOSE: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    place = at % M
    first = at - place
    value = tl.load(saliency + at, mask=inside, other=0.0)
    rank = tl.zeros((BLOCK,), tl.int32)
    for j in tl.static_range(M):
        other = tl.load(saliency + first + j, mask=inside, other=0.0)
        before = (other < value) | ((other == value) & (place > j))
        rank += before.to(tl.int32)
    tl.store(mask + at, (rank < LOSE).to(tl.int8), mask=inside)


def lowest_of_each(saliency: Tensor, lose: int, m: int) -> Tensor:
    """Mark the `lose` lowest of every `m` consecutive columns, lowest index on ties.

    Args:
        saliency: float32 [rows, columns], columns a multiple of `m`, without NaN.
        lose: how many.
        m: of how many.
    """
    saliency = saliency.contiguous()
    mask = torch.empty(saliency.shape, dtype=torch.int8, device=saliency.device)
    block = 1024
    _lowest_of_each[(triton.cdiv(saliency.numel(), block),)](
        saliency, mask, saliency.numel(), LOSE=lose, M=m, BLOCK=block
    )
    return mask.view(torch.bool)
