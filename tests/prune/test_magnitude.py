from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from prune.magnitude import Magnitude
from prune.pattern import Pattern, Target
from prune.statistics import InputStatistics
from tests.prune import cases, reference


@pytest.mark.parametrize("target", cases.TARGETS.values(), ids=cases.TARGETS)
@pytest.mark.parametrize("kind", cases.KINDS)
def test_reference(kind: str, target: Target) -> None:
    case = cases.CASES[kind]
    result = Magnitude().prune(case.weight, InputStatistics(), target)
    expected = reference.magnitude(case.arrays()[0], *cases.pattern(target))
    assert (result.mask.numpy() == expected).all()
    assert result.weight is None


def test_the_whole_matrix_is_ranked() -> None:
    weight = torch.tensor([[1.0, 2, 3, 4], [10, 20, 30, 40]])
    mask = Magnitude().prune(weight, InputStatistics(), Target(Fraction("0.5"))).mask
    assert mask.tolist() == [[True] * 4, [False] * 4]


def test_equal_weights_lose_exactly_the_count_lowest_index_first() -> None:
    weight = torch.ones(3, 8)
    mask = Magnitude().prune(weight, InputStatistics(), Target(Fraction("0.4"))).mask
    assert mask.flatten().tolist() == [True] * 9 + [False] * 15


def test_a_width_that_m_does_not_divide_is_refused() -> None:
    target = Target(Fraction("0.5"), Pattern(2, 4))
    with pytest.raises(ValueError, match="2:4 needs a number of inputs that 4 divides, not 6"):
        Magnitude().prune(torch.randn(2, 6), InputStatistics(), target)
