"""The fused kernels do what plain torch does: on a GPU, else in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from tiny_models import build, windows
from torch import Tensor

from prune import errors, fused, pattern, sparsegpt
from prune.calls import BlockCalls
from prune.model.blocks import decoder_blocks, record_block_inputs
from prune.model.weights import BlockWeights
from prune.pattern import Target, lowest
from tests.prune import cases

GPU = torch.cuda.is_available()
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="Triton is not installed")

DEVICE = "cuda" if GPU else "cpu"
TARGETS = {"0": Target(Fraction(0)), "1": Target(Fraction(1)), **cases.TARGETS}


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Any]]:
    """What a function answers with the kernels, and without."""

    def call(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        found = []
        for use in (True, False):
            for module in (pattern, sparsegpt, errors):
                monkeypatch.setattr(module, "fused", lambda _, use=use: use)
            found.append(function(*arguments))
        return found[0], found[1]

    return call


@pytest.mark.parametrize("group", ["row", "matrix"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ranking(
    dtype: torch.dtype, target: Target, group: Any, both: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    draws = torch.Generator().manual_seed(2)
    saliency = torch.randn(6, 200, generator=draws).abs().to(DEVICE, dtype)
    saliency[2], saliency[:, 3:9], saliency[4] = 0, 0, saliency[4, 0]  # ties
    assert torch.equal(*both(lowest, saliency, target, group))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("shape", [(19, 160), (5, 40), (33, 128)])
def test_solving(
    shape: tuple[int, int], target: Target, both: Callable[..., tuple[Any, Any]]
) -> None:
    if target.pattern.m and shape[1] % target.pattern.m:
        pytest.skip("a width that M does not divide")
    draws = torch.Generator().manual_seed(shape[0])
    weight = torch.randn(shape, generator=draws).to(DEVICE)
    mixing = torch.randn(shape[1], shape[1], generator=draws) / shape[1]
    square = mixing @ mixing.T + 0.1 * torch.eye(shape[1])
    factor = torch.linalg.cholesky(square).T.contiguous().to(DEVICE)

    def solve() -> tuple[Tensor, Tensor, Tensor]:
        W, mask = weight.clone(), torch.zeros_like(weight, dtype=torch.bool)
        part = slice(max(0, shape[1] - 128), shape[1])  # a view of wider tensors
        errors = sparsegpt._prune_block(W[:, part], mask[:, part], factor[part, part], target)
        return W, mask, errors

    kernel, plain = both(solve)
    assert all(torch.equal(a, b) for a, b in zip(kernel, plain, strict=True))


@pytest.mark.skipif(not GPU, reason="needs a GPU: the interpreter does not loop over arguments")
@pytest.mark.parametrize("shape", [(1000, 320), (256, 128), (4096, 1088)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gram(
    shape: tuple[int, int], dtype: torch.dtype, both: Callable[..., tuple[Any, Any]]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    x[:, 7] *= 100
    x = x.to(DEVICE, dtype)

    def gram() -> Tensor:
        found = errors.InputGram()
        for part in x.split(600):
            found.update(part)
        return found.full()

    kernel, plain = both(gram)
    assert torch.equal(kernel, plain)
    exact = (x.double().T @ x.double()).diagonal()
    torch.testing.assert_close(kernel.diagonal().double(), exact, rtol=2e-6, atol=0)


STANDS_IN = {  # norm, gated activation, rotation
    "llama-gqa": {"LlamaRMSNorm": True, "LlamaMLP": True, "apply_rotary_pos_emb": True},
    "qwen3": {"Qwen3RMSNorm": True, "Qwen3MLP": True, "apply_rotary_pos_emb": True},
    "olmo2": {"Olmo2RMSNorm": False, "Olmo2MLP": True},  # rounds after the weight
    "gemma2": {"Gemma2RMSNorm": False, "apply_rotary_pos_emb": True},  # 1 + weight; no SiLU
    "stablelm": {"StableLmMLP": True, "apply_rotary_pos_emb": True},
    "phi3": {"Phi3RMSNorm": True, "apply_rotary_pos_emb": True},
    "gpt-neox": {},
}


def nearly_equal(found: Tensor, expected: Tensor) -> bool:
    """Equal but for a few last bits: the interpreter takes its exponentials from numpy."""
    return torch.allclose(found, expected, rtol=2e-3, atol=2e-3) and bool(
        (found == expected).float().mean() > 0.98
    )


@pytest.mark.parametrize("name", STANDS_IN)
def test_blocks_run_with_the_kernels_that_do_what_they_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = torch.equal if GPU else nearly_equal
    monkeypatch.setattr(fused, "_equal", same)
    monkeypatch.setattr(fused, "_agrees", {})
    monkeypatch.setattr(fused, "fused", lambda _: True)
    model = build(name, torch.float16).to(DEVICE)  # the interpreter does not round bfloat16
    blocks = decoder_blocks(model)
    recorded = record_block_inputs(model, BlockWeights(blocks), windows(2, 6).long(), 2)
    with torch.no_grad():
        for index, block in enumerate(blocks):
            arguments = recorded.arguments[index][2]
            found, expected = (
                BlockCalls(use).outputs(block, recorded.hidden, arguments) for use in (True, False)
            )
            assert same(found, expected)
    assert {key.__name__: value for key, value in fused._agrees.items()} == STANDS_IN[name]
    assert all("Fused" not in type(module).__name__ for module in model.modules())
