"""How far a pruned linear is from the dense one, from the Gram matrix of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor

PANELS = 8
"""Parts in which the Gram matrix is computed: it is symmetric, so little over half is enough."""

LEAST_PANEL = 256
"""Columns of a part at least; narrower products are slow."""


class InputGram:
    """The sum of x x^T over the inputs of a linear, in float32: precise enough for a report.

    It turns the error over all tokens into two small products per linear, so that neither the
    inputs nor a further pass over the calibration set are needed. Memory: one matrix [C, C] per
    distinct input of one block.
    """

    def __init__(self) -> None:
        self.upper: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """Add a batch of inputs, [..., C]."""
        x = x.detach().reshape(-1, x.shape[-1])
        product = _wide_product if _needs_wide(x) else _product
        columns = x.shape[1]
        if self.upper is None:
            self.upper = x.new_zeros(columns, columns, dtype=torch.float32)
        width = max(LEAST_PANEL, -(-columns // PANELS))
        for start in range(0, columns, width):
            stop = min(start + width, columns)
            self.upper[start:stop, start:] += product(x[:, start:stop].T, x[:, start:])

    def full(self) -> Tensor:
        """The whole matrix, float32 [C, C]."""
        if self.upper is None:
            raise ValueError("no inputs were seen")
        upper = self.upper.triu()
        return upper + upper.triu(1).T


def _needs_wide(x: Tensor) -> bool:
    """Would the product lose too much in its inputs' own dtype?

    Float16 overflows. Bfloat16 rounds each sum over a batch to 8 bits, which does not show in the
    error over all batches; on a CPU the float32 product costs far more than that is worth.
    """
    return x.dtype == torch.float16 or (x.dtype == torch.bfloat16 and x.is_cuda)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The product in the inputs' own precision."""
    return left @ right


def _wide_product(left: Tensor, right: Tensor) -> Tensor:
    """The product of half-precision matrices, its sums kept and returned in float32."""
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def relative_error(dense: Tensor, pruned: Tensor, gram: Tensor) -> float:
    """||(W - W') X||^2 / ||W X||^2 over the tokens of `gram`; 0 where W X is 0.

    Args:
        dense: W, [rows, C].
        pruned: W', same shape.
        gram: X X^T, float32 or float64 [C, C].
    """
    right = _energy(dense.to(gram.dtype), gram)
    return _energy(dense.to(gram.dtype) - pruned.to(gram.dtype), gram) / right if right else 0.0


def _energy(weight: Tensor, gram: Tensor) -> float:
    """||W X||^2 = sum of (W G) * W; never below zero, whatever is rounded."""
    return max(0.0, float(torch.linalg.vecdot(weight @ gram, weight).sum(dtype=torch.float64)))
