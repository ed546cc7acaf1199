from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from prune.refiner import PrunedBlock, Refiner

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WEIGHT_DECAY = {"br": 0.0, "ebft": 0.1}
BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Reconstruct(Refiner):
    """Tune the survivors of a block to the dense block's outputs, ||dense - pruned||^2 / (N H T).

    Presets: `br`, block-wise reconstruction (Shin et al. 2024, arXiv 2406.15524: Adam without
    weight decay), and `ebft` (Guo et al. 2024, arXiv 2402.12419: AdamW, weight decay 0.1). Both
    use betas 0.9 and 0.95, a learning rate of 2e-4 that falls linearly to zero, batches of 8
    windows and 10 epochs, in float32. Only surviving weights of the pruned linears move: norms,
    biases and linears that were skipped stay (the released codes tune every parameter of the
    block). The block that is kept is the best of all epochs by its loss on the whole calibration
    set in the model's own dtype, or the one before tuning where none is better.

    Sources for defaults: the papers; the released `br` stops after 5 epochs, and the option of
    `ebft`'s released code has a learning rate of 0.01 where its paper and instructions say 2e-4.

    Attributes:
        preset: which of the two.
        epochs: passes over the calibration set.
        lr: the first learning rate.
        batch: windows that go through the block for one step.
    """

    preset: Literal["br", "ebft"] = "br"
    epochs: int = 10
    lr: float = 2e-4
    batch: int = 8

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or not 0 < self.lr < float("inf"):
            raise ValueError(
                "reconstruct: epochs, lr and batch are positive, not "
                f"{self.epochs}, {self.lr} and {self.batch}"
            )

    def batch_lengths(self, size: int) -> set[int]:
        """See `Refiner.batch_lengths`."""
        return {min(self.batch, size), size % self.batch} - {0}

    def refine(self, block: PrunedBlock) -> dict[str, float]:
        """See `Refiner.refine`; returns the loss before and after, and the epoch that was kept."""
        free = _survivors(block)
        before = best = _loss(block)
        kept, chosen = _weights(block.module, free), 0
        for epoch, tuned in enumerate(self._epochs(block, free), 1):
            _put(block.module, tuned)
            loss = _loss(block)
            if loss < best:
                best, kept, chosen = loss, _weights(block.module, free), epoch
        _put(block.module, kept)
        return {"loss_before": before, "loss_after": best, "epoch": float(chosen)}

    def _epochs(self, block: PrunedBlock, free: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Train the `free` weights of a float32 copy; yields its weights after each epoch."""
        import torch

        tuned = copy.deepcopy(block.module).float().requires_grad_(False)
        weights = {name: _weight(tuned, name).requires_grad_(True) for name in free}
        start = {name: weight.detach().clone() for name, weight in weights.items()}
        optimizer = torch.optim.AdamW(
            weights.values(), lr=self.lr, betas=BETAS, weight_decay=WEIGHT_DECAY[self.preset]
        )
        steps = self.epochs * -(-len(block.inputs) // self.batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        for _ in range(self.epochs):
            order = torch.randperm(len(block.inputs), generator=block.generator)
            for rows in order.split(self.batch):
                _step(block, tuned, rows, optimizer)
                schedule.step()
                with torch.no_grad():
                    for name, weight in weights.items():
                        weight.copy_(torch.where(free[name], weight, start[name]))
            yield {name: weight.detach() for name, weight in weights.items()}


def _step(
    block: PrunedBlock, tuned: nn.Module, rows: Tensor, optimizer: torch.optim.Optimizer
) -> None:
    """One step of the optimizer on some windows."""
    import torch

    rows = rows.to(block.inputs.device)
    with torch.enable_grad():
        output = block.calls.call(block.index, tuned, block.inputs[rows], dtype=torch.float32)
        loss = (output - block.outputs[rows].to(output.device).float()).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
    optimizer.step()


def _survivors(block: PrunedBlock) -> dict[str, Tensor]:
    """By module name, which of its weights may move: bool, laid out as the weight is."""
    import torch

    names = {module: name for name, module in block.module.named_modules()}
    free: dict[str, Tensor] = {}
    for linear, mask in zip(block.linears, block.masks, strict=True):
        weight = linear.module.weight
        table = free.setdefault(names[linear.module], torch.zeros_like(weight, dtype=torch.bool))
        linear.part(table).copy_(~mask)
    return free


def _loss(block: PrunedBlock) -> float:
    """||dense - pruned||^2 / (N H T) of the block as it is, over the whole calibration set."""
    import torch

    total = 0.0
    for part, output in block.calls.run(block.index, block.module, block.inputs):
        wrong = output.float() - block.outputs[part].to(output.device).float()
        total += float(torch.linalg.vecdot(wrong, wrong).sum(dtype=torch.float64))
    return total / block.outputs.numel()


def _weight(module: nn.Module, name: str) -> nn.Parameter:
    """The weight of the linear of that name."""
    return module.get_parameter(f"{name}.weight")


def _weights(module: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of the weights of the linears of those names."""
    return {name: _weight(module, name).detach().clone() for name in names}


def _put(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Write `weights` into the linears of those names, rounded to their dtype."""
    for name, weight in weights.items():
        _weight(module, name).data.copy_(weight)
