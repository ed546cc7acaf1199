from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from prune.pattern import Target
from prune.ria import RIA
from tests.prune import cases, reference


@pytest.mark.parametrize("target", cases.TARGETS.values(), ids=cases.TARGETS)
@pytest.mark.parametrize("kind", cases.KINDS)
def test_reference(kind: str, target: Target) -> None:
    case = cases.CASES[kind]
    result = RIA().prune(case.weight, case.inputs("norm"), target)
    expected = reference.ria(*case.arrays(), *cases.pattern(target))
    assert (result.mask.numpy() == expected).all()
    assert result.weight is None


@pytest.mark.parametrize("a", [0.0, 0.25, 1.0])
def test_the_power_of_the_activations(a: float) -> None:
    case, target = cases.CASES["dead inputs"], cases.TARGETS["50%"]
    mask = RIA(a).prune(case.weight, case.inputs("norm"), target).mask
    expected = reference.ria(*case.arrays(), *cases.pattern(target), a=a)
    assert (mask.numpy() == expected).all()


def test_the_whole_matrix_loses_the_count() -> None:
    case = cases.CASES["160"]
    mask = RIA().prune(case.weight, case.inputs("norm"), Target(Fraction("0.37"))).mask
    assert int(mask.sum()) == 414  # floor(0.37 x 7 x 160); floors by row would give 413


def test_a_row_of_zeros_goes_first() -> None:
    weight = torch.cat([torch.ones(1, 32), torch.zeros(1, 32)])
    case = cases.CASES["correlated"]
    mask = RIA().prune(weight, case.inputs("norm"), Target(Fraction("0.5"))).mask
    assert mask[1].all()
    assert not mask[0].any()


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="a must be 0 or more, not -1"):
        RIA(-1.0)
