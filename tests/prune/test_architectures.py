from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CONFIGS, EXPERTS, NOT_REPLAYED, build, state, windows
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration
from transformers.pytorch_utils import Conv1D

from prune.loop import prune_model
from prune.model.blocks import decoder_blocks, prunable_linears, record_block_inputs
from prune.model.weights import BlockWeights
from prune.pattern import Pattern
from prune.recipe import parse


def block_outputs(model: Any, ids: Tensor) -> list[Tensor]:
    """What each block of the model answers when the model itself calls it."""
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_hook(keep) for block in decoder_blocks(model)]
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def replay(model: Any, ids: Tensor, batch: int) -> list[Tensor]:
    blocks = decoder_blocks(model)
    inputs = record_block_inputs(model, BlockWeights(blocks), ids, batch)
    hidden, outputs = inputs.hidden, []
    with torch.no_grad():
        for index, block in enumerate(blocks):
            hidden = torch.cat([x for _, x in inputs.run(index, block, hidden)])
            outputs.append(hidden)
    return outputs


def saved_and_loaded(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype).eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_replay_equals_the_model(name: str) -> None:
    model, ids = build(name), windows(4, 13)
    own = block_outputs(model, ids)
    assert len(own) == 3
    for expected, got in zip(own, replay(model, ids, batch=4), strict=True):
        assert torch.equal(expected, got)
    for expected, got in zip(own, replay(model, ids, batch=3), strict=True):
        torch.testing.assert_close(expected, got, rtol=1e-4, atol=2e-5)  # float32, other batches
    assert all("forward" not in vars(block) for block in decoder_blocks(model))


@pytest.mark.parametrize("name", NOT_REPLAYED)
@pytest.mark.parametrize("pruner", ["wanda", "pruner-zero"])
def test_what_is_not_the_same_for_all_windows_is_refused(name: str, pruner: str) -> None:
    model, ids = build(name), windows(2, 4000 if name == "per_layer_input" else 13)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"\(\w+\) {name}, which .* with magnitude or random"):
        prune_model(model, parse(pruner), Fraction(1, 2), Pattern(), ids)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all("forward" not in vars(block) for block in decoder_blocks(model))
    magnitude = parse("magnitude")
    report = prune_model(model, magnitude, Fraction(1, 2), Pattern(), heldout_ids=ids)
    assert report.achieved_sparsity == 0.5


@pytest.mark.parametrize("also", [1, 2])
def test_windows_in_another_order_are_other_windows(also: int) -> None:
    model, ids = build("per_layer_input"), windows(2, 13)
    blocks = BlockWeights(decoder_blocks(model))
    record_block_inputs(model, blocks, ids, 2)
    with pytest.raises(ValueError, match="per_layer_input"):
        record_block_inputs(model, blocks, ids, 2, also=[also])


@pytest.mark.parametrize("pruner", ["wanda", "magnitude"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("name", CONFIGS)
def test_pruning_is_exact(name: str, pattern: str, pruner: str, tmp_path: Path) -> None:
    model, ids = build(name), windows(4, 13)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = prune_model(model, parse(pruner), Fraction(1, 2), Pattern.parse(pattern), ids)

    weights = {
        key: module.weight.T if isinstance(module, Conv1D) else module.weight
        for key, module in decoder_blocks(model).named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    assert [f"{x.block}.{x.linear}" for x in report.linears] == list(weights)
    for entry, weight in zip(report.linears, weights.values(), strict=True):
        assert (entry.rows, entry.columns) == weight.shape
        assert entry.pruned == int((weight == 0).sum()) == weight.numel() // 2
        if pattern == "2:4":
            assert ((weight.reshape(-1, 4) == 0).sum(1) == 2).all()
        elif pruner == "wanda":
            assert ((weight == 0).sum(1) == weight.shape[1] // 2).all()
    assert report.achieved_sparsity == 0.5

    pruned = {id(x.weight) for x in decoder_blocks(model).modules() if hasattr(x, "weight")}
    touched = {
        key
        for key, value in model.state_dict(keep_vars=True).items()
        if not torch.equal(value, before[key])
    }
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | Conv1D)} & pruned
    expected = {k for k, v in model.state_dict(keep_vars=True).items() if id(v) in linear}
    assert touched == expected

    again = saved_and_loaded(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


@pytest.mark.parametrize("name", EXPERTS)
def test_fused_experts_are_refused_before_anything_changes(name: str) -> None:
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="cannot be pruned") as caught:
        prune_model(model, parse("magnitude"), Fraction(1, 2), Pattern())
    for block in range(3):
        for weight in ("gate_up_proj", "down_proj"):
            assert f"block {block}: mlp.experts.{weight}" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_experts_that_are_skipped_let_the_rest_be_pruned() -> None:
    model = build("qwen3-moe")
    linears = prunable_linears(decoder_blocks(model), skip=["mlp.*"])
    assert [x.name for x in linears[0]] == [f"self_attn.{x}_proj" for x in "qkvo"]


@pytest.mark.parametrize(("size", "seqlen"), [(1, 13), (5, 1500), (140, 7), (2, 5000)])
def test_any_size_and_length(size: int, seqlen: int) -> None:
    model, ids = build("gemma3"), windows(size, seqlen)
    report = prune_model(model, parse("wanda"), Fraction(1, 2), Pattern(), ids)
    assert report.achieved_sparsity == 0.5
    assert len(report.block_errors) == 3


def test_a_vision_tower_that_is_larger_than_the_text_model_is_not_pruned() -> None:
    torch.manual_seed(0)
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6}
    vision |= {"num_attention_heads": 4, "image_size": 56, "patch_size": 14}
    config = Gemma3Config(
        text_config=CONFIGS["gemma3"]().to_dict(), vision_config=vision, mm_tokens_per_image=4
    )
    model: Any = Gemma3ForConditionalGeneration(config).eval().requires_grad_(False)
    before = state(model)
    report = prune_model(model, parse("wanda"), Fraction(1, 2), Pattern(), windows(3, 2000))
    assert len(report.block_errors) == 3
    touched = {key for key, x in model.state_dict().items() if not torch.equal(x, before[key])}
    assert touched
    assert all(key.startswith("model.language_model.layers.") for key in touched)


def test_a_width_that_m_does_not_divide_is_refused_by_name() -> None:
    model = build("llama-gqa")
    with pytest.raises(ValueError, match=r"mlp.down_proj \(48 inputs\)"):
        prune_model(model, parse("magnitude"), Fraction(1, 2), Pattern.parse("16:32"))
