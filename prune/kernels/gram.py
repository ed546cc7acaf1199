"""The Gram matrix of half-precision inputs: what a GPU sums at once is added up in registers."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 128
STEP = 64
"""Tokens of one product. The compiler would make one sum of a single product and the total."""

NEIGHBOURS = 8
"""Rows of tiles that are walked together, since they read the same inputs."""

MOST_STAGES = 3
"""Products whose inputs are on their way at once, where shared memory holds so many."""


@triton.jit
def _add_products(  # type: ignore[no-untyped-def]
    x,
    upper,
    places,
    tokens,
    columns,
    stride,
    AT_ONCE: tl.constexpr,
    STEP: tl.constexpr,
    TILE: tl.constexpr,
):
    place = places + 2 * tl.program_id(0)
    row = tl.load(place) * TILE + tl.arange(0, TILE)
    column = tl.load(place + 1) * TILE + tl.arange(0, TILE)
    at = upper + row[:, None].to(tl.int64) * columns + column[None, :]
    inside = (row < columns)[:, None] & (column < columns)[None, :]
    total = tl.load(at, mask=inside, other=0.0)
    for start in range(0, tokens, AT_ONCE):
        product = tl.zeros((TILE, TILE), tl.float32)
        for step in tl.static_range(AT_ONCE // STEP):
            token = start + step * STEP + tl.arange(0, STEP)
            first = x + token[:, None].to(tl.int64) * stride
            there = (token < tokens)[:, None]
            left = tl.load(first + row[None, :], mask=there & (row < columns)[None, :], other=0.0)
            right = tl.load(
                first + column[None, :], mask=there & (column < columns)[None, :], other=0.0
            )
            product = tl.dot(tl.trans(left), right, product)
        total += product
    tl.store(at, total, mask=inside)


def add_products(x: Tensor, upper: Tensor, at_once: int) -> None:
    """Add x^T x to `upper`, on and above its diagonal; what is below is of no use.

    Args:
        x: half precision, [tokens, C], columns next to each other in memory.
        upper: float32 [C, C], changed in place.
        at_once: tokens that the GPU sums by itself; a multiple of `STEP`, two at least.
    """
    tokens, columns = x.shape
    places = _places(-(-columns // TILE), x.device)
    gpu: Any = torch.cuda.get_device_properties(x.device)
    stage = 2 * at_once * TILE * x.element_size()
    _add_products[(len(places),)](
        x,
        upper,
        places,
        tokens,
        columns,
        x.stride(0),
        AT_ONCE=at_once,
        STEP=STEP,
        TILE=TILE,
        num_warps=8,
        num_stages=max(1, min(MOST_STAGES, gpu.shared_memory_per_block_optin // stage)),
    )


@cache
def _places(tiles: int, device: torch.device) -> Tensor:
    """The tiles on and above the diagonal, neighbours after each other; int32 [any, 2]."""
    found = [(row, column) for row in range(tiles) for column in range(row, tiles)]
    found.sort(key=lambda place: (place[0] // NEIGHBOURS, place[1], place[0]))
    return torch.tensor(found, dtype=torch.int32, device=device)
