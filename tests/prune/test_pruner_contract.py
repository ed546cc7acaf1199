"""What every pruner owes its caller, over the table of names."""

from __future__ import annotations

import copy
import subprocess
import sys
from fractions import Fraction

import pytest
import torch

from prune.pattern import Pattern, Target
from prune.pruner import Pruned, Pruner
from prune.recipe import PRUNERS, parse
from prune.statistics import InputStatistics
from tests.prune import cases

TARGETS = {"37%": Target(Fraction("0.37")), **cases.TARGETS}


def pruner(name: str) -> Pruner:
    found = parse(name).pruner
    assert found is not None
    return found


def inputs(case: cases.Case, needs: frozenset[str]) -> InputStatistics:
    statistics = case.inputs(*(needs - {"gradient"}))
    if "gradient" in needs:
        draws = torch.Generator().manual_seed(3)
        statistics.gradient = torch.rand(case.weight.shape, generator=draws) + 0.1
    statistics.generator = torch.Generator().manual_seed(5)
    return statistics


def counts_are_exact(mask: torch.Tensor, target: Target) -> bool:
    """For one of the comparison groups: the row, the matrix, or a block of 128 columns."""
    rows = mask.sum(1) == target.count(mask.shape[1])
    blocks = [int(b.sum()) == target.count(b.numel()) for b in mask.split(128, dim=1)]
    return bool(rows.all()) or int(mask.sum()) == target.count(mask.numel()) or all(blocks)


def written(result: Pruned, dense: torch.Tensor) -> torch.Tensor:
    """The weight as the pruning left it."""
    weight = dense.clone()
    result.write_into(weight)
    return weight


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("name", PRUNERS)
def test_counts_pattern_and_zeros(name: str, kind: str, target: Target) -> None:
    case = cases.CASES[kind]
    result = pruner(name).prune(case.weight, inputs(case, pruner(name).needs), target)
    assert result.mask.dtype == torch.bool
    assert counts_are_exact(result.mask, target)
    if target.pattern.m:
        cases.assert_at_most_n(result.mask, target)
    after = written(result, case.weight)
    assert (after[result.mask] == 0).all()
    created = (after == 0) & (case.weight != 0)
    assert not (created & ~result.mask).any()
    if not pruner(name).updates_weights:
        assert torch.equal(after, case.weight.masked_fill(result.mask, 0))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("name", PRUNERS)
def test_same_input_same_bytes_and_inputs_untouched(name: str, target: Target) -> None:
    case = cases.CASES["160"]
    weight, statistics = case.weight.clone(), inputs(case, pruner(name).needs)
    before = copy.deepcopy(
        {k: v for k, v in vars(statistics).items() if isinstance(v, torch.Tensor)}
    )
    first = pruner(name).prune(weight, statistics, target)
    assert torch.equal(weight, case.weight)
    for field, value in before.items():
        assert torch.equal(getattr(statistics, field), value), field
    second = pruner(name).prune(weight, inputs(case, pruner(name).needs), target)
    assert torch.equal(written(first, weight), written(second, weight))
    assert torch.equal(first.mask, second.mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("name", PRUNERS)
def test_sparsity_0_is_identity(name: str, kind: str, dtype: torch.dtype) -> None:
    case = cases.CASES[kind]
    weight = case.weight.to(dtype)
    result = pruner(name).prune(weight, inputs(case, pruner(name).needs), Target(Fraction(0)))
    assert result.weight is None or result.weight.dtype == dtype
    assert torch.equal(written(result, weight), weight)
    assert not result.mask.any()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("name", PRUNERS)
def test_bfloat16_in_and_out(name: str, target: Target) -> None:
    case = cases.CASES["96"]
    weight = case.weight.bfloat16()
    result = pruner(name).prune(weight, inputs(case, pruner(name).needs), target)
    assert result.weight is None or result.weight.dtype == torch.bfloat16
    assert counts_are_exact(result.mask, target)
    assert (written(result, weight)[result.mask] == 0).all()


@pytest.mark.parametrize("name", PRUNERS)
def test_a_width_that_m_does_not_divide_is_refused(name: str) -> None:
    case = cases.CASES["160"]
    narrow = cases.Case(case.weight[:, :34], case.windows[..., :34])
    with pytest.raises(ValueError, match="divide"):
        pruner(name).prune(
            narrow.weight,
            inputs(narrow, pruner(name).needs),
            Target(Fraction("0.5"), Pattern(2, 4)),
        )


def test_no_pruner_imports_torch_before_it_prunes() -> None:
    code = (
        "import sys, prune.recipe as r\n"
        "for name in r.PRUNERS: r.parse(name).check(r.Target(sparsity=0.5))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
