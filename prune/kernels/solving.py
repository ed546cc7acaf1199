"""SparseGPT's walk over a block of columns, all rows at once, every bit as plain torch does it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _solve(  # type: ignore[no-untyped-def]
    weight,
    mask,
    errors,
    factor,
    counts,
    rows,
    weight_stride,
    mask_stride,
    factor_stride,
    COLUMNS: tl.constexpr,
    M: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < COLUMNS)[None, :]
    W = tl.load(weight + row[:, None] * weight_stride + column[None, :], mask=inside, other=0.0)
    diagonal = tl.load(factor + column * (factor_stride + 1), mask=column < COLUMNS, other=1.0)
    marks = mask + row[:, None] * mask_stride + column[None, :]
    gone = tl.zeros((ROWS, WIDTH), tl.int1)
    if M == 0:
        gone = tl.load(marks, mask=inside, other=0) != 0
    E = tl.zeros((ROWS, WIDTH), W.dtype)
    for j in range(0, COLUMNS):
        if M > 0:  # noqa: SIM102 - known when the kernel is compiled
            if j % M == 0:  # decide the next M columns, after all updates so far
                groups = COLUMNS // M
                lose = tl.load(counts + row * groups + j // M, mask=row < rows, other=0)
                score = tl.div_rn(W, diagonal[None, :])
                score = score * score
                rank = tl.zeros((ROWS, WIDTH), tl.int32)
                for i in tl.static_range(M):
                    other = tl.sum(tl.where((column == j + i)[None, :], score, 0.0), 1)[:, None]
                    before = (other < score) | ((other == score) & (column > j + i)[None, :])
                    rank += before.to(tl.int32)
                here = ((column >= j) & (column < j + M))[None, :]
                gone = gone | (here & (rank < lose[:, None]))
        this = (column == j)[None, :]
        pivot = tl.load(factor + j * (factor_stride + 1))
        error = tl.div_rn(tl.sum(tl.where(this & gone, W, 0.0), 1), pivot)
        later = tl.load(
            factor + j * factor_stride + column, mask=(column > j) & (column < COLUMNS), other=0.0
        )
        W -= error[:, None] * later[None, :]
        E = tl.where(this, error[:, None], E)
    W = tl.where(gone, 0.0, W)
    tl.store(weight + row[:, None] * weight_stride + column[None, :], W, mask=inside)
    tl.store(errors + row[:, None] * COLUMNS + column[None, :], E, mask=inside)
    if M > 0:
        tl.store(marks, gone.to(tl.int8), mask=inside)


def solve(W: Tensor, mask: Tensor, factor: Tensor, counts: Tensor | None, m: int) -> Tensor:
    """Prune a block of columns of all rows, each column compensating for those before it.

    Args:
        W: weights with all updates so far, [rows, B]; changed in place.
        mask: bool [rows, B]; read where `counts` is None, else filled in place.
        factor: the block's part of the factor of H^-1, [B, B], dtype of `W`.
        counts: how many each row loses of every `m` columns, int32 [rows, B / m].
        m: see `counts`; 0 without it.

    Returns:
        w / d of the pruned weights and 0 elsewhere, [rows, B].
    """
    rows, columns = W.shape
    errors = torch.empty(rows, columns, dtype=W.dtype, device=W.device)
    tile = 16
    _solve[(triton.cdiv(rows, tile),)](
        W,
        mask.view(torch.int8),
        errors,
        factor,
        errors if counts is None else counts,
        rows,
        W.stride(0),
        mask.stride(0),
        factor.stride(0),
        COLUMNS=columns,
        M=m,
        ROWS=tile,
        WIDTH=triton.next_power_of_2(columns),
        num_warps=4,
        enable_fp_fusion=False,  # torch rounds products before it takes them away
    )
    return errors
