from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from tiny_models import CONFIGS, build, wanda_mask, windows
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import prune.gradients
from prune.gradients import gradient_norms
from prune.loop import prune_model
from prune.model.blocks import decoder_blocks, prunable_linears
from prune.model.weights import BlockWeights
from prune.pattern import Pattern, Target
from prune.pruner_zero import PrunerZero
from prune.recipe import parse
from prune.statistics import InputStatistics


def full_gradients(model: Any, ids: Tensor) -> list[dict[str, Tensor]]:
    """Root of summed squared gradients by plain back-propagation through the whole model."""
    model.requires_grad_(True)
    linears = [
        {n: m for n, m in block.named_modules() if isinstance(m, nn.Linear | Conv1D)}
        for block in decoder_blocks(model)
    ]
    totals = [{name: torch.zeros_like(m.weight) for name, m in block.items()} for block in linears]
    for window in ids.long():
        model.zero_grad()
        logits = model(input_ids=window[None], use_cache=False).logits[0]
        logs = torch.log_softmax(logits, -1)
        loss = -sum(logs[t, window[t + 1]] for t in range(len(window) - 1)) / (len(window) - 1)
        loss.backward()
        for block, total in zip(linears, totals, strict=True):
            for name, module in block.items():
                total[name] += module.weight.grad**2
    model.requires_grad_(False)
    return [{name: x.sqrt().detach() for name, x in total.items()} for total in totals]


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_equal_plain_back_propagation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune.gradients, "TOKENS_AT_ONCE", 27)  # two windows a group, then one
    model, ids = build(name, torch.float64), windows(5, 13)
    blocks = decoder_blocks(model)
    with torch.no_grad():
        found = gradient_norms(model, BlockWeights(blocks), prunable_linears(blocks), ids)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    for block, got, expected in zip(blocks, found, full_gradients(model, ids), strict=True):
        for key, value in expected.items():
            norm = got[id(block.get_submodule(key))]
            assert norm.dtype == torch.float32
            torch.testing.assert_close(norm.double(), value, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("name", ["llama-gqa", "qwen2"])
def test_masks_equal_the_published_metric(name: str, pattern: str) -> None:
    model, ids = build(name, torch.float64), windows(4, 13)
    gradients = full_gradients(model, ids)
    dense = {key: value.clone() for key, value in model.state_dict().items()}
    prune_model(model, parse("pruner-zero"), Fraction(1, 2), Pattern.parse(pattern), ids)
    for index, block in enumerate(decoder_blocks(model)):
        for key, gradient in gradients[index].items():
            weight = dense[f"model.layers.{index}.{key}.weight"]
            scaled = (gradient - gradient.min()) / (gradient.max() - gradient.min())
            # |w| ||x|| with one token of ones is |w|: the saliency itself is ranked
            saliency = (weight * weight).abs() * scaled
            mask = wanda_mask(saliency, torch.ones(1, weight.shape[1]).double(), pattern)
            expected = torch.where(mask, 0, weight)
            assert torch.equal(block.get_submodule(key).weight, expected), (index, key)


def test_equal_gradients_leave_the_weight_to_decide() -> None:
    weight = torch.tensor([[3.0, -1.0, 2.0, 0.5]])
    for value in (0.0, 0.7):
        inputs = InputStatistics(gradient=torch.full((1, 4), value))
        mask = PrunerZero().prune(weight, inputs, Target(Fraction(1, 2))).mask
        assert mask.tolist() == [[False, True, False, True]]


def test_broken_gradients_are_named() -> None:
    model = build("llama-gqa")
    model.model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match=r"block \d, linear .*: its gradient is NaN"):
        prune_model(model, parse("pruner-zero"), Fraction(1, 2), Pattern(), windows(2, 9))


def test_needs() -> None:
    assert PrunerZero().needs == {"gradient"}
    assert parse("pruner-zero").needs_data
    with pytest.raises(ValueError, match="gradient"):
        PrunerZero().prune(torch.ones(2, 4), InputStatistics(), Target(Fraction(1, 2)))
