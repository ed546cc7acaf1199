"""Tiny random models of the architectures that the loop must prune, and plain ways to look in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

VOCABULARY = 96
WIDTH = 32


def _common(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }


CONFIGS: dict[str, Callable[[], Any]] = {
    "llama-mha": lambda: hf.LlamaConfig(**_common(num_key_value_heads=4)),
    "llama-gqa": lambda: hf.LlamaConfig(**_common(tie_word_embeddings=True)),
    "mistral": lambda: hf.MistralConfig(**_common(sliding_window=5)),
    "qwen2": lambda: hf.Qwen2Config(**_common()),
    "qwen3": lambda: hf.Qwen3Config(**_common(head_dim=8)),
    "gemma2": lambda: hf.Gemma2Config(
        **_common(head_dim=8, sliding_window=5, query_pre_attn_scalar=8)
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **_common(
            head_dim=8,
            sliding_window=5,
            query_pre_attn_scalar=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    ),
    "phi3": lambda: hf.Phi3Config(**_common()),
    "olmo2": lambda: hf.Olmo2Config(**_common()),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**_common()),
    "opt": lambda: hf.OPTConfig(**_common(ffn_dim=48, word_embed_proj_dim=WIDTH)),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=WIDTH,
        n_layer=3,
        n_head=4,
        n_positions=64,
        n_inner=48,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "falcon": lambda: hf.FalconConfig(**_common(alibi=False)),
    "falcon-alibi": lambda: hf.FalconConfig(**_common(alibi=True, multi_query=False)),
    "stablelm": lambda: hf.StableLmConfig(**_common(use_qkv_bias=True)),
}

EXPERTS: dict[str, Callable[[], Any]] = {
    "mixtral": lambda: hf.MixtralConfig(**_common(num_local_experts=4)),
    "qwen3-moe": lambda: hf.Qwen3MoeConfig(
        **_common(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=8)
    ),
}


def _gemma4(**more: Any) -> Any:
    kinds = ["sliding_attention", "full_attention"]
    common = _common(head_dim=8, global_head_dim=8, num_hidden_layers=4, layer_types=2 * kinds)
    return hf.Gemma4TextConfig(
        **common
        | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY}
        | {"num_kv_shared_layers": 0}
        | more
    )


NOT_REPLAYED: dict[str, Callable[[], Any]] = {
    "per_layer_input": _gemma4,
    "shared_kv_states": lambda: _gemma4(num_kv_shared_layers=2),
    "hidden states": lambda: hf.XLMConfig(
        vocab_size=VOCABULARY, emb_dim=WIDTH, n_layers=3, n_heads=4, max_position_embeddings=64
    ),
}
"""Models whose blocks are given what depends on window or blocks, by its name."""


def build(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A random model whose weights, biases and norms are all away from their trivial values."""
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config({**CONFIGS, **EXPERTS, **NOT_REPLAYED}[name]())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                # rows of different scale, so that comparison groups matter
                scale = torch.logspace(-0.5, 0.5, len(parameter))
                parameter.copy_(0.2 * noise * scale.reshape(-1, *[1] * (noise.dim() - 1)))
            else:
                parameter.add_(0.1 * noise)
    return model.to(dtype).eval().requires_grad_(False)


def windows(size: int, seqlen: int, seed: int = 1) -> Tensor:
    """Random calibration windows, [size, seqlen]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (size, seqlen), generator=generator, dtype=torch.int32)


def state(model: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def linear_inputs(model: Any, ids: Tensor, block: nn.Module) -> dict[str, Tensor]:
    """Inputs of each linear of `block` in a whole forward of `model`, [tokens, C]."""
    found: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, args, __, name=name: found.__setitem__(
                name, args[0].reshape(-1, args[0].shape[-1]).double()
            )
        )
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def wanda_mask(weight: Tensor, x: Tensor, pattern: str) -> Tensor:
    """Half of each row (or of each group of m) by |w| ||x||, weight by weight."""
    mask = torch.zeros_like(weight, dtype=torch.bool)
    length = weight.shape[1] if pattern == "unstructured" else int(pattern.split(":")[1])
    for i in range(weight.shape[0]):
        for start in range(0, weight.shape[1], length):
            scores = [
                (abs(float(weight[i, j])) * float((x[:, j] ** 2).sum() ** 0.5), j)
                for j in range(start, start + length)
            ]
            for _, j in sorted(scores)[: length // 2]:
                mask[i, j] = True
    return mask
