"""One token a step, for decoders of Llama's shape: few kernels, and no look at the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from calib.attention import attend
from calib.decoder import PlainDecoder, prefill, roomy_cache
from calib.llama_shape import Norm, NotFastError, parts, rotations
from prune.model.triton_check import triton_runs

LEAST_DIFFERENCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Relative difference of logits that a few roundings make; nothing is refused for less."""


class FastDecoder:
    """Decoders of Llama's shape (Llama, Mistral, Qwen2, Qwen3, OpenLM, ...).

    The same arithmetic as the model's own forward up to rounding, with wide projections, few
    kernels and no look at the host, so that `step` can be recorded as a CUDA graph. The first
    tokens go through the model's own forward, into the same keys and values.
    """

    def __init__(self, model: PreTrainedModel, rows: int, room: int) -> None:
        """Look a model up and compare with its own forward.

        Raises:
            NotFastError: it has another shape, or other logits.
        """
        if model.device.type == "cuda" and not triton_runs():
            raise NotFastError("Triton does not run here")
        self.model = model
        self.length = torch.zeros(1, dtype=torch.int64, device=model.device)
        self.cache = roomy_cache(model, room)
        self.embed, self.embed_norm, self.blocks, self.norm, self.head = parts(
            model, self.cache, rows, room
        )
        self.cosines, self.sines = rotations(model, room, self.blocks[0].keys.shape[3])
        self._add_and_norm = _fused(add_and_norm, model.device)
        self._rotate = _fused(split_and_rotate, model.device)
        self._gate = _fused(gate, model.device)
        self._compare(rows, room)

    def start(self, ids: Tensor) -> None:
        """Begin with these tokens, int64 [rows, tokens]; there may be none."""
        for layer in self.cache.layers:
            layer.keys, layer.values = (store[:, :, :0] for store in layer.store)  # type: ignore[union-attr]
        prefill(self.model, ids, self.cache)
        self.length.fill_(ids.shape[1])

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [rows, vocabulary] after one more token a text, int64 [rows]."""
        stream, update = self.embed(tokens), None
        if self.embed_norm is not None:
            _, stream = self._add_and_norm(stream, None, self.embed_norm)
        for block in self.blocks:
            stream, hidden = self._add_and_norm(stream, update, block.mix_norm)
            mixed = block.mix_in(hidden)
            queries, keys = self._rotate(
                mixed[:, : -block.narrow],
                block.narrow,
                (block.q_norm, block.k_norm),
                self.cosines.index_select(0, self.length),
                self.sines.index_select(0, self.length),
            )
            values = mixed[:, -block.narrow :]
            hidden = attend(
                queries, keys, values, block.keys, block.values, self.length, block.scaling
            )
            stream, hidden = self._add_and_norm(stream, block.mix_out(hidden), block.mlp_norm)
            update = block.mlp_out(self._gate(block.mlp_in(hidden)))
        _, hidden = self._add_and_norm(stream, update, self.norm)
        self.length += 1
        logits: Tensor = self.head(hidden)
        return logits

    def _compare(self, rows: int, room: int) -> None:
        """Refuse where a few steps are further from the model's whole forward than its own steps.

        Those differ from it, too, by the rounding of their products, which in 16 bits and many
        blocks is no small thing; it is the measure of what is allowed.
        """
        few, tokens = min(rows, 4), min(room, 8)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(self.embed.num_embeddings, (rows, tokens), generator=generator)
        ids = ids.to(self.length.device)
        plain = PlainDecoder(self.model, tokens)
        self.start(ids[:, : tokens // 2])
        plain.start(ids[:few, : tokens // 2])
        for i in range(tokens // 2, tokens):
            found, own = self.step(ids[:, i])[:few], plain.step(ids[:few, i])
        whole = self.model(input_ids=ids[:few], use_cache=False).logits[:, -1].double()
        difference, usual = (
            float((x.double() - whole).norm() / whole.norm()) for x in (found, own)
        )
        if not difference <= 4 * usual + LEAST_DIFFERENCE[found.dtype]:
            raise NotFastError(f"its logits differ by {difference:.1e}, usual are {usual:.1e}")


def _fused(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """One kernel in place of several, on a GPU."""
    if device.type != "cuda":
        return function
    # each number of texts is compiled for itself; torch stops at 8 and goes on in other kernels,
    # so that what is written would depend on what this process wrote before
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
    return torch.compile(function, dynamic=False)


def normalise(x: Tensor, norm: Norm) -> Tensor:
    """The norm of the last dimension, computed in float32."""
    wide = x.float()
    if norm.centred:
        wide = wide - wide.mean(-1, keepdim=True)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)
    return norm.weight * wide.to(x.dtype)


def add_and_norm(stream: Tensor, update: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """The residual stream with an update added, and its norm."""
    stream = stream if update is None else stream + update
    return stream, normalise(stream, norm)


def split_and_rotate(
    mixed: Tensor,
    narrow: int,
    norms: tuple[Norm | None, Norm | None],
    cosine: Tensor,
    sine: Tensor,
) -> tuple[Tensor, Tensor]:
    """Queries and keys of one token a text, normed and rotated.

    Args:
        mixed: queries and keys side by side, [texts, (heads + key_heads) x head_dim].
        narrow: channels of the keys.
        norms: of queries and of keys.
        cosine: of the token's position, [1, heads or 1, head_dim]. sine: likewise.

    Returns:
        [texts, heads, head_dim] and [texts, key_heads, head_dim].
    """
    width = cosine.shape[2]

    def ready(x: Tensor, norm: Norm | None) -> Tensor:
        if norm is not None and norm.weight.numel() != width:  # over all heads together
            x = normalise(x, norm)
        x = x.unflatten(1, (-1, width))
        if norm is not None and norm.weight.numel() == width:
            x = normalise(x, norm)
        first, second = x.chunk(2, -1)
        return (x * cosine + torch.cat((-second, first), -1) * sine).contiguous()

    queries, keys = mixed.split([mixed.shape[1] - narrow, narrow], 1)
    return ready(queries, norms[0]), ready(keys, norms[1])


def gate(hidden: Tensor) -> Tensor:
    """SwiGLU's product: silu(gate) x up, from both side by side (Shazeer 2020)."""
    gates, ups = hidden.chunk(2, -1)
    return F.silu(gates) * ups
