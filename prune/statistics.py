"""What calibration tells about the inputs of a linear, gathered once per distinct input."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

STATISTICS = ("norm", "moments", "gram")


@dataclass
class InputStatistics:
    """Running sums over the calibration tokens that reach a linear with C inputs.

    Products and sums are float64, so that
    neither the batch size nor the order of batches shows in a mask.

    Attributes:
        wanted: which of `STATISTICS` to keep; "norm" is the diagonal of "gram".
        tokens: tokens seen. sequences: windows seen.
        square_sum: sum of x_j^2, [C]. value_sum: sum of x_j, [C]. gram_sum: sum of x x^T, [C, C].
        between_sum: sum over windows of (sum of x_j over the window)^2 / tokens of the window, [C].
        gradient: root of the summed squared gradients of the weight, [rows, C], where a pruner
            asked for "gradient".
        generator: the linear's own source of random numbers, on the CPU.
    """

    wanted: frozenset[str] = frozenset()
    tokens: int = 0
    sequences: int = 0
    square_sum: Tensor | None = None
    value_sum: Tensor | None = None
    gram_sum: Tensor | None = None
    between_sum: Tensor | None = None
    gradient: Tensor | None = None
    generator: torch.Generator = field(default_factory=torch.Generator)

    def update(self, x: Tensor) -> None:
        """Add a batch of inputs, [..., C] (all but the last dimension are tokens).

        Raises:
            ValueError: the batch holds NaN or infinite values.
        """
        windows = x.shape[0] if x.dim() > 2 else 1
        self.sequences += windows
        x = x.detach().reshape(-1, x.shape[-1]).float()
        self.tokens += x.shape[0]
        if {"norm", "moments"} & self.wanted:
            self.square_sum = _add(self.square_sum, x.square().sum(0, dtype=torch.float64))
            if not bool(self.square_sum.isfinite().all()):
                raise ValueError("the inputs hold NaN or infinite values")
        if "moments" in self.wanted:
            sums = x.reshape(windows, -1, x.shape[-1]).sum(1, dtype=torch.float64)
            self.value_sum = _add(self.value_sum, sums.sum(0))
            between = sums.square().sum(0) * (windows / x.shape[0])
            self.between_sum = _add(self.between_sum, between)
        if "gram" in self.wanted:
            self.gram_sum = _add(self.gram_sum, x.double().T @ x.double())
            if not bool(self.gram_sum.isfinite().all()):
                raise ValueError("the inputs hold NaN or infinite values")

    @cached_property
    def norm(self) -> Tensor:
        """||X_j||_2 over all tokens, float64 [C]."""
        if self.square_sum is not None:
            return self.square_sum.sqrt()
        if self.gram_sum is None:
            raise ValueError("no statistics were gathered")
        return self.gram_sum.diagonal().sqrt()

    @cached_property
    def mean(self) -> Tensor:
        """E[x_j] over all tokens, float64 [C]."""
        if self.value_sum is None:
            raise ValueError("the statistic 'moments' was not gathered")
        return self.value_sum / self.tokens

    @cached_property
    def variance(self) -> Tensor:
        """Var[x_j] over all tokens (population), float64 [C]."""
        return (self.norm.square() / self.tokens - self.mean.square()).clamp_min(0)

    @cached_property
    def window_sum(self) -> Tensor:
        """Sum of x_j over a window, averaged over windows, float64 [C]."""
        if self.value_sum is None:
            raise ValueError("the statistic 'moments' was not gathered")
        return self.value_sum / self.sequences

    @cached_property
    def within_variance(self) -> Tensor:
        """Var[x_j] within a window, averaged over windows by their tokens, float64 [C]."""
        if self.between_sum is None:
            raise ValueError("the statistic 'moments' was not gathered")
        return ((self.norm.square() - self.between_sum) / self.tokens).clamp_min(0)


def _add(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)
