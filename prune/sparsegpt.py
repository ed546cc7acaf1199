from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from prune.fused import fused
from prune.pattern import Target, lowest_unchecked
from prune.pruner import Pruned, Pruner

if TYPE_CHECKING:
    from torch import Tensor

    from prune.statistics import InputStatistics

MOST_DAMPING = 1.0
"""Where the ladder of dampings ends: the Hessian plus its own mean diagonal."""

LEAST_HALVED = 384
"""Rows of a triangular matrix that is inverted at once."""

WIDEST_FUSED = 256
"""Columns of a block that the fused kernel holds in registers."""


@dataclass(frozen=True)
class SparseGPT(Pruner):
    """Column by column pruning with error compensation (Frantar & Alistarh 2023, arXiv 2301.00774).

    Algorithm 1 with H = 2/N X X^T, N = windows. The columns are taken in blocks of `block_size`.
    Unstructured, a block's mask is fixed when the block is reached: over all of its rows, the
    lowest w^2 / d^2, where d is the diagonal of the upper Cholesky factor of H^-1; the comparison
    group is the column block. N:M, each M consecutive inputs are decided when they are reached,
    after all updates so far. Sparser than the pattern, the block decides at its start how many
    weights each row loses in each M, and which ones is decided when they are reached.

    An input that never fires (H_jj = 0) gets H_jj = 1 and counts as weight 0, so that its weights
    go first. Those that survive keep their value, where the released code sets all of them to zero,
    asked for or not.

    The released code cuts with `<=` at the first value that should stay, so it loses one weight
    more per block, and all that tie with it; here the count is exact, and ties go to the lowest
    index, row by row. It works in float32; this works in float64 throughout.

    Attributes:
        dampening: what is added to the diagonal of H, as a fraction of its mean. Where H is still
            not positive definite, ten times as much is tried, up to `MOST_DAMPING`, and noted.
        block_size: columns of a block.
    """

    statistics: ClassVar[frozenset[str]] = frozenset({"gram"})
    updates_weights: ClassVar[bool] = True

    dampening: float = 0.01
    block_size: int = 128

    def __post_init__(self) -> None:
        if not (self.dampening >= 0 and math.isfinite(self.dampening)):
            raise ValueError(f"dampening must be 0 or more, not {self.dampening:g}")
        if self.block_size < 1:
            raise ValueError(f"block_size must be 1 or more, not {self.block_size}")

    def check(self, target: Target) -> None:
        """See `Pruner.check`: M must divide the block size."""
        if target.pattern.m and self.block_size % target.pattern.m:
            raise ValueError(
                f"sparsegpt decides pattern {target.pattern} within blocks of {self.block_size} "
                f"columns, which {target.pattern.m} does not divide; set block_size to a multiple "
                f"of {target.pattern.m}"
            )

    def prune(self, weight: Tensor, inputs: InputStatistics, target: Target) -> Pruned:
        """See `Pruner.prune`."""
        import torch

        self.check(target)
        factor, dead, dampening = inverse_factor(inputs, self.dampening)
        W = weight.to(factor.dtype).masked_fill(dead, 0)
        mask = torch.zeros_like(W, dtype=torch.bool)
        columns = W.shape[1]
        for start in range(0, columns, self.block_size):
            stop = min(start + self.block_size, columns)
            errors = _prune_block(
                W[:, start:stop], mask[:, start:stop], factor[start:stop, start:stop], target
            )
            W[:, stop:].addmm_(errors, factor[start:stop, stop:], alpha=-1)
        if not bool(W.isfinite().all()):
            raise ValueError("updated weights are NaN or infinite; were there such before?")
        notes: dict[str, object] = {}
        if bool(dead.any()):
            notes["dead_inputs"] = int(dead.sum())
        if dampening != self.dampening:
            notes["dampening"] = dampening
        updated = torch.where(dead & ~mask, weight, W.to(weight.dtype))
        return Pruned(mask, updated, notes)


class InverseFactor(NamedTuple):
    """What SparseGPT needs of the inputs.

    Attributes:
        factor: R, upper triangular with R^T R = H^-1, [C, C].
        dead: inputs that never fire, bool [C].
        dampening: the fraction of the mean diagonal that was added to H in the end.
    """

    factor: Tensor
    dead: Tensor
    dampening: float


def saliency(weight: Tensor, inverse: InverseFactor) -> Tensor:
    """w^2 / d^2 before any update, [rows, C]; 0 for inputs that never fire."""
    W = weight.to(inverse.factor.dtype).masked_fill(inverse.dead, 0)
    return (W / inverse.factor.diagonal()).square()


def inverse_factor(inputs: InputStatistics, dampening: float) -> InverseFactor:
    """The upper Cholesky factor of the inverse of H = 2/N X X^T, damped.

    The scale of H cancels everywhere but in the mean diagonal that damping refers to, where inputs
    that never fire count as 1. It is computed in float64, handed out in the precision of the
    inputs, and once for all linears that share them.

    Raises:
        ValueError: the statistics hold NaN or infinite values, or H is not positive definite
            even with the most damping.
    """
    key = f"inverse factor {dampening}"
    if key not in inputs.derived:
        inputs.derived[key] = _inverse_factor(inputs, dampening)
    found: InverseFactor = inputs.derived[key]
    return found


def _inverse_factor(inputs: InputStatistics, dampening: float) -> InverseFactor:
    import torch

    gram = inputs.gram
    scale = 2 / inputs.sequences
    diagonal = gram.diagonal().double() * scale
    if not bool(diagonal.isfinite().all()):  # first of all: no damping helps against these
        raise ValueError("the inputs hold NaN or infinite values")
    dead = diagonal == 0
    diagonal[dead] = 1
    for used in _dampings(dampening):
        # H = U U^T with U upper, from the Cholesky factor of H read backwards; then
        # H^-1 = (U^-1)^T U^-1, and H is never inverted as a whole
        backwards = gram.flip(0, 1).double().mul_(scale)
        backwards.diagonal().copy_((diagonal + used * diagonal.mean()).flip(0))
        lower, failed = torch.linalg.cholesky_ex(backwards)
        del backwards
        if not failed:
            invert_lower(lower)
            # LAPACK's columns become rows in memory
            return InverseFactor(lower.to(inputs.dtype).flip(0, 1).contiguous(), dead, used)
    raise ValueError(
        f"the Hessian of the inputs is not positive definite, even with {used:g} of its mean "
        "diagonal added to it; calibrate on more or longer windows, or set a larger dampening"
    )


def invert_lower(matrix: Tensor) -> None:
    """Invert a lower triangular matrix in place, by halves: nearly all of it is products."""
    import torch

    size = len(matrix)
    if size <= LEAST_HALVED:
        one = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        matrix.copy_(torch.linalg.solve_triangular(matrix, one, upper=False))
        return
    half = size // 2
    first, corner, last = matrix[:half, :half], matrix[half:, :half], matrix[half:, half:]
    invert_lower(first)
    invert_lower(last)
    corner.copy_(last @ (corner @ first)).neg_()


def _dampings(first: float) -> Iterator[float]:
    """`first`, then ten times as much each, up to `MOST_DAMPING`; 0 is followed by 0.001."""
    yield first
    # counted in powers, so that 0.01 leads to 0.1 and not to 0.09999999999999999
    start, power = (first, 1) if first else (0.001, 0)
    while start * 10**power <= MOST_DAMPING:
        yield start * 10**power
        power += 1


def _prune_block(W: Tensor, mask: Tensor, factor: Tensor, target: Target) -> Tensor:
    """Prune one block of columns.

    Args:
        W: weights with all updates so far, [rows, B]; changed in place.
        mask: filled in place, bool [rows, B].
        factor: the block's part of the factor of H^-1, [B, B].
        target: what every comparison group loses.

    Returns:
        w / d of the pruned weights and 0 elsewhere, [rows, B]: what later columns compensate.
    """
    import torch

    diagonal, m = factor.diagonal(), target.pattern.m
    counts: Tensor | None = None
    if m and W.shape[1] % m == 0 and target.sparsity == target.pattern.least_sparsity:
        shape = len(W), W.shape[1] // m
        counts = torch.full(shape, m - target.pattern.n, dtype=torch.int32, device=W.device)
    else:
        mask.copy_(lowest_unchecked((W / diagonal).square(), target, group="matrix"))
        if m:
            counts = mask.reshape(len(W), -1, m).sum(2, dtype=torch.int32)
    if fused(W) and W.shape[1] <= WIDEST_FUSED:
        from prune.kernels.solving import solve

        return solve(W, mask, factor, counts, m)
    errors = torch.zeros_like(W)
    for j in range(W.shape[1]):
        if counts is not None and j % m == 0:
            reached = slice(j, j + m)
            scores = (W[:, reached] / diagonal[reached]).square()
            mask[:, reached] = _lowest_in_row(scores, counts[:, j // m])
        errors[:, j] = W[:, j].masked_fill(~mask[:, j], 0) / diagonal[j]
        W[:, j + 1 :] -= errors[:, j : j + 1] * factor[j, j + 1 :]
    W.masked_fill_(mask, 0)
    return errors


def _lowest_in_row(scores: Tensor, counts: Tensor) -> Tensor:
    """Mark the `counts[i]` lowest of row i, lowest index on ties; bool, the shape of `scores`."""
    import torch

    order = scores.sort(dim=1, stable=True).indices
    taken = torch.arange(scores.shape[1], device=scores.device) < counts.unsqueeze(1)
    return torch.zeros_like(taken).scatter_(1, order, taken)
