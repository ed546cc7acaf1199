"""The fast path of half precision on a GPU, as far as it can be seen on any machine."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from tiny_models import build, windows
from torch import Tensor, nn

from prune import activations, errors, fused
from prune.activations import Batches, allocate
from prune.calls import BlockCalls
from prune.errors import InputGram, InputSample, gram_energy
from prune.model import triton_check
from prune.model.blocks import decoder_blocks, prunable_linears, record_block_inputs
from prune.model.weights import BlockWeights
from prune.sparsegpt import SparseGPT, invert_lower
from prune.statistics import InputStatistics
from prune.stream import _batch
from prune.wanda import Wanda
from tests.prune import cases

CUDA = torch.device("cuda")


@pytest.mark.parametrize("name", ["llama-gqa", "gemma3", "opt", "gpt2", "gpt-neox"])
def test_a_block_is_left_once_the_inputs_of_its_linears_are_known(name: str) -> None:
    model, ids = build(name), windows(2, 13).long()
    blocks = decoder_blocks(model)
    recorded = record_block_inputs(model, BlockWeights(blocks), ids, 2)
    block, arguments = blocks[1], recorded.arguments[1][2]
    modules = list({id(x.module): x.module for x in prunable_linears(blocks)[1]}.values())
    finished: list[nn.Module] = []
    for module in modules:
        module.register_forward_hook(lambda module, *_: finished.append(module))
    calls = BlockCalls()
    with torch.no_grad():
        whole, output = calls.inputs(block, modules, recorded.hidden, arguments, outputs=True)
        last = finished[-1]
        finished.clear()
        found, none = calls.inputs(block, modules, recorded.hidden, arguments)
    assert none is None
    assert output is not None
    assert last not in finished
    assert [module for module, _ in found] == [module for module, _ in whole]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found, whole, strict=True))
    assert torch.equal(output, calls.outputs(block, recorded.hidden, arguments))


@pytest.mark.parametrize("kind", ["96", "160", "correlated", "dead inputs"])
def test_statistics_in_less_precision_are_near(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases.CASES[kind]
    exact = case.inputs("norm", "moments", "gram")
    near = InputStatistics(exact.wanted, exact=False)
    for part in case.windows.split(2):
        near.update(part)
    near.check()
    assert (near.tokens, near.sequences) == (exact.tokens, exact.sequences)
    for name in ("norm", "mean", "variance", "window_sum", "within_variance", "gram"):
        a, b = getattr(near, name), getattr(exact, name)
        assert a.dtype == torch.float32
        assert b.dtype == torch.float64
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("target", cases.TARGETS.values(), ids=cases.TARGETS)
@pytest.mark.parametrize("pruner", [Wanda(), SparseGPT()], ids=["wanda", "sparsegpt"])
def test_masks_in_less_precision_are_nearly_equal(pruner: Any, target: Any) -> None:
    case = cases.CASES["160"]
    (name,) = pruner.needs
    near = InputStatistics(pruner.needs, exact=False)
    for part in case.windows.split(2):
        near.update(part)
    a, b = (pruner.prune(case.weight, x, target).mask for x in (near, case.inputs(name)))
    assert (a == b).float().mean() > 0.995  # of few: 1,120 weights
    assert a.sum() == b.sum()


@pytest.mark.parametrize("size", [1, 5, 384, 385, 900])
def test_triangular_inverse(size: int) -> None:
    draws = torch.Generator().manual_seed(size)
    lower = torch.rand(size, size, generator=draws, dtype=torch.float64).tril() / size
    lower.diagonal().add_(1)
    inverse = lower.clone()
    invert_lower(inverse)
    torch.testing.assert_close(inverse @ lower, torch.eye(size).double(), rtol=0, atol=1e-9)
    assert torch.equal(inverse, inverse.tril())


def test_a_sample_of_tokens_gives_nearly_the_error_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(errors, "SAMPLED_TOKENS", 700)
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(9, 301, 24, generator=draws)
    dense = torch.randn(8, 24, generator=draws)
    pruned = dense * (torch.rand(8, 24, generator=draws) > 0.5)
    sample, gram = InputSample(9 * 301), InputGram()
    for part in x.split(2):  # spaced evenly whatever the batches
        sample.update(part)
        gram.update(part)
    assert torch.equal(torch.cat(sample.kept), x.flatten(0, 1)[::3])
    few = sample.energy(dense, pruned) / sample.energy(dense)
    full = gram.full()
    every = gram_energy(full, dense, pruned) / gram_energy(full, dense)
    assert float(few) == pytest.approx(float(every), rel=0.1)


@pytest.mark.parametrize("shape", [(1000, 300), (100, 520), (2048, 64)])
def test_products_of_half_precision_are_summed_in_parts(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "WIDE_BYTES", 2**20)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3)).half()
    gram = InputGram()
    for part in x.split(600):  # neither divides the other
        gram.update(part)
    torch.testing.assert_close(gram.full(), x.float().T @ x.float(), rtol=1e-4, atol=1e-2)


def test_where_kernels_cannot_run_plain_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler() -> None:
        raise RuntimeError("Failed to find C compiler.\nmore")

    monkeypatch.setattr(triton_check, "_try", no_compiler)
    triton_check.triton_runs.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"plain torch instead: Triton: Failed to find C"):
            assert not triton_check.triton_runs()
        with warnings.catch_warnings(action="error"):
            assert not triton_check.triton_runs()  # said once
    finally:
        triton_check.triton_runs.cache_clear()


def test_a_rotation_that_is_called_by_name_is_the_models_own() -> None:
    rotation = fused._fused_rotation(lambda x, cos, sin: x * cos + sin)
    assert rotation(torch.ones(2), cos=torch.full((2,), 3.0), sin=torch.ones(2)).tolist() == [4, 4]


def test_what_cuts_off_its_values_is_not_replaced() -> None:
    names = ("gate_proj", "up_proj", "down_proj")
    mlp: Any = nn.ModuleDict({name: nn.Linear(2, 2) for name in names} | {"act_fn": nn.SiLU()})
    assert fused._replacement(mlp) is not None
    mlp.swiglu_limit = 7.0
    assert fused._replacement(mlp) is None


def test_batches_are_of_one_length_where_that_is_near() -> None:
    assert _batch(128, 2048, fast=True) == 8
    assert _batch(12, 2048, fast=True) == 6
    assert _batch(13, 2048, fast=True) == 8
    assert _batch(4, 20000, fast=True) == 1
    assert _batch(128, 2048, fast=False) == 2


def test_activations_beyond_the_budgets_lie_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "DEVICE_BYTES", 0)
    monkeypatch.setattr(activations, "HOST_SHARE", 0)
    stored = allocate((4, 3, 2), torch.bfloat16, CUDA)
    value = torch.randn(4, 3, 2).bfloat16()
    stored.copy_(value)
    assert stored.device.type == "cpu"
    assert torch.equal(stored, value)


def test_a_walk_over_activations_reads_and_writes() -> None:
    stored: Tensor = torch.arange(5.0)[:, None]
    walk = Batches(stored, [slice(0, 2), slice(2, 4), slice(4, 5)], torch.device("cpu"))
    for part, value in walk:
        walk.write(part, 2 * value)
    assert stored.flatten().tolist() == [0, 2, 4, 6, 8]
