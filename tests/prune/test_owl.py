from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import pytest
import torch
from tiny_models import build, linear_inputs, windows
from torch import Tensor

from prune.allocation import bounded
from prune.block_loop import PruningOptions
from prune.loop import prune_model
from prune.model.blocks import decoder_blocks
from prune.owl import Owl
from prune.pattern import Pattern, Target
from prune.recipe import parse


def outlier_ratios(model: Any, ids: Tensor, m: float) -> list[float]:
    """Percentage of Wanda scores of each dense block that exceed m times their mean."""
    ratios = []
    for block in decoder_blocks(model):
        x = linear_inputs(model, ids, block)
        scores = torch.cat(
            [
                (block.get_submodule(name).weight.abs() * inputs.square().sum(0).sqrt()).flatten()
                for name, inputs in x.items()
            ]
        )
        ratios.append(100 * int((scores > m * scores.mean()).sum()) / len(scores))
    return ratios


def released_formula(ratios: list[float], lam: float, sparsity: float) -> list[float]:
    low, high = min(ratios), max(ratios)
    kept = [(d - low) / (high - low) * 2 * lam for d in ratios]
    mean = sum(kept) / len(kept)
    return [1 - (k - mean + 1 - sparsity) for k in kept]


@pytest.mark.parametrize("propagate", ["pruned", "dense"])
@pytest.mark.parametrize("base", ["wanda", "magnitude", "random"])
def test_sparsities_equal_the_published_formula(base: str, propagate: str) -> None:
    model, ids = build("llama-gqa", torch.float64), windows(4, 13)
    expected = released_formula(outlier_ratios(model, ids, m=3), 0.08, 0.6)
    recipe = parse({"name": base, "allocation": {"name": "owl", "m": 3.0}})
    assert recipe.needs_data
    report = prune_model(
        model,
        recipe,
        Fraction("0.6"),
        Pattern(),
        ids,
        options=PruningOptions(propagate=propagate),
    )
    assert report.block_sparsities == pytest.approx(expected, abs=1e-12)
    assert max(expected) - min(expected) == pytest.approx(0.16)
    for entry in report.linears:
        sparsity = report.block_sparsities[entry.block]
        groups = 1 if base == "magnitude" else entry.rows
        size = entry.rows * entry.columns // groups
        assert entry.pruned == groups * int(sparsity * size + 1e-9)


def test_lam_zero_is_uniform() -> None:
    models = [build("llama-gqa"), build("llama-gqa")]
    for model, recipe in zip(models, [{"name": "owl", "lam": 0.0}, "wanda"], strict=True):
        prune_model(model, parse(recipe), Fraction(1, 2), Pattern(), windows(4, 13))
    a, b = (model.state_dict().values() for model in models)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_nm_is_floored_with_the_mean_kept() -> None:
    model = build("llama-gqa")
    recipe = parse({"name": "owl", "lam": 0.2, "m": 3.0})
    report = prune_model(model, recipe, Fraction("0.6"), Pattern.parse("2:4"), windows(4, 13))
    assert min(report.block_sparsities) == 0.5
    assert sum(report.block_sparsities) / 3 == pytest.approx(0.6)
    plain = prune_model(
        build("llama-gqa"), recipe, Fraction("0.5"), Pattern.parse("2:4"), windows(4, 13)
    )
    assert plain.block_sparsities == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "1:8"])
@pytest.mark.parametrize("seed", range(60))
def test_bounds_keep_the_mean_exactly(seed: int, pattern: str) -> None:
    draw = random.Random(seed)
    wanted = [Fraction(draw.randint(-50, 100), 50) for _ in range(draw.randint(1, 8))]
    sparsity = Fraction(draw.choice([0, 1, draw.randint(1, 49) / 50])).limit_denominator(50)
    target = Target(max(sparsity, Pattern.parse(pattern).least_sparsity), Pattern.parse(pattern))
    found = bounded(wanted, target)
    assert sum(found) == target.sparsity * len(wanted)
    low = target.pattern.least_sparsity
    assert all(low <= x <= 1 for x in found)
    inside = {x - w for x, w in zip(found, wanted, strict=True) if low < x < 1}
    assert len(inside) <= 1  # the blocks that meet no bound all moved by the same amount
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert [found[i] for i in order] == sorted(found)


def test_what_fits_is_left_alone() -> None:
    wanted = [Fraction(1, 2), Fraction(3, 5), Fraction(7, 10)]
    assert bounded(wanted, Target(Fraction(3, 5))) == wanted


def test_options_and_names() -> None:
    assert parse("owl") == parse({"name": "wanda", "allocation": {"name": "owl"}})
    assert parse("owl").allocation == Owl(lam=0.08, m=5.0)
    with pytest.raises(ValueError, match="lam"):
        parse({"name": "owl", "lam": 0.7})
    with pytest.raises(ValueError, match="m is a positive"):
        parse({"name": "owl", "m": 0.0})
