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
    if not linears:
        return []
    figures, samples = [], []
    sampled = []
    for linear, before in zip(linears, dense, strict=True):
        rows, columns = before.shape
        sampled.append(sampled_positions(rows, columns, index, linear.name))
    places = torch.cat(sampled).to(dense[0].device).split([len(x) for x in sampled])
    for linear, before, result, positions in zip(linears, dense, results, places, strict=True):
        samples.append(pack_bits(result.mask.flatten()[positions]))
        figures.append(_nonzero(result.mask).double())
        for found in (seen.get(id(linear.module)), aside.get(id(linear.module))):
            if found is not None:
                figures.append(found.relative_error(before, linear.weight))
    numbers = iter(torch.stack(figures).tolist())
    kept = torch.cat(samples).cpu().split([len(x) for x in samples])
    reports = []
    for linear, before, result, sample in zip(linears, dense, results, kept, strict=True):
        rows, columns = before.shape
        entry = LinearReport(index, linear.name, rows, columns, int(next(numbers)), result.notes)
        if id(linear.module) in seen:
            entry.error = _ratio(next(numbers))
        if id(linear.module) in aside:
            entry.heldout_error = _ratio(next(numbers))
        entry.mask_sample = sample.numpy().tobytes()
        reports.append(entry)
    return reports


def _ratio(value: float) -> float:
    """An error; 0 where the outputs are 0 whatever the weights."""
    return value if math.isfinite(value) else 0.0


def zeros(weights: Iterable[Tensor]) -> int:
    """How many of the weights are zero."""
    weights = list(weights)
    if not weights:
        return 0
    nonzero = torch.stack([_nonzero(w) for w in weights])
    return sum(w.numel() for w in weights) - int(nonzero.sum())


def _nonzero(x: Tensor) -> Tensor:
    """How many numbers are not zero; without the 64-bit copy of all that a GPU would make."""
    if not x.is_cuda:
        return x.count_nonzero()
    if x.dtype == torch.bool:
        return x.sum(-1, dtype=torch.int32).sum()
    each = torch.linalg.vector_norm(x, 0, dim=-1, dtype=torch.float32)  # exact below 2^24 a row
    return each.sum(dtype=torch.float64)
