"""What calibration tells about the inputs of a linear, gathered once per distinct input."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from prune.errors import InputGram

STATISTICS = ("norm", "moments", "gram")


@dataclass
class InputStatistics:
    """Running sums over the calibration tokens that reach a linear with C inputs.

    Exact, products and sums are float64, so that neither the batch size nor the order of batches
    shows in a mask. Otherwise (half-precision inputs on a GPU, which are rounded to far less
    before they get here) products are exact, sums within a batch float32, sums over batches
    float64, and what pruners read is float32.

    Attributes:
        wanted: which of `STATISTICS` to keep; "norm" is the diagonal of "gram".
        exact: see above.
        tokens: tokens seen. sequences: windows seen.
        square_sum: sum of x_j^2, [C]. value_sum: sum of x_j, [C]. gram_sum: sum of x x^T, [C, C].
        between_sum: sum over windows of (sum of x_j over the window)^2 / tokens of the window, [C].
        gradient: root of the summed squared gradients of the weight, [rows, C], where a pruner
            asked for "gradient".
        generator: the linear's own source of random numbers, on the CPU.
        derived: what a pruner computed from these and wants to find again for the next linear
            that reads the same input.
    """

    wanted: frozenset[str] = frozenset()
    exact: bool = True
    tokens: int = 0
    sequences: int = 0
    square_sum: Tensor | None = None
    value_sum: Tensor | None = None
    gram_sum: Tensor | None = None
    between_sum: Tensor | None = None
    gradient: Tensor | None = None
    generator: torch.Generator = field(default_factory=torch.Generator)
    derived: dict[str, Any] = field(default_factory=dict)
    _upper: InputGram = field(default_factory=InputGram)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that pruners compute in."""
        return torch.float64 if self.exact else torch.float32

    def update(self, x: Tensor) -> None:
        """Add a batch of inputs, [..., C] (all but the last dimension are tokens)."""
        windows = x.shape[0] if x.dim() > 2 else 1
        self.sequences += windows
        x = x.detach().reshape(-1, x.shape[-1])
        self.tokens += x.shape[0]
        if {"norm", "moments"} & self.wanted:
            self.square_sum = _add(self.square_sum, self._square_sums(x))
        if "moments" in self.wanted:
            by_window = x.reshape(windows, -1, x.shape[-1])
            if self.exact:
                by_window = by_window.float()
            sums = by_window.sum(1, dtype=torch.float64 if self.exact else torch.float32).double()
            self.value_sum = _add(self.value_sum, sums.sum(0))
            between = sums.square().sum(0) * (windows / x.shape[0])
            self.between_sum = _add(self.between_sum, between)
        if "gram" in self.wanted:
            if self.exact:
                x = x.float().double()
                self.gram_sum = _add(self.gram_sum, x.T @ x)
            else:
                self._upper.update(x)

    def _square_sums(self, x: Tensor) -> Tensor:
        """Sum of the squares of each column, float64 [C]."""
        if self.exact:
            return x.float().square().sum(0, dtype=torch.float64)
        # one reading of x, where squares would be written and read again
        return torch.linalg.vector_norm(x, dim=0, dtype=torch.float32).double().square()

    def check(self) -> None:
        """Look at the sums, once all inputs were seen.

        Raises:
            ValueError: the inputs hold NaN or infinite values.
        """
        squares = self.square_sum if self.square_sum is not None else self._gram_diagonal
        if squares is not None and not bool(squares.isfinite().all()):
            raise ValueError("the inputs hold NaN or infinite values")

    @property
    def gram(self) -> Tensor:
        """X X^T over all tokens, [C, C]."""
        if self.gram_sum is not None:
            return self.gram_sum
        if self._upper.upper is None:
            raise ValueError("the statistic 'gram' was not gathered")
        return self._upper.full()

    @cached_property
    def norm(self) -> Tensor:
        """||X_j||_2 over all tokens, [C]."""
        return self._square_total.sqrt().to(self.dtype)

    @property
    def _square_total(self) -> Tensor:
        """Sum of x_j^2 over all tokens, float64 [C]."""
        if self.square_sum is not None:
            return self.square_sum
        if self._gram_diagonal is None:
            raise ValueError("no statistics were gathered")
        return self._gram_diagonal.double()

    @property
    def _gram_diagonal(self) -> Tensor | None:
        return self._upper.diagonal() if self.gram_sum is None else self.gram_sum.diagonal()

    @cached_property
    def mean(self) -> Tensor:
        """E[x_j] over all tokens, [C]."""
        return (self._value_total / self.tokens).to(self.dtype)

    @cached_property
    def variance(self) -> Tensor:
        """Var[x_j] over all tokens (population), [C]."""
        mean = self._value_total / self.tokens
        squares = self._square_total.sqrt().square()
        return (squares / self.tokens - mean.square()).clamp_min(0).to(self.dtype)

    @cached_property
    def window_sum(self) -> Tensor:
        """Sum of x_j over a window, averaged over windows, [C]."""
        return (self._value_total / self.sequences).to(self.dtype)

    @property
    def _value_total(self) -> Tensor:
        if self.value_sum is None:
            raise ValueError("the statistic 'moments' was not gathered")
        return self.value_sum

    @cached_property
    def within_variance(self) -> Tensor:
        """Var[x_j] within a window, averaged over windows by their tokens, [C]."""
        if self.between_sum is None:
            raise ValueError("the statistic 'moments' was not gathered")
        squares = self._square_total.sqrt().square()
        return ((squares - self.between_sum) / self.tokens).clamp_min(0).to(self.dtype)


def _add(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)
