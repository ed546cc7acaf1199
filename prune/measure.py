"""What became of the linears of a block, told in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from prune.model.blocks import Linear
from prune.pruner import Pruned
from prune.report import LinearReport
from prune.sample import pack_bits, sampled_positions
from prune.stream import Seen


def linear_reports(
    index: int,
    linears: Sequence[Linear],
    dense: Sequence[Tensor],
    results: Sequence[Pruned],
    seen: Mapping[int, Seen],
    aside: Mapping[int, Seen],
) -> list[LinearReport]:
    """What became of the linears of a block; the device is waited for once."""
    figures, samples = [], []
    for linear, before, result in zip(linears, dense, results, strict=True):
        rows, columns = before.shape
        positions = sampled_positions(rows, columns, index, linear.name).to(before.device)
        samples.append(pack_bits(result.mask.flatten()[positions]))
        figures.append(result.mask.count_nonzero().double())
        for found in (seen.get(id(linear.module)), aside.get(id(linear.module))):
            if found is not None:
                figures.append(found.relative_error(before, linear.weight))
    numbers = iter(torch.stack(figures).tolist())
    reports = []
    for linear, before, result, sample in zip(linears, dense, results, samples, strict=True):
        rows, columns = before.shape
        entry = LinearReport(index, linear.name, rows, columns, int(next(numbers)), result.notes)
        if id(linear.module) in seen:
            entry.error = _ratio(next(numbers))
        if id(linear.module) in aside:
            entry.heldout_error = _ratio(next(numbers))
        entry.mask_sample = sample.cpu().numpy().tobytes()
        reports.append(entry)
    return reports


def _ratio(value: float) -> float:
    """An error; 0 where the outputs are 0 whatever the weights."""
    return value if math.isfinite(value) else 0.0


def zeros(weights: Iterable[Tensor]) -> int:
    """How many of the weights are zero."""
    counts = [w.numel() - w.count_nonzero() for w in weights]
    return int(torch.stack(counts).sum()) if counts else 0
