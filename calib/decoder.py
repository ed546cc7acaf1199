"""One token a step, keys and values in tensors made once: a path for every decoder of
transformers, and a fast one for those of Llama's shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from calib.attention import LEAST_WIDTH, attend
from prune.model.openlm import OpenLMForCausalLM


class PlainDecoder:
    """Any decoder of transformers, by its own forward."""

    def __init__(self, model: PreTrainedModel, room: int) -> None:
        self.model = model
        self.room = room
        self.cache: DynamicCache | None = None

    def start(self, ids: Tensor) -> None:
        """Begin with these tokens, int64 [rows, tokens]; there may be none."""
        self.cache = None  # its memory can be used for the next
        self.cache = roomy_cache(self.model, self.room)
        prefill(self.model, ids, self.cache)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [rows, vocabulary] after one more token a text, int64 [rows]."""
        output = self.model(input_ids=tokens[:, None], past_key_values=self.cache, use_cache=True)
        logits: Tensor = output.logits[:, -1]
        return logits


def prefill(model: PreTrainedModel, ids: Tensor, cache: DynamicCache) -> None:
    """Put the keys and values of `ids` into an empty cache."""
    if ids.shape[1]:
        model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)


class RoomyLayer(DynamicLayer):
    """Keys and values in tensors made once, where the base class copies all of them each step."""

    def __init__(self, room: int, store: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.room = room
        self.store = list(store)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of new tokens; all of them, old and new."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.store = self.store or [
            new.new_empty(*new.shape[:2], self.room, new.shape[3])
            for new in (key_states, value_states)
        ]
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        for store, new in zip(self.store, (key_states, value_states), strict=True):
            store[:, :, start:stop] = new
        self.keys, self.values = (store[:, :, :stop] for store in self.store)
        return self.keys, self.values


def roomy_cache(model: PreTrainedModel, room: int) -> DynamicCache:
    """A cache for `room` tokens; layers that slide or do otherwise stay transformers' own."""
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer(room) if type(x) is DynamicLayer else x for x in cache.layers]
    return cache


# -- the fast path


LEAST_DIFFERENCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Relative difference of logits that a few roundings make; nothing is refused for less."""


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
        self.model = model
        self.length = torch.zeros(1, dtype=torch.int64, device=model.device)
        self.cache = roomy_cache(model, room)
        self.embed, self.embed_norm, self.blocks, self.norm, self.head = _parts(
            model, self.cache, rows, room
        )
        self.cosines, self.sines = _rotations(model, room, self.blocks[0].keys.shape[3])
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
    return torch.compile(function, dynamic=False) if device.type == "cuda" else function


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


# -- looking a model up


def _parts(
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
        parts = [getattr(linear, name) for linear in linears]
        if parts[0] is None:
            continue
        whole = torch.cat(parts)
        setattr(joined, name, nn.Parameter(whole, requires_grad=False))
        for part, view in zip(parts, whole.split(rows), strict=True):
            part.data = view
    return joined


FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding whose angles depend on the position alone."""


def _rotations(model: PreTrainedModel, room: int, width: int) -> tuple[Tensor, Tensor]:
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
