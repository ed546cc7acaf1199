"""OpenLM decoders (apple/DCLM-7B, TRI-ML/DCLM-1B) as a model of transformers.

Importing this module registers it, so that `AutoModelForCausalLM.from_pretrained` loads the
published folders as they are: without remote code, open_lm or xformers. The architecture is that
of github.com/mlfoundations/open_lm (`model.py`, `norms.py`, `positional_embedding/`); parameters
have the names of the published checkpoints.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from prune.model.openlm_config import OpenLMConfig

_ROPE_BASE = 10000.0


def _norm(config: OpenLMConfig, width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=config.norm_eps, bias=False)


class OpenLMRotary(nn.Module):
    """The cosines and sines that queries and keys are rotated by.

    `rotary` turns the token at position p by p times the head's frequencies, as usual (halves
    rotated, base 10,000). `head_rotary` is what the first OpenLM models were trained with, by a
    mistake that was then kept for them: the angle grows with the *head*, not with the position.
    All tokens of head h turn by h times the frequencies, queries and keys alike, so it cancels in
    their product up to rounding: such a model knows order by its causal mask alone, and cached
    keys are right whatever position they are used from.

    Frequencies are rounded to the dtype of the activations before they meet the positions, as
    open_lm does. That is no detail: DCLM was trained in bfloat16 (`--fsdp-pure-bf16` at 7B, bf16
    autocast at 1B), where it turns a token at position 2,000 by up to 2.5 radians. A float32 or
    float16 run of its weights, here as there, therefore has other angles than training had.
    """

    def __init__(self, config: OpenLMConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.n_heads = config.n_heads
        self.by_head = config.positional_embedding_type == "head_rotary"

    @torch.no_grad()
    def forward(self, hidden_states: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines in the dtype and on the device of the hidden states.

        Args:
            hidden_states: [batch, tokens, dim]; only dtype and device count.
            position_ids: [batch or 1, tokens].

        Returns:
            Two tensors that broadcast to [batch, heads, tokens, head_dim]: [batch, 1, tokens,
            head_dim] for `rotary`, [1, heads, 1, head_dim] for `head_rotary`.
        """
        device, dtype = hidden_states.device, hidden_states.dtype
        # on the CPU, so that every device gets the same frequencies; no buffer, which a change
        # of the model's dtype would round for good
        channels = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device="cpu")
        frequencies = 1.0 / (_ROPE_BASE ** (channels / self.head_dim))
        frequencies = frequencies.to(device=device, dtype=dtype).float()
        if self.by_head:
            positions = torch.arange(self.n_heads, device=device)[None, :, None]
        else:
            positions = position_ids.to(device)[:, None, :]
        angles = positions[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the channel pairs (i, i + head_dim / 2) of x, [batch, heads, tokens, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Softmax attention in plain torch, for `attn_implementation="eager"`.

    Args:
        module: the attention module; for its training flag.
        query: [batch, heads, tokens, head_dim].
        key: [batch, heads, seen, head_dim].
        value: [batch, heads, seen, head_dim].
        attention_mask: added to the scores, or boolean (True = attend); [batch, 1, tokens, seen].
        scaling: factor of the scores.
        dropout: probability that a weight is dropped.
        kwargs: what other attention functions take; ignored.

    Returns:
        The mixed values, [batch, tokens, heads, head_dim], and the attention weights.
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    weights = F.dropout(weights.to(query.dtype), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class OpenLMAttention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values.

    Attributes:
        fused_parts: rows of `in_proj` that make the queries, keys and values.
    """

    def __init__(self, config: OpenLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        self.num_key_value_groups = 1
        width = config.n_heads * self.head_dim
        self.in_proj = nn.Linear(config.dim, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, config.dim, bias=False)
        # over the whole width, before it is split into heads
        self.q_norm = _norm(config, width) if config.apply_qk_norm else nn.Identity()
        self.k_norm = _norm(config, width) if config.apply_qk_norm else nn.Identity()
        rows = {p: slice(i * width, (i + 1) * width) for i, p in enumerate(("q", "k", "v"))}
        self.fused_parts = {"in_proj": rows}

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within [batch, tokens, dim]; returns the same shape and the weights, if any."""
        batch, tokens, _ = hidden_states.shape
        queries, keys, values = self.in_proj(hidden_states).chunk(3, dim=-1)
        shape = (batch, tokens, -1, self.head_dim)
        queries = self.q_norm(queries).view(shape).transpose(1, 2)
        keys = self.k_norm(keys).view(shape).transpose(1, 2)
        values = values.view(shape).transpose(1, 2)
        queries = _rotate(queries, *position_embeddings)
        keys = _rotate(keys, *position_embeddings)
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        mixed, weights = attend(
            self, queries, keys, values, attention_mask, scaling=self.scaling, **kwargs
        )
        return self.out_proj(mixed.reshape(batch, tokens, -1).contiguous()), weights


class OpenLMFeedForward(nn.Module):
    """SwiGLU: `w3(silu(gate) * up)`, with gate and up in one projection, gate first.

    Attributes:
        fused_parts: rows of `w12` that make the gate and the up projection.
    """

    def __init__(self, config: OpenLMConfig) -> None:
        super().__init__()
        width = config.intermediate_size
        self.w12 = nn.Linear(config.dim, 2 * width, bias=False)
        self.w3 = nn.Linear(width, config.dim, bias=False)
        self.fused_parts = {"w12": {"gate": slice(0, width), "up": slice(width, 2 * width)}}

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., dim] to [..., dim]."""
        gate, up = self.w12(hidden_states).chunk(2, dim=-1)
        output: Tensor = self.w3(F.silu(gate) * up)
        return output


class OpenLMBlock(GradientCheckpointingLayer):
    """One decoder block: attention and feed-forward, each after a norm and added to its input."""

    def __init__(self, config: OpenLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention = OpenLMAttention(config, layer_idx)
        self.feed_forward = OpenLMFeedForward(config)
        self.attention_norm = _norm(config, config.dim)
        self.ffn_norm = _norm(config, config.dim)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Apply the block.

        Args:
            hidden_states: [batch, tokens, dim].
            attention_mask: as the attention function wants it; None is causal.
            position_embeddings: what `OpenLMRotary` returns.
            past_key_values: where keys and values of this block are appended.
            kwargs: passed to the attention function.

        Returns:
            [batch, tokens, dim].
        """
        if position_embeddings is None:
            raise ValueError(
                "an OpenLM block needs position_embeddings, as OpenLMRotary makes them"
            )
        mixed, _ = self.attention(
            self.attention_norm(hidden_states),
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        hidden_states = hidden_states + mixed
        output: Tensor = hidden_states + self.feed_forward(self.ffn_norm(hidden_states))
        return output


class OpenLMPreTrainedModel(PreTrainedModel):
    """What transformers has to know of OpenLM models to load, save and place them."""

    config_class = OpenLMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _input_embed_layer = "tok_embeddings"
    _no_split_modules = ["OpenLMBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    # open_lm keeps the frequencies as a buffer of every block and so publishes them
    _keys_to_ignore_on_load_unexpected = [r"attention\.pos_embed\.inv_freq$"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": OpenLMBlock,
        "attentions": OpenLMAttention,
    }


class OpenLMModel(OpenLMPreTrainedModel):
    """The decoder. It also holds the output projection, as the published names have it there."""

    _tied_weights_keys = {"output.weight": "tok_embeddings.weight"}

    def __init__(self, config: OpenLMConfig) -> None:
        super().__init__(config)
        config.refuse_unsupported()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.post_embed_norm = (
            _norm(config, config.dim) if config.post_embed_norm else nn.Identity()
        )
        self.layers = nn.ModuleList(OpenLMBlock(config, i) for i in range(config.n_layers))
        self.norm = _norm(config, config.dim)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.rotary = OpenLMRotary(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states after the last norm.

        Args:
            input_ids: [batch, tokens]; or give `inputs_embeds`.
            attention_mask: [batch, seen] with 1 for real tokens; or a ready mask, [batch, 1,
                tokens, seen], boolean (True = attend) or added to the scores.
            position_ids: [batch or 1, tokens]; by default they continue those in the cache.
            past_key_values: keys and values of earlier tokens; appended to.
            inputs_embeds: [batch, tokens, dim].
            use_cache: make a cache where none was given.
            kwargs: passed to the attention function.

        Raises:
            ValueError: not exactly one of `input_ids` and `inputs_embeds` was given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        hidden = self.tok_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        hidden = self.post_embed_norm(hidden)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(hidden.shape[1], device=hidden.device) + seen)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        rotary = self.rotary(hidden, position_ids)
        for block in self.layers:
            hidden = block(
                hidden,
                attention_mask=mask,
                position_embeddings=rotary,
                position_ids=position_ids,
                past_key_values=past_key_values,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values
        )


class OpenLMForCausalLM(OpenLMPreTrainedModel, GenerationMixin):
    """OpenLM as a language model: logits over the vocabulary, generation."""

    def __init__(self, config: OpenLMConfig) -> None:
        super().__init__(config)
        self.model = OpenLMModel(config)
        self.vocab_size = config.vocab_size
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The output projection."""
        return self.model.output

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output projection."""
        self.model.output = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, [batch, tokens, vocab_size] in the dtype of the weights.

        Args:
            input_ids: this one and those not named here are those of `OpenLMModel.forward`.
            labels: [batch, tokens]; the mean loss of predicting them is returned too, -100 is
                left out.
            logits_to_keep: compute the last so many tokens only (0 = all), or the tokens with
                these indices.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.model.output(outputs.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def register() -> None:
    """Make transformers' Auto classes know `model_type: openlm`; calling it again is harmless."""
    AutoConfig.register(OpenLMConfig.model_type, OpenLMConfig, exist_ok=True)
    AutoModel.register(OpenLMConfig, OpenLMModel, exist_ok=True)
    AutoModelForCausalLM.register(OpenLMConfig, OpenLMForCausalLM, exist_ok=True)


register()
