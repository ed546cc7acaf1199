"""The configuration of OpenLM models (DCLM-7B, DCLM-1B), in the forms their files are published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from transformers import PreTrainedConfig

# the architecture of a model, in open_lm's own names
_REQUIRED = ("dim", "n_layers", "n_heads", "vocab_size")
_OPTIONAL = (
    "seq_len",
    "norm_eps",
    "norm_type",
    "apply_qk_norm",
    "post_embed_norm",
    "weight_tying",
    "positional_embedding_type",
    "ffn_type",
    "attn_name",
    "moe_freq",
)
# open_lm's model files and its command line call three of them differently
_OTHER_NAMES = {"hidden_dim": "dim", "model_norm": "norm_type", "qk_norm": "apply_qk_norm"}
_NESTED = ("params_args_dict", "params_args", "params")

_ALLOWED = {
    # the two differ under autocast only, where "lp" stays in the lower precision
    "norm_type": ("gain_only_lp_layer_norm", "gain_only_layer_norm"),
    "positional_embedding_type": ("rotary", "head_rotary"),
    # the same function with the same weights: xformers' kernel and plain torch
    "ffn_type": ("swiglu", "swiglu_torch"),
    # all of them softmax attention
    "attn_name": ("auto", "torch_attn", "xformers_attn", "xformers_attn_variable_length"),
    "moe_freq": (0,),
}


class OpenLMConfig(PreTrainedConfig):
    """What an OpenLM decoder is made of. The names are open_lm's, so a saved file loads there too.

    transformers' standard names (`hidden_size`, `num_hidden_layers`, ...) read and write the same
    values. Source: github.com/mlfoundations/open_lm, `model.py` (`Params`) and `hf/`.

    Attributes:
        dim: width of the residual stream.
        n_layers: number of decoder blocks.
        n_heads: number of attention heads; each has `dim // n_heads` channels.
        vocab_size: rows of the embedding (50,432 in DCLM: the tokenizer's, rounded up).
        seq_len: training context in tokens; longer inputs are computed, not refused.
        norm_eps: added to the variance in every norm.
        norm_type: `gain_only_lp_layer_norm` or `gain_only_layer_norm` (no bias).
        apply_qk_norm: norms over all channels of the queries and of the keys.
        post_embed_norm: a norm directly after the embedding.
        weight_tying: the output projection is the embedding.
        positional_embedding_type: `rotary` or `head_rotary`, see `openlm.OpenLMRotary`.
        ffn_type: `swiglu` or `swiglu_torch`.
        attn_name: which softmax kernel open_lm ran; without effect here.
        moe_freq: every how many blocks has experts; only 0 (none) is supported.
        use_cache: whether the model returns keys and values by default.
        initializer_range: standard deviation of fresh weights.

    Raises:
        ValueError: a value that this model does not implement; the message names all of them.
    """

    model_type = "openlm"
    keys_to_ignore_at_inference = ("past_key_values",)
    attribute_map = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "seq_len",
        "tie_word_embeddings": "weight_tying",
    }

    dim: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    vocab_size: int = 50432
    seq_len: int = 2048
    norm_eps: float = 1e-5
    norm_type: str = "gain_only_lp_layer_norm"
    apply_qk_norm: bool = False
    post_embed_norm: bool = False
    weight_tying: bool = False
    positional_embedding_type: str = "rotary"
    ffn_type: str = "swiglu_torch"
    attn_name: str = "auto"
    moe_freq: int = 0
    use_cache: bool = True
    initializer_range: float = 0.02
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.refuse_unsupported()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """The configuration of a `config.json`, be it flat or in open_lm's nested form.

        Published files either have the names above at the top level, or have them inside
        `params_args_dict` beside a null `params`. Where both are there the top level counts.

        Raises:
            ValueError: the sizes are in neither place, or a value is not supported.
        """
        config: Self = super().from_dict(_flat(config_dict), **kwargs)
        return config

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.n_heads

    @property
    def intermediate_size(self) -> int:
        """Hidden width of the feed-forward: 8/3 of `dim`, rounded up to a multiple of 256."""
        return 256 * ((int(2 * 4 * self.dim / 3) + 255) // 256)

    def refuse_unsupported(self) -> None:
        """Check that the model implements this configuration.

        Raises:
            ValueError: it does not; the message has every value that was given and its choices.
        """
        given = {name: getattr(self, name) for name in _ALLOWED}
        problems = [
            f"{name} is {value!r}, allowed: {', '.join(map(repr, _ALLOWED[name]))}"
            for name, value in given.items()
            if value not in _ALLOWED[name]
        ]
        if self.n_heads < 1 or self.dim % (2 * self.n_heads):
            problems.append(
                f"dim is {self.dim} with n_heads {self.n_heads}, allowed: a multiple of 2 * n_heads"
            )
        if problems:
            raise ValueError(f"this OpenLM model is not supported: {'; '.join(problems)}")


def _flat(file: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of a `config.json` with open_lm's values at the top level."""
    top = _own_names({name: value for name, value in file.items() if name not in _NESTED})
    for nest in (file.get(name) for name in _NESTED):
        if isinstance(nest, Mapping):
            inner = _own_names(nest)
            known = {name: inner[name] for name in (*_REQUIRED, *_OPTIONAL) if name in inner}
            top = known | top
    standard = {name: OpenLMConfig.attribute_map.get(name, name) for name in top}
    missing = [name for name in _REQUIRED if name not in standard.values()]
    if missing:
        raise ValueError(
            f"the OpenLM configuration does not say {', '.join(missing)}: expected at its top "
            f"level or in params_args_dict; found {', '.join(sorted(file)) or 'nothing'}"
        )
    return top


def _own_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under the names of `OpenLMConfig`, without those that are null.

    open_lm writes null for what a run did not set (`attn_name` of old files, `moe_num_experts`);
    `apply_qk_norm` outweighs the command line's `qk_norm`, since the weights were built with it.
    """
    named = {_OTHER_NAMES[k]: v for k, v in values.items() if k in _OTHER_NAMES}
    named |= {k: v for k, v in values.items() if k not in _OTHER_NAMES}
    known = {*_REQUIRED, *_OPTIONAL}
    return {k: v for k, v in named.items() if k not in known or v is not None}
