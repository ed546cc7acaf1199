"""The lowest saliencies of rows, and of every M columns."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LONGEST_ROW = 65536
"""Columns of a row that one program ranks in its registers."""


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
