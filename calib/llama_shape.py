"""Looking a model up: the parts of a decoder of Llama's shape, with room for keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from calib.attention import LEAST_WIDTH
from calib.decoder import RoomyLayer
from prune.model.openlm import OpenLMForCausalLM

FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding whose angles depend on the position alone."""


class NotFastError(ValueError):
    """A model that the fast path does not hold for, and why."""


class Norm(NamedTuple):
    """An RMS norm, or a layer norm (`centred`)."""

    weight: Tensor
    eps: float
    centred: bool

    @classmethod
    def of(cls, module: nn.Module) -> Norm | None:
        """The norm that a module is; None for none.

        Raises:
            NotFastError: it is another one.
        """
        if isinstance(module, nn.Identity):
            return None
        if isinstance(module, nn.LayerNorm) and module.bias is None:
            return cls(module.weight, module.eps, True)
        if hasattr(module, "variance_epsilon"):
            return cls(module.weight, module.variance_epsilon, False)  # type: ignore[arg-type]
        raise NotFastError(f"it has a norm of another kind ({type(module).__name__})")


@dataclass(frozen=True)
class Block:
    """The parts of one decoder block.

    Attributes:
        mix_norm, mlp_norm: norms before attention and feed-forward.
        mix_in: queries, keys and values in one. mix_out: after attention.
        q_norm, k_norm: norms of queries and keys, of a head or of all heads together.
        mlp_in: gate and up projection in one. mlp_out: down projection.
        scaling: factor of the scores.
        keys, values: [rows, key_heads, room, head_dim].
    """

    mix_norm: Norm
    mix_in: nn.Linear
    q_norm: Norm | None
    k_norm: Norm | None
    mix_out: nn.Linear
    mlp_norm: Norm
    mlp_in: nn.Linear
    mlp_out: nn.Linear
    scaling: float
    keys: Tensor
    values: Tensor

    @property
    def narrow(self) -> int:
        """Channels of all heads of keys together."""
        return self.keys.shape[1] * self.keys.shape[3]


def parts(
    model: PreTrainedModel, cache: DynamicCache, rows: int, room: int
) -> tuple[nn.Embedding, Norm | None, list[Block], Norm, nn.Linear]:
    """Embedding, its norm, blocks, last norm and output projection.

    Raises:
        NotFastError: the model has another shape.
    """
    if not all(type(layer) is RoomyLayer for layer in cache.layers):
        raise NotFastError("its attention is not over all tokens")
    find = _openlm_blocks if isinstance(model, OpenLMForCausalLM) else _llama_blocks
    base: Any = model.base_model
    try:
        blocks = list(find(base, cache, rows, room))
        embed_norm = Norm.of(base.post_embed_norm) if find is _openlm_blocks else None
        norm, head = Norm.of(base.norm), model.get_output_embeddings()
    except AttributeError as error:
        raise NotFastError(f"it has no {error.name}") from None
    embed = model.get_input_embeddings()
    if norm is None or not isinstance(embed, nn.Embedding) or not isinstance(head, nn.Linear):
        raise NotFastError("its embeddings are of another kind")
    return embed, embed_norm, blocks, norm, head


def _llama_blocks(base: Any, cache: DynamicCache, rows: int, room: int) -> Iterator[Block]:
    for layer, stored in zip(base.layers, cache.layers, strict=True):
        mix, mlp = layer.self_attn, layer.mlp
        yield Block(
            mix_norm=_some_norm(layer.input_layernorm),
            mix_in=_joined([mix.q_proj, mix.k_proj, mix.v_proj]),
            q_norm=Norm.of(getattr(mix, "q_norm", nn.Identity())),
            k_norm=Norm.of(getattr(mix, "k_norm", nn.Identity())),
            mix_out=mix.o_proj,
            mlp_norm=_some_norm(layer.post_attention_layernorm),
            mlp_in=_joined([mlp.gate_proj, mlp.up_proj]),
            mlp_out=mlp.down_proj,
            scaling=mix.scaling,
            **_store(stored, rows, mix.k_proj.out_features, room, mix.head_dim, mix.k_proj.weight),
        )


def _openlm_blocks(base: Any, cache: DynamicCache, rows: int, room: int) -> Iterator[Block]:
    for layer, stored in zip(base.layers, cache.layers, strict=True):
        mix, mlp = layer.attention, layer.feed_forward
        width = mix.in_proj.out_features // 3
        yield Block(
            mix_norm=_some_norm(layer.attention_norm),
            mix_in=mix.in_proj,
            q_norm=Norm.of(mix.q_norm),
            k_norm=Norm.of(mix.k_norm),
            mix_out=mix.out_proj,
            mlp_norm=_some_norm(layer.ffn_norm),
            mlp_in=mlp.w12,
            mlp_out=mlp.w3,
            scaling=mix.scaling,
            **_store(stored, rows, width, room, mix.head_dim, mix.in_proj.weight),
        )


def _some_norm(module: nn.Module) -> Norm:
    norm = Norm.of(module)
    if norm is None:
        raise NotFastError("a block has no norm")
    return norm


def _store(
    layer: Any, rows: int, width: int, room: int, head_dim: int, like: Tensor
) -> dict[str, Tensor]:
    """Room for the keys and values of a block, known to the layer of the cache too."""
    if like.is_cuda and (head_dim < LEAST_WIDTH or head_dim & (head_dim - 1)):
        raise NotFastError(f"its heads have {head_dim} channels")
    layer.store = [like.new_empty(rows, width // head_dim, room, head_dim) for _ in range(2)]
    layer.lazy_initialization(*layer.store)
    return dict(zip(("keys", "values"), layer.store, strict=True))


def _joined(linears: Sequence[nn.Linear]) -> nn.Linear:
    """Projections of one input side by side; theirs become views of the joined weight."""
    rows = [linear.out_features for linear in linears]
    joined = nn.Linear(
        linears[0].in_features, sum(rows), bias=linears[0].bias is not None, device="meta"
    )
    for name in ("weight", "bias"):
        own = [getattr(linear, name) for linear in linears]
        if own[0] is None:
            continue
        whole = torch.cat(own)
        setattr(joined, name, nn.Parameter(whole, requires_grad=False))
        for part, view in zip(own, whole.split(rows), strict=True):
            part.data = view
    return joined


def rotations(model: PreTrainedModel, room: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, [room, heads or 1, head_dim]."""
    base: Any = model.base_model
    rotary = getattr(base, "rotary_emb", None) or getattr(base, "rotary", None)
    if rotary is None or getattr(rotary, "rope_type", "default") not in FIXED_ROTATIONS:
        raise NotFastError("its rotary embedding is of another kind")
    weight: Any = model.get_input_embeddings().weight
    tables = rotary(weight[None, :1], torch.arange(room, device=weight.device)[None])
    if tables[0].shape[-1] != width:
        raise NotFastError("it rotates a part of the channels only")
    tables = [t if t.dim() == 4 else t[:, None] for t in tables]  # [1, heads or 1, room or 1, C]
    cosines, sines = (t[0].transpose(0, 1).expand(room, -1, -1).contiguous() for t in tables)
    return cosines, sines
