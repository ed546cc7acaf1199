from __future__ import annotations

from fractions import Fraction
from typing import Literal

import pytest
import torch

from prune.dsnot import DSnoT
from prune.pattern import Pattern, Target
from prune.wanda import Wanda
from tests.prune import cases, reference

Initial = Literal["wanda", "magnitude", "sparsegpt"]
REFERENCES = {"paper": reference.dsnot_paper, "released": reference.dsnot_released}


@pytest.mark.parametrize("target", cases.TARGETS.values(), ids=cases.TARGETS)
@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("variant", REFERENCES)
def test_reference(variant: Literal["paper", "released"], kind: str, target: Target) -> None:
    case = cases.CASES[kind]
    pruner = DSnoT(threshold=0.01, variant=variant)
    result = pruner.prune(case.weight, case.inputs(*pruner.needs), target)
    expected = REFERENCES[variant](*case.arrays(), *cases.pattern(target), threshold=0.01)
    assert (result.mask.numpy() == expected).all()
    assert result.weight is None


@pytest.mark.parametrize("target", cases.TARGETS.values(), ids=cases.TARGETS)
@pytest.mark.parametrize("initial", ["magnitude", "sparsegpt"])
@pytest.mark.parametrize("variant", REFERENCES)
def test_other_starts(
    variant: Literal["paper", "released"], initial: Initial, target: Target
) -> None:
    case = cases.CASES["160"]
    pruner = DSnoT(initial=initial, variant=variant)
    mask = pruner.prune(case.weight, case.inputs(*pruner.needs), target).mask
    expected = REFERENCES[variant](*case.arrays(), *cases.pattern(target), initial=initial)
    assert (mask.numpy() == expected).all()


@pytest.mark.parametrize("variant", REFERENCES)
@pytest.mark.parametrize(("cycles", "power"), [(0, 1.0), (1, 1.0), (7, 0.0), (200, 0.5)])
def test_options(variant: Literal["paper", "released"], cycles: int, power: float) -> None:
    case, target = cases.CASES["96"], cases.TARGETS["50%"]
    pruner = DSnoT(max_cycles=cycles, threshold=0.0, variance_power=power, variant=variant)
    mask = pruner.prune(case.weight, case.inputs(*pruner.needs), target).mask
    expected = REFERENCES[variant](
        *case.arrays(), *cases.pattern(target), max_cycles=cycles, threshold=0.0, power=power
    )
    assert (mask.numpy() == expected).all()


@pytest.mark.parametrize("target", cases.TARGETS.values(), ids=cases.TARGETS)
@pytest.mark.parametrize("initial", ["wanda", "magnitude", "sparsegpt"])
@pytest.mark.parametrize("variant", REFERENCES)
def test_counts_are_those_of_the_start(
    variant: Literal["paper", "released"], initial: Initial, target: Target
) -> None:
    case = cases.CASES["160"]
    inputs = case.inputs("moments", "gram")
    start, end = (
        DSnoT(initial, cycles, 0.0, variant=variant).prune(case.weight, inputs, target).mask
        for cycles in (0, 50)
    )
    assert (start != end).any()
    assert torch.equal(start.sum(1), end.sum(1))
    if target.pattern.m:
        shape = (len(start), -1, target.pattern.m)
        assert torch.equal(start.reshape(shape).sum(2), end.reshape(shape).sum(2))
        cases.assert_at_most_n(end, target)


@pytest.mark.parametrize("variant", REFERENCES)
def test_swaps_lessen_the_expected_error(variant: Literal["paper", "released"]) -> None:
    case, target = cases.CASES["160"], cases.TARGETS["60%"]
    inputs = case.inputs("moments")
    errors = [
        (case.weight.double() * inputs.mean * pruner.prune(case.weight, inputs, target).mask)
        .sum(1)
        .abs()
        .sum()
        for pruner in (Wanda(), DSnoT(threshold=0.0, variant=variant))
    ]
    assert errors[1] < errors[0]


def test_a_row_within_the_threshold_is_left_alone() -> None:
    case, target = cases.CASES["96"], cases.TARGETS["50%"]
    inputs = case.inputs("moments")
    mask = DSnoT(threshold=1e9).prune(case.weight, inputs, target).mask
    assert torch.equal(mask, Wanda().prune(case.weight, inputs, target).mask)


def test_the_released_variant_depends_on_the_window_length_the_paper_does_not() -> None:
    case, target = cases.CASES["160"], cases.TARGETS["50%"]
    longer = cases.Case(case.weight, case.windows.repeat(1, 8, 1))
    for variant, same in (("paper", True), ("released", False)):
        masks = [
            DSnoT(threshold=0.3, variant=variant).prune(x.weight, x.inputs("moments"), target).mask  # type: ignore[arg-type]
            for x in (case, longer)
        ]
        assert torch.equal(*masks) == same


def test_needs_are_those_of_the_start_too() -> None:
    assert DSnoT().needs == {"moments", "norm"}
    assert DSnoT("magnitude").needs == {"moments"}
    assert DSnoT("sparsegpt").needs == {"moments", "gram"}


def test_the_start_may_refuse_a_pattern() -> None:
    target = Target(Fraction("0.5"), Pattern(3, 6))
    with pytest.raises(ValueError, match="6 does not divide"):
        DSnoT("sparsegpt").check(target)
    DSnoT().check(target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_cycles": -1}, "max_cycles must be 0 or more"),
        ({"threshold": -0.1}, "threshold must be 0 or more"),
        ({"variance_power": float("inf")}, "variance_power must be 0 or more"),
    ],
)
def test_options_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DSnoT(**options)  # type: ignore[arg-type]
