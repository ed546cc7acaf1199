from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from prune.pattern import Pattern, Target
from prune.sparsegpt import SparseGPT
from prune.statistics import InputStatistics
from tests.prune import cases, reference


def assert_close(weight: torch.Tensor, expected: np.ndarray) -> None:
    """Within 1e-6 of the largest weight of each row."""
    largest = abs(expected).max(axis=1, keepdims=True)
    assert (abs(weight.double().numpy() - expected) <= 1e-6 * largest).all()


def exact(case: cases.Case) -> InputStatistics:
    """The Gram matrix in float64, so that only the pruner is tested."""
    statistics = InputStatistics(frozenset({"gram"}))
    tokens = case.windows.double().flatten(0, 1)
    statistics.gram_sum, statistics.sequences = tokens.T @ tokens, len(case.windows)
    return statistics


@pytest.mark.parametrize("target", cases.TARGETS.values(), ids=cases.TARGETS)
@pytest.mark.parametrize("kind", cases.KINDS)
def test_reference(kind: str, target: Target) -> None:
    case = cases.CASES[kind]
    result = SparseGPT().prune(case.weight, exact(case), target)
    mask, weight = reference.sparsegpt(*case.arrays(), *cases.pattern(target))
    assert (result.mask.numpy() == mask).all()
    assert_close(result.weight, weight)
    assert (result.weight[result.mask] == 0).all()


@pytest.mark.parametrize("target", cases.TARGETS.values(), ids=cases.TARGETS)
def test_reference_with_small_blocks_and_more_damping(target: Target) -> None:
    case = cases.CASES["160"]
    result = SparseGPT(0.1, 48).prune(case.weight, exact(case), target)
    mask, weight = reference.sparsegpt(
        *case.arrays(), *cases.pattern(target), dampening=0.1, block_size=48
    )
    assert (result.mask.numpy() == mask).all()
    assert_close(result.weight, weight)


@pytest.mark.parametrize("kind", ["96", "160"])
def test_statistics_as_the_loop_gathers_them(kind: str) -> None:
    case, target = cases.CASES[kind], cases.TARGETS["50%"]
    result = SparseGPT().prune(case.weight, case.inputs("gram"), target)
    mask, weight = reference.sparsegpt(*case.arrays(), *cases.pattern(target))
    assert (result.mask.numpy() == mask).all()
    assert np.abs(result.weight.double().numpy() - weight).max() < 1e-4 * np.abs(weight).max()


def test_each_column_block_loses_its_floor() -> None:
    case = cases.CASES["160"]
    mask = SparseGPT().prune(case.weight, exact(case), Target(Fraction("0.37"))).mask
    assert int(mask[:, :128].sum()) == int(Fraction("0.37") * 7 * 128)
    assert int(mask[:, 128:].sum()) == int(Fraction("0.37") * 7 * 32)


def test_compensation_beats_the_mask_alone() -> None:
    case, target = cases.CASES["correlated"], cases.TARGETS["50%"]
    result = SparseGPT().prune(case.weight, exact(case), target)
    x = case.windows.flatten(0, 1)
    lost = [
        float((x @ (weight - case.weight).T).square().sum())
        for weight in (result.weight, case.weight * ~result.mask)
    ]
    assert lost[0] < 0.1 * lost[1]


def test_sparsity_of_the_pattern_alone_is_plain_n_of_m() -> None:
    case = cases.CASES["160"]
    result = SparseGPT().prune(case.weight, exact(case), cases.TARGETS["2:4"])
    assert (result.mask.reshape(7, -1, 4).sum(2) == 2).all()


def test_equal_scores_go_by_lowest_index_row_by_row() -> None:
    inputs = InputStatistics(frozenset({"gram"}), gram_sum=torch.eye(8).double(), sequences=1)
    mask = SparseGPT().prune(torch.ones(3, 8), inputs, Target(Fraction("0.4"))).mask
    assert mask.flatten().tolist() == [True] * 9 + [False] * 15


def test_dead_inputs_go_first_and_survivors_keep_their_weight() -> None:
    case = cases.make("dead inputs")
    case.windows[..., :16] = 0
    result = SparseGPT().prune(case.weight, exact(case), cases.TARGETS["30%"])
    dead = ~case.windows.flatten(0, 1).any(0)
    assert int(result.mask.sum()) == int(Fraction("0.3") * 6 * 32)
    assert not result.mask[:, ~dead].any()
    assert torch.equal(result.weight, case.weight * ~result.mask)
    assert result.notes == {"dead_inputs": 17}


def test_bfloat16_in_and_out() -> None:
    case, target = cases.CASES["96"], cases.TARGETS["50%"]
    weight = case.weight.bfloat16()
    result = SparseGPT().prune(weight, exact(case), target)
    mask, expected = reference.sparsegpt(
        weight.double().numpy(), case.arrays()[1], *cases.pattern(target)
    )
    assert result.weight.dtype == torch.bfloat16
    assert (result.mask.numpy() == mask).all()
    assert torch.equal(result.weight, torch.from_numpy(expected).bfloat16())


def indefinite(lowest: float) -> InputStatistics:
    """A Hessian of unit mean diagonal whose least eigenvalue is `lowest`."""
    gram = torch.eye(4, dtype=torch.float64)
    gram[0, 1] = gram[1, 0] = 1 - lowest
    return InputStatistics(frozenset({"gram"}), gram_sum=gram / 2, sequences=1)


def test_the_damping_is_raised_until_the_hessian_is_positive_definite() -> None:
    weight, target = torch.randn(3, 4), Target(Fraction("0.5"))
    assert SparseGPT().prune(weight, indefinite(-0.005), target).notes == {}
    assert SparseGPT().prune(weight, indefinite(-0.05), target).notes == {"dampening": 0.1}
    assert SparseGPT().prune(weight, indefinite(-0.5), target).notes == {"dampening": 1.0}
    assert SparseGPT(0.0).prune(weight, indefinite(-0.005), target).notes == {"dampening": 0.01}


def test_a_hessian_that_no_damping_helps_is_refused_with_advice() -> None:
    with pytest.raises(ValueError, match=r"not positive definite, even with 1 .* longer windows"):
        SparseGPT().prune(torch.randn(3, 4), indefinite(-3), Target(Fraction("0.5")))


def test_nan_activations_are_named() -> None:
    inputs = InputStatistics(frozenset({"gram"}))
    inputs.update(torch.full((1, 3, 4), float("nan")))
    with pytest.raises(ValueError, match="inputs hold NaN or infinite"):
        inputs.check()
    with pytest.raises(ValueError, match="inputs hold NaN or infinite"):
        SparseGPT().prune(torch.randn(3, 4), inputs, Target(Fraction("0.5")))


def test_a_group_that_crosses_blocks_is_refused() -> None:
    target = Target(Fraction("0.5"), Pattern(3, 6))
    with pytest.raises(ValueError, match="blocks of 128 columns, which 6 does not divide"):
        SparseGPT().check(target)
    case = cases.CASES["96"]
    with pytest.raises(ValueError, match="set block_size to a multiple of 6"):
        SparseGPT().prune(case.weight, exact(case), target)
    SparseGPT(block_size=96).check(target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dampening": -0.1}, "dampening must be 0 or more"),
        ({"dampening": float("nan")}, "dampening must be 0 or more"),
        ({"block_size": 0}, "block_size must be 1 or more"),
    ],
)
def test_options_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseGPT(**options)  # type: ignore[arg-type]
