"""Which weights may go: sparsity, N:M patterns, and the one ranking every pruner uses."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from prune.fused import fused

if TYPE_CHECKING:
    from torch import Tensor

Group = Literal["row", "matrix"]
"""A comparison group: the set of weights within which saliency is ranked."""


@dataclass(frozen=True)
class Pattern:
    """`unstructured` (n = m = 0), or N:M: at most `n` non-zero of `m` consecutive inputs."""

    n: int = 0
    m: int = 0

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read `unstructured` or `N:M` with 0 < N < M.

        Raises:
            ValueError: the text is neither.
        """
        if text == "unstructured":
            return cls()
        match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)
        if not match or not int(match[1]) < int(match[2]):
            raise ValueError(
                f"{text!r} is no pattern: write 'unstructured', or N:M (N non-zero weights of M "
                "consecutive inputs, 0 < N < M), for example 2:4"
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def least_sparsity(self) -> Fraction:
        """The sparsity that the pattern alone gives: 1 - N/M, or 0 where unstructured."""
        return 1 - Fraction(self.n, self.m) if self.m else Fraction(0)

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" if self.m else "unstructured"


@dataclass(frozen=True)
class Target:
    """What one linear must lose: an exact fraction of every comparison group, in a pattern."""

    sparsity: Fraction
    pattern: Pattern = Pattern()

    def count(self, group_size: int) -> int:
        """Weights that a comparison group of `group_size` loses: floor(sparsity x group_size)."""
        return int(self.sparsity * group_size)


def lowest(saliency: Tensor, target: Target, group: Group = "row") -> Tensor:
    """Mark the weights of lowest saliency, exactly as many as `target` asks for.

    N:M comes first (M - N of every M consecutive inputs); then, where the target is sparser than
    the pattern, the lowest survivors of the comparison group until its count holds. Ties go to
    the lowest index.

    Args:
        saliency: importance of each weight, [rows, columns]; must be finite.
        target: sparsity and pattern.
        group: "row" ranks within each output row, "matrix" over all of it.

    Returns:
        Mask, bool [rows, columns], True = pruned.

    Raises:
        ValueError: saliency is not finite, or M does not divide the columns.
    """
    import torch

    extremes = torch.stack(torch.aminmax(saliency))  # NaN, where there is one
    if not all(map(math.isfinite, extremes.tolist())):
        raise ValueError("saliency holds NaN or infinite values; look for them in the activations")
    return lowest_unchecked(saliency, target, group)


def lowest_unchecked(saliency: Tensor, target: Target, group: Group = "row") -> Tensor:
    """What `lowest` does, for saliency that is known to be finite: a GPU is not waited for."""
    if target.pattern.m:
        mask = lowest_of_each_m(saliency, target.pattern)
        if target.sparsity == target.pattern.least_sparsity:
            return mask  # M divides the columns, so that is the count of every group
        saliency = saliency.masked_fill(mask, float("-inf"))  # already gone: first in every rank
    grouped = saliency if group == "row" else saliency.reshape(1, -1)
    count = target.count(grouped.shape[1])
    if not count:  # then nothing is gone either
        return saliency != saliency
    return _lowest_of_rows(grouped, count).view(saliency.shape)


def _lowest_of_rows(saliency: Tensor, count: int) -> Tensor:
    """Mark the `count` lowest of every row, lowest index on ties; bool, same shape."""
    if fused(saliency):
        from prune.kernels.ranking import LONGEST_ROW, lowest_of_all, lowest_rows

        if len(saliency) == 1:
            return lowest_of_all(saliency, count)
        if saliency.shape[1] <= LONGEST_ROW:
            return lowest_rows(saliency, count)
    if saliency.is_cuda and len(saliency) == 1:  # where kthvalue leaves most of a GPU idle
        last = saliency.sort(dim=1).values[:, count - 1, None]
    else:
        last = saliency.kthvalue(count, dim=1, keepdim=True).values
    below, equal = saliency < last, saliency == last
    left = count - below.sum(1, keepdim=True)
    return below | (equal & (equal.cumsum(1) <= left))


def lowest_of_each_m(saliency: Tensor, pattern: Pattern) -> Tensor:
    """Mark the M - N lowest of every M consecutive inputs of a row; bool, same shape."""
    rows, columns = saliency.shape
    if columns % pattern.m:
        raise ValueError(
            f"pattern {pattern} needs a number of inputs that {pattern.m} divides, not {columns}"
        )
    if fused(saliency):
        from prune.kernels.ranking import lowest_of_each

        return lowest_of_each(saliency, pattern.m - pattern.n, pattern.m)
    groups = saliency.reshape(-1, pattern.m)
    order = groups.sort(dim=1, stable=True).indices[:, : pattern.m - pattern.n]
    mask = groups != groups  # all False
    return mask.scatter_(1, order, True).reshape(rows, columns)
