from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from prune.pattern import Target
from prune.statistics import InputStatistics
from prune.wanda import Wanda
from tests.prune import cases, reference


@pytest.mark.parametrize("target", cases.TARGETS.values(), ids=cases.TARGETS)
@pytest.mark.parametrize("kind", cases.KINDS)
def test_reference(kind: str, target: Target) -> None:
    case = cases.CASES[kind]
    result = Wanda().prune(case.weight, case.inputs("norm"), target)
    expected = reference.wanda(*case.arrays(), *cases.pattern(target))
    assert (result.mask.numpy() == expected).all()
    assert result.weight is None


def test_each_row_is_ranked_by_itself() -> None:
    case = cases.CASES["96"]
    mask = Wanda().prune(case.weight, case.inputs("norm"), Target(Fraction("0.3"))).mask
    assert mask.sum(1).tolist() == [28] * len(mask)  # floor(0.3 x 96)


def test_the_norm_is_that_of_the_gram_where_it_alone_was_gathered() -> None:
    case, target = cases.CASES["160"], Target(Fraction("0.5"))
    masks = [
        Wanda().prune(case.weight, case.inputs(kind), target).mask for kind in ("norm", "gram")
    ]
    assert torch.equal(*masks)


def test_nan_activations_are_named() -> None:
    inputs = InputStatistics(frozenset({"norm"}))
    inputs.update(torch.full((1, 3, 4), float("inf")))
    with pytest.raises(ValueError, match="inputs hold NaN or infinite"):
        inputs.check()
