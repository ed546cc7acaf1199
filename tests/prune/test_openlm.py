from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from prune.model.blocks import block_linears
from prune.model.openlm import OpenLMForCausalLM, OpenLMRotary, register
from prune.model.openlm_config import OpenLMConfig
from prune.model.skip import OPENLM_PARTS

SIZES = {"dim": 64, "n_layers": 3, "n_heads": 4, "vocab_size": 97, "seq_len": 32}
KINDS = ("rotary", "head_rotary")


def tiny(seed: int = 0, **options: Any) -> OpenLMForCausalLM:
    torch.manual_seed(seed)
    model = OpenLMForCausalLM(OpenLMConfig(**(SIZES | options))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)  # gains of 1 would hide a forgotten norm
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, SIZES["vocab_size"], shape, generator=torch.manual_seed(seed))


# ---- the equations, in float64 ----


def norm(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * gain


def rotated(x: Tensor, kind: str) -> Tensor:
    """Channel pairs (i, i + d/2) of x, [tokens, heads, d], as complex numbers times e^(i angle)."""
    count, heads, d = x.shape
    frequency = 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    steps = torch.arange(count)[:, None] if kind == "rotary" else torch.arange(heads)[None, :]
    angle = steps[..., None] * frequency
    pairs = torch.complex(x[..., : d // 2], x[..., d // 2 :]) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat((pairs.real, pairs.imag), -1)


def reference(model: OpenLMForCausalLM, ids: Tensor) -> Tensor:
    """Logits of one sequence, [tokens, vocabulary], token by token."""
    config = model.config
    weights = {n: p.detach().double() for n, p in model.state_dict().items()}
    heads, d = config.n_heads, config.dim // config.n_heads
    x = weights["model.tok_embeddings.weight"][ids]
    if config.post_embed_norm:
        x = norm(x, weights["model.post_embed_norm.weight"])
    for i in range(config.n_layers):
        w = {n.removeprefix(f"model.layers.{i}."): v for n, v in weights.items()}
        q, k, v = (norm(x, w["attention_norm.weight"]) @ w["attention.in_proj.weight"].T).split(
            config.dim, -1
        )
        if config.apply_qk_norm:
            q, k = norm(q, w["attention.q_norm.weight"]), norm(k, w["attention.k_norm.weight"])
        q, k, v = (y.reshape(len(ids), heads, d) for y in (q, k, v))
        q, k = (rotated(y, config.positional_embedding_type) for y in (q, k))
        mixed = torch.zeros_like(v)
        for t in range(len(ids)):
            scores = torch.einsum("hd,shd->hs", q[t], k[: t + 1]) / math.sqrt(d)
            mixed[t] = torch.einsum("hs,shd->hd", scores.softmax(-1), v[: t + 1])
        x = x + mixed.reshape(len(ids), -1) @ w["attention.out_proj.weight"].T
        gate, up = (norm(x, w["ffn_norm.weight"]) @ w["feed_forward.w12.weight"].T).chunk(2, -1)
        x = x + (gate * gate.sigmoid() * up) @ w["feed_forward.w3.weight"].T
    return norm(x, weights["model.norm.weight"]) @ weights["model.output.weight"].T


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_follow_the_equations(kind: str, qk_norm: bool, tied: bool, attention: str) -> None:
    model = tiny(positional_embedding_type=kind, apply_qk_norm=qk_norm, weight_tying=tied)
    model.set_attn_implementation(attention)
    assert (model.model.output.weight is model.model.tok_embeddings.weight) is tied
    ids = tokens(2, 40)  # longer than seq_len: computed all the same
    with torch.no_grad():
        logits = model(ids).logits.double()
    expected = torch.stack([reference(model, row) for row in ids])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_norm_after_the_embedding() -> None:
    model = tiny(post_embed_norm=True)
    ids = tokens(1, 9)
    with torch.no_grad():
        logits = model(ids).logits[0].double()
    torch.testing.assert_close(logits, reference(model, ids[0]), atol=1e-5, rtol=1e-5)


def test_frequencies_are_rounded_as_in_training() -> None:
    rotary = OpenLMRotary(OpenLMConfig(**(SIZES | {"dim": 512})))
    positions = torch.arange(2048)[None]
    channels = torch.arange(0, 128, 2).float()
    exact = 1.0 / 10000 ** (channels / 128)
    cos, _ = rotary(torch.zeros(1, dtype=torch.bfloat16), positions)
    angles = positions[0, :, None] * exact.bfloat16().float()
    assert torch.equal(cos[0, 0, :, :64], angles.cos().bfloat16())
    assert (positions[0, :, None] * exact - angles).abs().max() > 2.4  # radians
    cos, _ = rotary(torch.zeros(1), positions)
    torch.testing.assert_close(cos[0, 0, :, :64], (positions[0, :, None] * exact).cos())


def test_head_rotary_does_not_see_positions() -> None:
    model = tiny(positional_embedding_type="head_rotary")
    ids = tokens(1, 12)
    swapped = ids[:, [3, 1, 2, 0, *range(4, 12)]]
    with torch.no_grad():
        # a single block, as deeper ones see what the causal mask showed to earlier tokens
        model.model.layers = model.model.layers[:1]
        torch.testing.assert_close(model(ids).logits[:, 4:], model(swapped).logits[:, 4:])
        model.config.positional_embedding_type = "rotary"
        model.model.rotary = OpenLMRotary(model.config)
        assert not torch.allclose(model(ids).logits[:, 4:], model(swapped).logits[:, 4:], atol=1e-3)


# ---- generation, caches, masks ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_cache_changes_nothing(kind: str, dtype: torch.dtype) -> None:
    model = tiny(positional_embedding_type=kind, apply_qk_norm=True).to(dtype)
    ids = tokens(2, 20)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    with torch.no_grad():
        whole = model(ids, use_cache=False)
        assert whole.past_key_values is None
        cache, parts = None, []
        for start, stop in ((0, 9), (9, 13), (13, 14), (14, 20)):
            output = model(ids[:, start:stop], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole.logits, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("kind", KINDS)
def test_generation_with_cache_equals_without(kind: str, cache: str | None) -> None:
    model = tiny(positional_embedding_type=kind, apply_qk_norm=True)
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 16, "min_new_tokens": 16}
    without = model.generate(tokens(2, 7), use_cache=False, **options)
    assert without.shape == (2, 23)
    assert torch.equal(
        model.generate(tokens(2, 7), use_cache=True, cache_implementation=cache, **options), without
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_left_padding(kind: str, attention: str) -> None:
    model = tiny(positional_embedding_type=kind)
    model.set_attn_implementation(attention)
    short, long = tokens(1, 6), tokens(1, 10, seed=2)
    ids = torch.cat((torch.cat((torch.zeros(1, 4, dtype=torch.long), short), 1), long))
    mask = torch.tensor([[0] * 4 + [1] * 6, [1] * 10])
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
        torch.testing.assert_close(logits[:1, 4:], model(short).logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits[1:], model(long).logits, atol=1e-5, rtol=1e-5)
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}
    together = model.generate(ids, attention_mask=mask, **options)
    assert torch.equal(together[:1, 4:], model.generate(short, **options))
    assert torch.equal(together[1:], model.generate(long, **options))


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_4d_mask_and_position_ids(kind: str, attention: str, additive: bool) -> None:
    model = tiny(positional_embedding_type=kind)
    model.set_attn_implementation(attention)
    first, second = tokens(1, 5), tokens(1, 8, seed=2)
    document = torch.tensor([0] * 5 + [1] * 8)
    mask = (document[:, None] == document[None, :]).tril()[None, None]
    if additive:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    positions = torch.cat((torch.arange(5), torch.arange(8)))[None]
    with torch.no_grad():
        packed = model(
            torch.cat((first, second), 1), attention_mask=mask, position_ids=positions
        ).logits
        apart = torch.cat((model(first).logits, model(second).logits), 1)
    torch.testing.assert_close(packed, apart, atol=1e-5, rtol=1e-5)


def test_logits_to_keep_labels_and_embeddings() -> None:
    model, ids = tiny(), tokens(2, 11)
    with torch.no_grad():
        whole = model(ids, labels=ids)
        torch.testing.assert_close(model(ids, logits_to_keep=3).logits, whole.logits[:, -3:])
        picked = torch.tensor([0, 4, 5])
        kept = model(ids, logits_to_keep=picked).logits
        torch.testing.assert_close(kept, whole.logits[:, picked])
        embedded = model.get_input_embeddings()(ids)
        assert torch.equal(model(inputs_embeds=embedded).logits, whole.logits)
        loss = torch.nn.functional.cross_entropy(
            whole.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        )
        torch.testing.assert_close(whole.loss, loss)
        outputs = model(ids, output_hidden_states=True)
        assert len(outputs.hidden_states) == SIZES["n_layers"] + 1
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    ids, found = tokens(2, 8), []
    for checkpointing in (False, True):
        model = tiny(apply_qk_norm=True).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(ids, labels=ids).loss.backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# ---- files ----


def published_names(config: OpenLMConfig) -> set[str]:
    """The parameters of a published checkpoint."""
    parts = ["in_proj", "out_proj", *(["q_norm", "k_norm"] if config.apply_qk_norm else [])]
    block = [f"attention.{part}.weight" for part in parts]
    block += ["attention_norm.weight", "ffn_norm.weight"]
    block += ["feed_forward.w12.weight", "feed_forward.w3.weight"]
    names = {f"model.layers.{i}.{name}" for i in range(config.n_layers) for name in block}
    return names | {f"model.{name}.weight" for name in ("tok_embeddings", "norm", "output")}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load_bit_for_bit(tmp_path: Path, dtype: torch.dtype, tied: bool) -> None:
    model = tiny(apply_qk_norm=True, weight_tying=tied).to(dtype)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        missing = {"model.output.weight"} if tied else set()
        assert set(file.keys()) == published_names(model.config) - missing
    loaded, info = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype="auto", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(loaded) is OpenLMForCausalLM
    assert loaded.dtype == dtype
    state = model.state_dict()
    assert set(state) == set(loaded.state_dict()) == published_names(model.config)
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert (loaded.model.output.weight is loaded.model.tok_embeddings.weight) is tied
    ids = tokens(1, 9)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, model(ids).logits)


FLAT = SIZES | {
    "apply_qk_norm": True,
    "norm_type": "gain_only_lp_layer_norm",
    "norm_eps": 1e-5,
    "ffn_type": "swiglu_torch",
    "positional_embedding_type": "rotary",
    "post_embed_norm": False,
    "weight_tying": False,
    "moe_freq": 0,
    "moe_num_experts": None,
    "moe_top_k": 2,
}
# what open_lm's export script writes: its Params, and what the command line said
NESTED = {
    "params": None,
    "params_args_dict": {
        **{k: v for k, v in FLAT.items() if k != "norm_type"},
        "model": None,
        "model_norm": "gain_only_lp_layer_norm",
        "qk_norm": False,
        "attn_name": "auto",
        "attn_activation": None,
        "attn_seq_scalar": None,
        "attn_seq_scalar_alpha": None,
    },
}


def publish(folder: Path, model: OpenLMForCausalLM, config: dict[str, Any]) -> None:
    """Write a checkpoint as open_lm does: its names, a frequency buffer in every block."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert set(state) == published_names(model.config)
    for i in range(model.config.n_layers):
        state[f"model.layers.{i}.attention.pos_embed.inv_freq"] = torch.rand(8)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("form", ["flat", "nested"])
@pytest.mark.parametrize("architecture", ["OpenLMForCausalLM", "OpenLMModel"])
def test_published_checkpoint_loads_whole(tmp_path: Path, form: str, architecture: str) -> None:
    model = tiny(apply_qk_norm=True)
    own = FLAT if form == "flat" else NESTED
    publish(tmp_path, model, {"model_type": "openlm", "architectures": [architecture], **own})
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert {name: len(found) for name, found in info.items()} == dict.fromkeys(info, 0)
    ids = tokens(1, 9)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    loaded.config.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved.items() >= {k: v for k, v in FLAT.items() if not k.startswith("moe_")}.items()


@pytest.mark.parametrize("kept", ["model.output.weight", "model.tok_embeddings.weight"])
def test_tied_checkpoint_with_either_name(tmp_path: Path, kept: str) -> None:
    model = tiny(apply_qk_norm=True, weight_tying=True)
    publish(tmp_path, model, {"model_type": "openlm", **FLAT, "weight_tying": True})
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    for name in {"model.output.weight", "model.tok_embeddings.weight"} - {kept}:
        del state[name]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = tokens(1, 9)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


# ---- configuration ----


def test_standard_names() -> None:
    config = OpenLMConfig(**SIZES, weight_tying=True)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 3, 4)
    assert config.max_position_embeddings == 32
    assert config.tie_word_embeddings is True
    assert config.head_dim == 16
    assert OpenLMConfig(hidden_size=128, num_attention_heads=2).dim == 128


@pytest.mark.parametrize(("dim", "width"), [(4096, 11008), (2048, 5632), (64, 256)])
def test_feed_forward_width(dim: int, width: int) -> None:
    assert OpenLMConfig(dim=dim).intermediate_size == width


@pytest.mark.parametrize(
    ("sizes", "count"),
    # "params" in mlfoundations/dclm, training/configs/{7b_1x_fast_2e-3_lr_5e-6_zloss,1b_1x_fast}
    [({}, 6_889_410_560), ({"dim": 2048, "n_layers": 24, "n_heads": 16}, 1_439_795_200)],
)
def test_published_parameter_counts(sizes: dict[str, int], count: int) -> None:
    with torch.device("meta"):
        model = OpenLMForCausalLM(OpenLMConfig(**sizes))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_type": "rms_norm"}, r"norm_type is 'rms_norm', allowed: 'gain_only_lp_layer_norm'"),
        ({"ffn_type": "moe"}, r"ffn_type is 'moe', allowed: 'swiglu', 'swiglu_torch'"),
        ({"positional_embedding_type": "none"}, r"is 'none', allowed: 'rotary', 'head_rotary'"),
        ({"moe_freq": 2}, r"moe_freq is 2, allowed: 0"),
        ({"attn_name": "custom_attn"}, r"attn_name is 'custom_attn', allowed: 'auto'"),
        ({"n_heads": 5}, r"dim is 64 with n_heads 5, allowed: a multiple of 2 \* n_heads"),
        ({"norm_type": "rms_norm", "moe_freq": 1}, r"'rms_norm', .*; moe_freq is 1"),
    ],
)
def test_unsupported_values_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        OpenLMConfig(**(SIZES | options))
    file = {"model_type": "openlm", "params_args_dict": SIZES | options}
    (tmp_path / "config.json").write_text(json.dumps(file))
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(tmp_path)


def test_late_change_is_refused_too() -> None:
    config = OpenLMConfig(**SIZES)
    config.norm_type = "default_layer_norm"
    with pytest.raises(ValueError, match="norm_type is 'default_layer_norm'"):
        OpenLMForCausalLM(config)


def test_file_without_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"does not say dim, n_layers.*found model_type, params"):
        OpenLMConfig.from_dict(
            {"model_type": "openlm", "params_args_dict": {"model": "open_lm_1b"}}
        )


def test_open_lm_names_are_understood_and_the_top_level_counts() -> None:
    nested = {"hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 9, "qk_norm": True}
    config = OpenLMConfig.from_dict({"params_args_dict": nested, "params": None})
    assert (config.dim, config.n_layers, config.apply_qk_norm) == (64, 2, True)
    config = OpenLMConfig.from_dict({"params_args_dict": nested, "n_layers": 5, "seq_len": 8})
    assert (config.dim, config.n_layers, config.seq_len) == (64, 5, 8)


def test_fused_parts_cover_the_fused_weights() -> None:
    block = tiny().model.layers[0]
    for owner in (block.attention, block.feed_forward):
        for name, parts in owner.fused_parts.items():
            rows = [r for part in parts.values() for r in range(part.start, part.stop)]
            assert rows == list(range(getattr(owner, name).out_features))
    tables = block.attention.fused_parts | block.feed_forward.fused_parts
    assert {name: tuple(parts) for name, parts in tables.items()} == OPENLM_PARTS


@pytest.mark.parametrize("skip", ["attention.in_proj[q]", "*[q]"])
def test_a_part_is_skipped_by_its_name_and_all_parts_by_that_of_the_whole(skip: str) -> None:
    block = tiny().model.layers[0]
    left = [x.name for x in block_linears(block, [skip]) if "in_proj" in x.name]
    assert left == ["attention.in_proj[k]", "attention.in_proj[v]"]
    assert not any("in_proj" in x.name for x in block_linears(block, ["*.in_proj"]))


def test_registering_twice_is_harmless() -> None:
    register()
    register()
    assert type(AutoConfig.for_model("openlm")) is OpenLMConfig
