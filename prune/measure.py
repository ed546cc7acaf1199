"""What became of the linears of a block, told in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from prune.model.blocks import Linear
from prune.pruner import Pruned
from prune.report import LinearReport
from prune.sample import sampled_positions
from prune.stream import Seen


def linear_reports(
    index: int,
    linears: Sequence[Linear],
    dense: Sequence[Tensor],
    results: Sequence[Pruned],
    seen: Mapping[int, Seen],
    aside: Mapping[int, Seen],
) -> list[LinearReport]:
    """What became of the linears of a block; the device is waited for twice."""
    if not linears:
        return []
    figures = []
    for linear, before, result in zip(linears, dense, results, strict=True):
        figures.append(_nonzero(result.mask))
        for found in (seen.get(id(linear.module)), aside.get(id(linear.module))):
            if found is not None:
                figures.append(found.relative_error(before, linear.weight))
    samples = _samples(index, linears, results)
    numbers = iter(torch.stack(figures).tolist())
    reports = []
    for linear, before, result, sample in zip(linears, dense, results, samples, strict=True):
        rows, columns = before.shape
        entry = LinearReport(index, linear.name, rows, columns, int(next(numbers)), result.notes)
        if id(linear.module) in seen:
            entry.error = _ratio(next(numbers))
        if id(linear.module) in aside:
            entry.heldout_error = _ratio(next(numbers))
        entry.mask_sample = sample
        reports.append(entry)
    return reports


def _samples(index: int, linears: Sequence[Linear], results: Sequence[Pruned]) -> list[bytes]:
    """The bits of every mask that are kept, eight a byte, the first in the lowest."""
    places = []
    for linear, result in zip(linears, results, strict=True):
        rows, columns = result.mask.shape
        places.append(sampled_positions(rows, columns, index, linear.name))
    sizes = [len(x) for x in places]
    there = torch.cat(places).to(results[0].mask.device).split(sizes)
    bits = [x.mask.flatten()[place] for x, place in zip(results, there, strict=True)]
    return [
        np.packbits(part.numpy(), bitorder="little").tobytes()
        for part in torch.cat(bits).cpu().split(sizes)
    ]


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
        if x.numel() % 128:
            return x.count_nonzero()
        return x.view(torch.uint8).reshape(-1, 128).sum(1, dtype=torch.uint8).sum()  # 128: it fits
    each = torch.linalg.vector_norm(x, 0, dim=-1, dtype=torch.float32)  # exact below 2^24 a row
    return each.sum(dtype=torch.float64)
