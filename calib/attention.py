"""Attention of one new token a text over the keys and values before it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

try:
    import triton
    import triton.language as tl
except ImportError:  # torch brings it where it can use a GPU
    triton = None

TOKENS, WARPS, STAGES = 32, 1, 3
"""Tokens that a program reads at a time, its warps, and the loads it keeps in flight."""

IN_FLIGHT_BYTES = 256
"""Of a token's key, up to which more than one load is: more would not fit into smaller GPUs."""

LEAST_ROWS = LEAST_WIDTH = 16
"""The smallest product that a GPU's matrix units take; queries are padded to it."""


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    past_keys: Tensor,
    past_values: Tensor,
    length: Tensor,
    scaling: float,
) -> Tensor:
    """Append a token's keys and values to those before it, and attend over all of them.

    Args:
        queries: [texts, heads, head_dim], contiguous.
        keys: [texts, key_heads, head_dim], contiguous.
        values: [texts, key_heads x head_dim]; may be part of a wider tensor.
        past_keys: [texts, key_heads, room, head_dim]; the new ones are put in at `length`.
        past_values: likewise.
        length: tokens of every text so far, int64 [1] on the same device: it is read there, so
            that one recorded step serves all lengths.
        scaling: factor of the scores.

    Returns:
        [texts, heads x head_dim].
    """
    texts, heads, width = queries.shape
    key_heads, room = past_keys.shape[1:3]
    if not queries.is_cuda:
        last = int(length)
        past_keys[:, :, last] = keys
        past_values[:, :, last] = values.view_as(keys)
        mixed = F.scaled_dot_product_attention(
            queries[:, :, None],
            past_keys[:, :, : last + 1],
            past_values[:, :, : last + 1],
            scale=scaling,
            enable_gqa=heads != key_heads,
        )
        return mixed.flatten(1)
    mixed = torch.empty(texts, heads * width, dtype=queries.dtype, device=queries.device)
    group = heads // key_heads
    _kernel[(texts * key_heads,)](
        queries,
        keys,
        values,
        past_keys,
        past_values,
        mixed,
        length,
        scaling * 1.4426950408889634,  # powers of two are what the hardware has
        values.stride(0),
        room,
        KEY_HEADS=key_heads,
        GROUP=group,
        ROWS=max(LEAST_ROWS, triton.next_power_of_2(group)),
        WIDTH=width,
        TOKENS=TOKENS,
        PRECISION="ieee" if queries.dtype == torch.float32 else "tf32",
        num_warps=WARPS,
        num_stages=STAGES if width * queries.element_size() <= IN_FLIGHT_BYTES else 1,
    )
    return mixed


# Triton reads annotations as its own, so only its constants have one
def _attend(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    past_keys,
    past_values,
    mixed,
    length_of,
    scaling,
    values_stride,
    room,
    KEY_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One key head of one text, and the `GROUP` query heads that read it.

    A softmax in one pass (Milakov and Gimelshein 2018, Dao et al. 2022): `highest` is the highest
    score so far, `total` and `mixture` are sums relative to it.
    """
    program = tl.program_id(0)
    text, head = program // KEY_HEADS, program % KEY_HEADS
    length = tl.load(length_of).to(tl.int32)
    row, channel, token = tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, TOKENS)
    inside = (row < GROUP)[:, None]
    lane = (program * GROUP + row)[:, None] * WIDTH + channel[None, :]
    query = tl.load(queries + lane, mask=inside, other=0.0)

    # the new token, from registers: what is stored here is read by later steps only
    past = program.to(tl.int64) * room * WIDTH
    key = tl.load(keys + program * WIDTH + channel)
    value = tl.load(values + text * values_stride + head * WIDTH + channel)
    tl.store(past_keys + past + length * WIDTH + channel, key)
    tl.store(past_values + past + length * WIDTH + channel, value)
    highest = tl.sum(query.to(tl.float32) * key[None, :].to(tl.float32), 1) * scaling
    total = tl.full([ROWS], 1.0, tl.float32)
    mixture = tl.zeros([ROWS, WIDTH], tl.float32) + value[None, :].to(tl.float32)

    for start in range(0, length, TOKENS):
        seen = start + token < length
        at = past + (start + token)[:, None] * WIDTH + channel[None, :]
        key_tile = tl.load(past_keys + at, mask=seen[:, None], other=0.0)
        value_tile = tl.load(past_values + at, mask=seen[:, None], other=0.0)
        scores = tl.dot(query, tl.trans(key_tile), input_precision=PRECISION) * scaling
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrink = tl.exp2(highest - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        mixture = mixture * shrink[:, None]
        mixture += tl.dot(weights.to(value_tile.dtype), value_tile, input_precision=PRECISION)
        highest = higher
    result = mixture / total[:, None]
    tl.store(mixed + lane, result.to(query.dtype), mask=inside)


if triton is not None:
    _kernel = triton.jit(_attend)
