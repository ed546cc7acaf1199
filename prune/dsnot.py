from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from prune.magnitude import Magnitude
from prune.pattern import Target, lowest
from prune.pruner import Pruned, Pruner
from prune.sparsegpt import SparseGPT, inverse_factor
from prune.sparsegpt import saliency as sparsegpt_saliency
from prune.wanda import Wanda
from prune.wanda import saliency as wanda_saliency

if TYPE_CHECKING:
    from torch import Tensor

    from prune.statistics import InputStatistics

STARTS: dict[str, Pruner] = {
    "wanda": Wanda(),
    "magnitude": Magnitude(),
    "sparsegpt": SparseGPT(),
}


@dataclass(frozen=True)
class DSnoT(Pruner):
    """Dynamic sparse no training: swaps on top of a mask (Zhang et al. 2024, arXiv 2310.08915).

    Starting from the mask of another method over the dense weights, each row swaps a pruned weight
    for a kept one as long as its expected error, e = sum over pruned w E[x], exceeds `threshold`:

    * revived is the pruned weight with the largest sign(e) w E[x] / Var[x]^p, of those that
      lessen the error;
    * pruned is the kept weight of lowest |w| ||X||_2, of those with sign(e) w E[x] < 0.

    Weights are never updated. A swap stays within its row and, for N:M, within its group of M
    (also where the target is sparser than the pattern), so that both keep their counts. A group
    with nothing to prune revives nothing, and a row without a swap left stops.

    `variant: paper` takes E[x] and Var[x] over all tokens, and starts from the masks of this
    package's pruners with their own comparison groups.

    `variant: released` follows the authors' code:

    * E[x] is the sum over a window's tokens, averaged over windows, so that `threshold` means
      something else at every window length;
    * Var[x] is the average of the variances within each window; what lies between windows is
      left out;
    * a weight that was swapped once is never swapped back;
    * N:M, the weight pruned is the one of lowest starting saliency in the group, whatever its
      sign, and a row stops before the swap that turns the sign its error started with;
    * every start ranks its saliency within rows; `sparsegpt` is w^2 / d^2 of the dense weights,
      without any update. (The code as first released never fills the Hessian of this start, so
      that its mask is the first columns; the fork behind the published study sums its windows with
      weight 1/k. Neither is followed.)

    Not covered, being decisions on module names: on LLaMA that code leaves the projections of the
    MLP at the starting mask, as `max_cycles: 0` does. Nor is what it does once a row, or a group
    of M (soon so where N < M - N), has nothing left to swap: it then loses count.

    Attributes:
        initial: whose mask to start from.
        max_cycles: swaps per row at most.
        threshold: a row whose |e| is not above it stops.
        variance_power: p.
        variant: see above.
    """

    statistics: ClassVar[frozenset[str]] = frozenset({"moments"})

    initial: Literal["wanda", "magnitude", "sparsegpt"] = "wanda"
    max_cycles: int = 50
    threshold: float = 0.1
    variance_power: float = 1.0
    variant: Literal["paper", "released"] = "paper"

    def __post_init__(self) -> None:
        if self.max_cycles < 0:
            raise ValueError(f"max_cycles must be 0 or more, not {self.max_cycles}")
        for name in ("threshold", "variance_power"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be 0 or more, not {value:g}")

    @property
    def needs(self) -> frozenset[str]:
        """Its own statistics and those of the start."""
        return self.statistics | STARTS[self.initial].needs

    def check(self, target: Target) -> None:
        """See `Pruner.check`: what the start refuses is refused."""
        if self.variant == "paper":
            STARTS[self.initial].check(target)

    def prune(self, weight: Tensor, inputs: InputStatistics, target: Target) -> Pruned:
        """See `Pruner.prune`."""
        scores = wanda_saliency(weight, inputs)
        if self.variant == "paper":
            mask = STARTS[self.initial].prune(weight, inputs, target).mask
            expected, variance = inputs.mean, inputs.variance
        else:
            start = self._released_saliency(weight, inputs)
            mask = lowest(start, target, group="row")
            expected, variance = inputs.window_sum, inputs.within_variance
            if target.pattern.m:
                scores = start
        contribution = weight.to(inputs.dtype) * expected
        gain = contribution / variance**self.variance_power  # 0 / 0 is NaN, which is never chosen
        strict = self.variant == "released" and bool(target.pattern.m)
        swaps = _Swaps(contribution, gain, scores, target.pattern.m or weight.shape[1], strict)
        back = self.variant == "paper"
        mask = swaps.run(mask, self.max_cycles, self.threshold, swap_back=back)
        return Pruned(mask)

    def _released_saliency(self, weight: Tensor, inputs: InputStatistics) -> Tensor:
        """What the released code ranks for its starting mask, [rows, columns]."""
        if self.initial == "wanda":
            return wanda_saliency(weight, inputs)
        if self.initial == "magnitude":
            return weight.abs().to(inputs.dtype)
        return sparsegpt_saliency(weight, inverse_factor(inputs, SparseGPT().dampening))


@dataclass(frozen=True)
class _Swaps:
    """What swaps are chosen by.

    Attributes:
        contribution: w E[x], what a weight adds to its row's error when pruned; [rows, columns].
        gain: w E[x] / Var[x]^p, [rows, columns].
        scores: the lowest goes, [rows, columns].
        group: swaps stay within this many consecutive columns.
        strict: the rules of the released code for N:M, which stops a row before its error changes
            sign, but prunes also what makes the error larger.
    """

    contribution: Tensor
    gain: Tensor
    scores: Tensor
    group: int
    strict: bool

    def run(self, mask: Tensor, cycles: int, threshold: float, swap_back: bool) -> Tensor:
        """Swap in all rows at once, one swap a row and cycle.

        Args:
            mask: where to start, True = pruned; [rows, columns].
            cycles: swaps per row at most.
            threshold: a row whose error is not above it stops.
            swap_back: a weight may be swapped more than once.

        Returns:
            The new mask.
        """
        import torch

        error = self.contribution.masked_fill(~mask, 0).sum(1, keepdim=True)
        first_sign = error.sign()
        active = torch.ones_like(error, dtype=torch.bool)
        revivable, prunable = mask, ~mask
        for _ in range(cycles):
            lessens = error.sign() * self.contribution < 0
            candidates = prunable if self.strict else prunable & lessens
            found, revive, prune = self._choose(error.sign(), revivable, candidates)
            after = error + self.contribution.gather(1, prune)
            after -= self.contribution.gather(1, revive)
            active = active & found & (error.abs() > threshold)
            if self.strict:
                active = active & (after.sign() == first_sign)
            if not bool(active.any()):
                break
            error = torch.where(active, after, error)
            mask = mask.scatter(1, revive, mask.gather(1, revive) & ~active)
            mask = mask.scatter(1, prune, mask.gather(1, prune) | active)
            revivable = mask if swap_back else revivable & mask
            prunable = ~mask if swap_back else prunable & ~mask
        return mask

    def _choose(
        self, sign: Tensor, revivable: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next swap of each row: is there one, which column to revive, which to prune."""
        import torch

        rows, columns = candidates.shape
        something = candidates.reshape(rows, -1, self.group).any(2)
        gain = sign * self.gain
        useful = revivable & (gain > 0) & something.repeat_interleave(self.group, 1)
        revive = gain.masked_fill(~useful, float("-inf")).argmax(1, keepdim=True)
        column = torch.arange(columns, device=candidates.device)
        near = candidates & (column // self.group == revive // self.group)
        prune = self.scores.masked_fill(~near, float("inf")).argmin(1, keepdim=True)
        return useful.any(1, keepdim=True), revive, prune
