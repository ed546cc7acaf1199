"""How far a pruned linear is from the dense one, on the inputs that calibration gives it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from prune.fused import fused

PANELS = 8
"""Parts in which the Gram matrix is computed: it is symmetric, so little over half is enough."""

LEAST_PANEL = 256
"""Columns of a part at least; narrower products are slow."""

WIDE_TOKENS = 128
"""Tokens that a GPU sums at once in products of half-precision matrices. It cuts off what does not
fit where float32 rounds, always in one direction: sums over fewer tokens lose less, but have to be
added up, one after the other."""

WIDE_BYTES = 2**28
"""Memory for products that wait to be added up."""

SAMPLED_TOKENS = 2048
"""Tokens that `InputSample` keeps of a pass, more or less."""


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
        columns = x.shape[1]
        if self.upper is None:
            self.upper = x.new_zeros(columns, columns, dtype=torch.float32)
        wide = _needs_wide(x)
        if wide and fused(x):
            from prune.kernels.gram import add_products

            add_products(x.contiguous(), self.upper, WIDE_TOKENS)
            return
        width = max(LEAST_PANEL, -(-columns // PANELS))
        for start in range(0, columns, width):
            stop = min(start + width, columns)
            left, right = x[:, start:stop], x[:, start:]
            total = self.upper[start:stop, start:]
            if wide:
                for product in _wide_sums(left, right):
                    total += product
            else:
                total += left.T @ right

    def diagonal(self) -> Tensor | None:
        """The sum of squares of each input, float32 [C]; None before any was seen."""
        return None if self.upper is None else self.upper.diagonal()

    def full(self) -> Tensor:
        """The whole matrix, float32 [C, C]."""
        if self.upper is None:
            raise ValueError("no inputs were seen")
        upper = self.upper.triu()
        return upper + upper.triu(1).T


class InputSample:
    """Evenly spaced tokens among the inputs of a linear: enough for a report on a large model.

    The products of errors over all tokens would take longer than pruning does. Memory: about
    `SAMPLED_TOKENS` inputs.
    """

    def __init__(self, tokens: int) -> None:
        self.spacing = max(1, tokens // SAMPLED_TOKENS)
        self.kept: list[Tensor] = []
        self._seen = 0

    def update(self, x: Tensor) -> None:
        """Add a batch of inputs, [..., C]."""
        x = x.detach().reshape(-1, x.shape[-1])
        self.kept.append(x[-self._seen % self.spacing :: self.spacing].clone())
        self._seen += len(x)

    def energy(self, weight: Tensor, other: Tensor | None = None) -> Tensor:
        """||W X||^2 with W [rows, C], or ||(W - V) X||^2, W - V in their own dtype; float64."""
        weight = weight if other is None else weight - other
        return _sum_of_squares(_wide_product(torch.cat(self.kept), weight.T))


def gram_energy(gram: Tensor, weight: Tensor, other: Tensor | None = None) -> Tensor:
    """||W X||^2 with W [rows, C], or ||(W - V) X||^2, from X X^T [C, C]; float64, 0 or more."""
    weight = weight.to(gram.dtype)
    if other is not None:
        weight = weight - other.to(gram.dtype)
    energy = torch.linalg.vecdot(weight @ gram, weight).sum(dtype=torch.float64)
    return energy.clamp_min(0)


def _sum_of_squares(x: Tensor) -> Tensor:
    """Summed per row in x's own precision, over rows in float64."""
    return torch.linalg.vecdot(x, x).sum(dtype=torch.float64)


def _needs_wide(x: Tensor) -> bool:
    """Would the product lose too much in its inputs' own dtype?

    Float16 overflows. Bfloat16 rounds each sum over a batch to 8 bits, which does not show in the
    error over all batches; on a CPU the float32 product costs far more than that is worth.
    """
    return x.dtype == torch.float16 or (x.dtype == torch.bfloat16 and x.is_cuda)


def _wide_sums(left: Tensor, right: Tensor) -> Iterator[Tensor]:
    """Float32 products of half-precision [any, ...] that add up to left^T right.

    Each is the sum of products over `WIDE_TOKENS` rows.
    """
    size = 4 * left.shape[1] * right.shape[1]
    several = max(1, WIDE_BYTES // size) * WIDE_TOKENS
    whole = len(left) // WIDE_TOKENS * WIDE_TOKENS
    for start in range(0, whole, several):
        part = slice(start, min(start + several, whole))
        first, second = (x[part].unflatten(0, (-1, WIDE_TOKENS)) for x in (left, right))
        yield from _wide_batch(first.transpose(1, 2), second)
    if whole < len(left):
        missing = WIDE_TOKENS - len(left) + whole
        rest = (torch.nn.functional.pad(x[whole:], (0, 0, 0, missing)) for x in (left, right))
        first, second = (x.unsqueeze(0) for x in rest)
        yield from _wide_batch(first.transpose(1, 2), second)


def _wide_batch(left: Tensor, right: Tensor) -> Tensor:
    """Products of batches of half-precision matrices, kept and returned in float32."""
    if left.is_cuda:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _wide_product(left: Tensor, right: Tensor) -> Tensor:
    """The product of half-precision matrices, its sums kept and returned in float32."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()
