from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import pytest
import torch
from tiny_models import build, linear_inputs, state, wanda_mask, windows
from torch import Tensor

from prune.block_loop import PruningOptions
from prune.loop import full_precision, prune_model
from prune.model.blocks import decoder_blocks
from prune.pattern import Pattern, Target, lowest
from prune.pruner import Pruned, Pruner
from prune.recipe import Recipe, parse
from prune.statistics import InputStatistics

HALF = Fraction(1, 2)


@pytest.mark.parametrize("propagate", ["pruned", "dense"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("name", ["llama-gqa", "qwen2", "gemma3"])
def test_wanda_equals_a_plain_loop_over_the_whole_model(
    name: str, pattern: str, propagate: str
) -> None:
    ids = windows(4, 13)
    model, plain, dense = (build(name, torch.float64) for _ in range(3))
    for index, block in enumerate(decoder_blocks(plain)):
        # every linear sees what the dense block gives it, behind pruned or dense blocks
        source = plain if propagate == "pruned" else dense
        inputs = linear_inputs(source, ids, decoder_blocks(source)[index])
        for linear, x in inputs.items():
            weight = block.get_submodule(linear).weight.data
            weight[wanda_mask(weight, x, pattern)] = 0

    options = PruningOptions(propagate=propagate)
    prune_model(model, parse("wanda"), HALF, Pattern.parse(pattern), ids, options=options)
    for (key, expected), got in zip(
        plain.state_dict().items(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, got), key


def test_propagation_changes_the_result() -> None:
    found = []
    for propagate in ("pruned", "dense"):
        model = build("llama-gqa")
        options = PruningOptions(propagate=propagate)
        prune_model(model, parse("wanda"), HALF, Pattern(), windows(4, 13), options=options)
        found.append(state(model))
    same = {key for key, value in found[0].items() if torch.equal(value, found[1][key])}
    assert {key for key in same if "layers.0" in key} == {
        key for key in found[0] if "layers.0" in key
    }
    assert any("layers.2" in key for key in found[0].keys() - same)


@pytest.mark.parametrize("recipe", ["wanda", "random", "owl", "pruner-zero"])
def test_the_same_seed_gives_the_same_model(recipe: str) -> None:
    first, second, other = (build("llama-gqa") for _ in range(3))
    for model, seed in ((first, 3), (second, 3), (other, 4)):
        torch.manual_seed(id(model) % 1000)  # the global generator must not matter
        prune_model(model, parse(recipe), HALF, Pattern(), windows(5, 13), seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(*map(_tensors, (first, second)), strict=True))
    differs = any(
        not torch.equal(a, b) for a, b in zip(*map(_tensors, (first, other)), strict=True)
    )
    assert differs == (recipe == "random")


def _tensors(model: Any) -> list[Tensor]:
    return list(model.state_dict().values())


@dataclass(frozen=True)
class Spy(Pruner):
    """Prunes by magnitude, and remembers what statistics each linear was given."""

    statistics: ClassVar[frozenset[str]] = frozenset({"norm"})
    given: ClassVar[list[InputStatistics]] = []

    def prune(self, weight: Tensor, inputs: InputStatistics, target: Target) -> Pruned:
        self.given.append(inputs)
        return Pruned(lowest(weight.abs().double(), target))


def test_linears_that_read_one_tensor_share_its_statistics() -> None:
    Spy.given.clear()
    model, ids = build("llama-gqa"), windows(5, 1500)  # three batches, the last one shorter
    report = prune_model(model, Recipe("spy", Spy()), HALF, Pattern(), ids)
    readers = defaultdict(set)
    for entry, statistics in zip(report.linears, Spy.given, strict=True):
        readers[id(statistics)].add((entry.block, entry.linear.split(".")[-1]))
        assert statistics.tokens == 5 * 1500
    assert {frozenset(x) for x in readers.values()} == {
        frozenset((block, name) for name in names)
        for block in range(3)
        for names in (
            ("q_proj", "k_proj", "v_proj"),
            ("o_proj",),
            ("gate_proj", "up_proj"),
            ("down_proj",),
        )
    }


@pytest.mark.parametrize("name", ["llama-gqa", "opt"])  # OPT flattens windows and tokens
def test_windows_are_counted_whatever_the_shape_of_the_inputs(name: str) -> None:
    Spy.given.clear()
    prune_model(build(name), Recipe("spy", Spy()), HALF, Pattern(), windows(5, 13))
    assert {(x.sequences, x.tokens) for x in Spy.given} == {(5, 5 * 13)}


def expected_errors(name: str, recipe: str, ids: Tensor, windows_: Tensor) -> dict[str, float]:
    """Errors on `windows_` of what is pruned with `ids`: whole models, in float64."""
    pruned_model = build(name, torch.float64)
    prune_model(pruned_model, parse(recipe), HALF, Pattern(), ids)
    mixed = build(name, torch.float64)  # pruned up to the block at hand
    errors: dict[str, float] = {}
    for index, block in enumerate(decoder_blocks(mixed)):
        x = linear_inputs(mixed, windows_, block)
        after = decoder_blocks(pruned_model)[index]
        for linear, inputs in x.items():
            w, v = block.get_submodule(linear).weight, after.get_submodule(linear).weight
            errors[f"{index}.{linear}"] = float(
                (inputs @ (w - v).T).square().sum() / (inputs @ w.T).square().sum()
            )
        outputs = []
        for weights in (None, after.state_dict()):
            if weights is not None:
                block.load_state_dict(weights)
            keep: list[Any] = []
            hook = block.register_forward_hook(lambda _, __, output, keep=keep: keep.append(output))
            with torch.no_grad():
                mixed(input_ids=windows_, use_cache=False)
            hook.remove()
            outputs.append(keep[0][0] if isinstance(keep[0], tuple) else keep[0])
        errors[f"{index}"] = float(
            (outputs[0] - outputs[1]).square().sum() / outputs[0].square().sum()
        )
    return errors


@pytest.mark.parametrize("recipe", ["wanda", "sparsegpt"])
def test_errors_equal_those_of_the_outputs(recipe: str) -> None:
    ids, heldout = windows(4, 13), windows(3, 17, seed=9)
    report = prune_model(
        build("qwen2", torch.float64), parse(recipe), HALF, Pattern(), ids, heldout_ids=heldout
    )
    for found_on, per_linear, per_block in (
        (ids, "error", report.block_errors),
        (heldout, "heldout_error", report.block_heldout_errors),
    ):
        expected = expected_errors("qwen2", recipe, ids, found_on)
        for entry in report.linears:
            key = f"{entry.block}.{entry.linear}"
            assert getattr(entry, per_linear) == pytest.approx(expected[key], rel=1e-4), key
        for index, error in enumerate(per_block):
            assert error == pytest.approx(expected[str(index)], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_errors_do_not_depend_on_the_dtype(dtype: torch.dtype) -> None:
    ids = windows(4, 13)
    plain = prune_model(build("llama-gqa"), parse("magnitude"), HALF, Pattern(), heldout_ids=ids)
    other = prune_model(
        build("llama-gqa", dtype), parse("magnitude"), HALF, Pattern(), heldout_ids=ids
    )
    for a, b in zip(plain.linears, other.linears, strict=True):
        assert a.heldout_error == pytest.approx(b.heldout_error, rel=0.03)


def test_heldout_windows_change_nothing() -> None:
    ids = windows(4, 13)
    with_, without = build("llama-gqa"), build("llama-gqa")
    a = prune_model(with_, parse("wanda"), HALF, Pattern(), ids, heldout_ids=windows(2, 9))
    b = prune_model(without, parse("wanda"), HALF, Pattern(), ids)
    assert all(torch.equal(x, y) for x, y in zip(_tensors(with_), _tensors(without), strict=True))
    assert [x.error for x in a.linears] == [x.error for x in b.linears]
    assert b.block_heldout_errors == []
    assert {x.heldout_error for x in b.linears} == {None}


def test_a_recipe_without_data_has_errors_on_heldout_windows_alone() -> None:
    report = prune_model(
        build("llama-gqa"), parse("magnitude"), HALF, Pattern(), heldout_ids=windows(2, 9)
    )
    assert report.block_errors == []
    assert len(report.block_heldout_errors) == 3
    assert all(x.error is None and 0 < (x.heldout_error or 0) < 1 for x in report.linears)


def test_dense_changes_nothing() -> None:
    model = build("llama-gqa")
    before = state(model)
    report = prune_model(model, parse("dense"), Fraction(0), Pattern())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert report.achieved_sparsity == 0
    assert report.block_sparsities == []


def test_progress_is_told_before_each_block_and_at_the_end() -> None:
    told: list[tuple[int, int]] = []
    prune_model(
        build("llama-gqa"),
        parse("magnitude"),
        HALF,
        Pattern(),
        progress=lambda *x: told.append(x),
    )
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_infinite_activations_are_named() -> None:
    model = build("llama-gqa")
    model.model.layers[1].post_attention_layernorm.weight[0] = float("inf")
    with pytest.raises(ValueError, match=r"block 1, linear mlp.gate_proj: the inputs .*infinite"):
        prune_model(model, parse("wanda"), HALF, Pattern(), windows(2, 9))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("method", ["magnitude", "random", "wanda"])
def test_weights_that_are_not_finite_are_named(method: str, value: str) -> None:
    model = build("llama-gqa")
    model.model.layers[1].mlp.up_proj.weight[0, 0] = float(value)
    with pytest.raises(ValueError, match=r"block 1, linear mlp.up_proj: the weights hold NaN"):
        prune_model(model, parse(method), HALF, Pattern(), windows(2, 9))


def test_missing_data_is_said() -> None:
    with pytest.raises(ValueError, match="needs calibration data"):
        prune_model(build("llama-gqa"), parse("wanda"), HALF, Pattern())


@pytest.mark.parametrize("way", ["new", "old"])
def test_tf32_is_off_inside_and_restored(way: str) -> None:
    products = torch.backends.cuda.matmul
    before = products.fp32_precision, products.allow_tf32
    try:
        if way == "new":
            products.fp32_precision = "tf32"
        else:
            products.allow_tf32 = True
        with full_precision():
            assert products.fp32_precision == "ieee"
            assert not torch.backends.cudnn.allow_tf32
        assert products.fp32_precision == "tf32"
        assert torch.backends.cudnn.allow_tf32
    finally:
        products.allow_tf32 = before[1]
        products.fp32_precision = before[0]
