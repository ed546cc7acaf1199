"""Weights and inputs that the tests of the pruners share."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from prune.pattern import Pattern, Target
from prune.statistics import InputStatistics
from tests.prune import reference

TARGETS = {
    "30%": Target(Fraction("0.3")),
    "50%": Target(Fraction("0.5")),
    "60%": Target(Fraction("0.6")),
    "2:4": Target(Fraction("0.5"), Pattern(2, 4)),
    "4:8": Target(Fraction("0.5"), Pattern(4, 8)),
    "1:4": Target(Fraction("0.75"), Pattern(1, 4)),
    "2:4 at 60%": Target(Fraction("0.6"), Pattern(2, 4)),
}


@dataclass(frozen=True)
class Case:
    """Weights [rows, columns] and inputs [windows, tokens, columns], both float32."""

    weight: Tensor
    windows: Tensor

    def arrays(self) -> tuple[reference.Array, reference.Array]:
        """Weights and windows in float64, as the references take them."""
        return self.weight.double().numpy(), self.windows.double().numpy()

    def inputs(self, *wanted: str) -> InputStatistics:
        """Statistics as the block loop gathers them, two windows at a time."""
        statistics = InputStatistics(frozenset(wanted))
        for part in self.windows.split(2):
            statistics.update(part)
        return statistics


def make(kind: str) -> Case:
    rows, columns = {"96": (11, 96), "160": (7, 160)}.get(kind, (6, 32))
    draws = torch.Generator().manual_seed(len(kind) + columns)
    scale = torch.logspace(-1.5, 1.5, rows).unsqueeze(1)  # rows of clearly different scale
    weight = torch.randn(rows, columns, generator=draws) * scale
    shape = (1, 24, columns) if kind == "one window" else (5, 20, columns)
    windows = torch.randn(shape, generator=draws) * (torch.rand(columns, generator=draws) + 0.2)
    windows += torch.randn(columns, generator=draws) * 0.3  # means that matter
    if kind == "correlated":
        mixing = torch.randn(4, columns, generator=draws)
        windows = windows[..., :4] @ mixing + 0.05 * windows
    if kind == "dead inputs":
        windows[..., [0, 5, 6, 7, 20]] = 0
    if kind == "zero rows":
        weight[[1, 4]] = 0
        weight[:, 3] = 0
    return Case(weight, windows)


KINDS = ("96", "160", "one window", "correlated", "dead inputs", "zero rows")
CASES = {kind: make(kind) for kind in KINDS}


def pattern(target: Target) -> tuple[Fraction, int, int]:
    """Sparsity, N and M, as the references take them."""
    return target.sparsity, target.pattern.n, target.pattern.m


def assert_at_most_n(mask: Tensor, target: Target) -> None:
    kept = (~mask).reshape(len(mask), -1, target.pattern.m).sum(2)
    assert int(kept.max()) <= target.pattern.n
