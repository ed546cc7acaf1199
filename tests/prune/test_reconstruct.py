from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
import torch
from tiny_models import build, linear_inputs, state, windows
from torch import Tensor

from prune.block_loop import PruningOptions, _generator
from prune.loop import prune_model
from prune.model.blocks import decoder_blocks
from prune.pattern import Pattern
from prune.recipe import parse
from prune.reconstruct import Reconstruct

HALF = Fraction(1, 2)
FAST = {"name": "reconstruct", "epochs": 3, "lr": 1e-3, "batch": 2}


def refined(
    name: str, recipe: dict[str, Any], dtype: torch.dtype = torch.float32, **more: Any
) -> Any:
    model = build(name, dtype)
    report = prune_model(model, parse(recipe), HALF, Pattern(), windows(5, 13), **more)
    return model, report


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", ["br", "ebft"])
@pytest.mark.parametrize("name", ["llama-gqa", "gemma3", "gpt2", "opt"])
def test_tuning_lowers_the_loss_and_keeps_the_masks(
    name: str, preset: str, dtype: torch.dtype
) -> None:
    dense = state(build(name, dtype))
    model, report = refined(name, {"name": "wanda", "refine": {**FAST, "preset": preset}}, dtype)
    assert report.achieved_sparsity == 0.5
    assert report.zeros == sum(int((p == 0).sum()) for p in model.parameters())
    linear = sum(x.pruned for x in report.linears)
    assert sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1) == linear
    assert len(report.refinements) == 3
    for figures, error in zip(report.refinements, report.block_errors, strict=True):
        assert figures["loss_after"] < figures["loss_before"]
        assert figures["epoch"] >= 1
        assert error > 0
    for key, value in model.state_dict().items():
        if value.dim() == 1 or "embed" in key or "wte" in key or "wpe" in key:
            assert torch.equal(value, dense[key]), key


def test_the_loss_is_that_of_the_block_in_the_model() -> None:
    """First block: dense and refined outputs of two whole models, over N H T."""
    ids = windows(5, 13)
    model, report = refined("llama-gqa", {"name": "wanda", "refine": FAST})
    outputs = []
    for source in (build("llama-gqa"), model):
        keep: list[Tensor] = []
        hook = decoder_blocks(source)[0].register_forward_hook(
            lambda _, __, output, keep=keep: keep.append(output)
        )
        with torch.no_grad():
            source(input_ids=ids)
        hook.remove()
        outputs.append(keep[0].double())
    loss = float((outputs[0] - outputs[1]).square().sum() / outputs[0].numel())
    assert report.refinements[0]["loss_after"] == pytest.approx(loss, rel=1e-5)
    error = float((outputs[0] - outputs[1]).square().sum() / outputs[0].square().sum())
    assert report.block_errors[0] == pytest.approx(error, rel=1e-5)


def plain_first_block(ids: Tensor, options: Reconstruct, decay: float) -> list[dict[str, Tensor]]:
    """The first block after every epoch, by AdamW as its paper writes it, in float64."""
    dense, sparse = (build("llama-gqa", torch.float64) for _ in range(2))
    prune_model(sparse, parse("wanda"), HALF, Pattern(), ids)
    block = decoder_blocks(sparse)[0]
    target: list[Tensor] = []
    decoder_blocks(dense)[0].register_forward_hook(lambda _, __, output: target.append(output))
    with torch.no_grad():
        dense(input_ids=ids)
    names = list(linear_inputs(sparse, ids, block))
    weights = {name: block.get_submodule(name).weight for name in names}
    masks = {name: w == 0 for name, w in weights.items()}
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    v = {name: torch.zeros_like(w) for name, w in weights.items()}
    for w in weights.values():
        w.requires_grad_(True)
    order, step, epochs = _generator(0, 0, "refine"), 0, []
    steps = options.epochs * -(-len(ids) // options.batch)
    for _ in range(options.epochs):
        for rows in torch.randperm(len(ids), generator=order).split(options.batch):
            keep: list[Tensor] = []
            hook = block.register_forward_hook(lambda _, __, out, keep=keep: keep.append(out))
            sparse(input_ids=ids[rows])
            hook.remove()
            loss = ((keep[0] - target[0][rows]) ** 2).mean()
            gradients = torch.autograd.grad(loss, list(weights.values()))
            rate = options.lr * (1 - step / steps)
            step += 1
            with torch.no_grad():
                for (name, w), g in zip(weights.items(), gradients, strict=True):
                    g = g.masked_fill(masks[name], 0)
                    m[name] = 0.9 * m[name] + 0.1 * g
                    v[name] = 0.95 * v[name] + 0.05 * g * g
                    w *= 1 - rate * decay
                    w -= (
                        rate
                        * (m[name] / (1 - 0.9**step))
                        / ((v[name] / (1 - 0.95**step)).sqrt() + 1e-8)
                    )
                    w.masked_fill_(masks[name], 0)
        epochs.append({name: w.detach().clone() for name, w in weights.items()})
    return epochs


@pytest.mark.parametrize(("preset", "decay"), [("br", 0.0), ("ebft", 0.1)])
def test_it_is_adam_with_a_linear_schedule(preset: str, decay: float) -> None:
    ids = windows(5, 13)
    options = Reconstruct(preset=preset, epochs=3, lr=1e-3, batch=2)  # type: ignore[arg-type]
    epochs = plain_first_block(ids, options, decay)
    model, report = refined("llama-gqa", {"name": "wanda", "refine": {**FAST, "preset": preset}})
    expected = epochs[int(report.refinements[0]["epoch"]) - 1]
    block = decoder_blocks(model)[0]
    for name, weight in expected.items():
        torch.testing.assert_close(
            block.get_submodule(name).weight.double(), weight, rtol=1e-4, atol=2e-5
        )


def test_it_is_never_worse_than_before() -> None:
    recipe = {"name": "wanda", "refine": {**FAST, "lr": 100.0}}
    model, report = refined("llama-gqa", recipe)
    plain, _ = refined("llama-gqa", {"name": "wanda"})
    assert all(x["epoch"] == 0 for x in report.refinements)
    assert all(x["loss_after"] == x["loss_before"] for x in report.refinements)
    a, b = model.state_dict().values(), plain.state_dict().values()
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_seed_and_nothing_else_orders_the_batches() -> None:
    recipe = {"name": "magnitude", "refine": FAST}
    first, _ = refined("llama-gqa", recipe, seed=1)
    torch.rand(3)
    second, _ = refined("llama-gqa", recipe, seed=1)
    other, _ = refined("llama-gqa", recipe, seed=2)
    a, b, c = (list(x.state_dict().values()) for x in (first, second, other))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(a, c, strict=True))
    assert parse(recipe).needs_seed
    assert parse(recipe).needs_data


def test_skipped_linears_stay() -> None:
    options = PruningOptions(skip=("mlp.*",))
    dense = copy.deepcopy(state(build("llama-gqa")))
    model, report = refined("llama-gqa", {"name": "wanda", "refine": FAST}, options=options)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, dense[k])}
    assert changed
    assert all("self_attn" in key for key in changed)
    assert report.refinements[0]["loss_after"] < report.refinements[0]["loss_before"]


def test_options() -> None:
    assert parse({"name": "wanda", "refine": "reconstruct"}).refiner == Reconstruct(
        "br", 10, 2e-4, 8
    )
    for wrong in ({"epochs": 0}, {"lr": 0.0}, {"batch": 0}, {"preset": "gp"}):
        with pytest.raises(ValueError, match=r"reconstruct"):
            parse({"name": "wanda", "refine": {"name": "reconstruct", **wrong}})
