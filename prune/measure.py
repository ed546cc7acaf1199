"""What became of the linears of a block, told in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from prune.model.blocks import Linear
from prune.pruner import Pruned
from prune.report import LinearReport
from prune.sample import sampled_positions
from prune.stream import Seen


def linear_reports(
    index: int,
    block: nn.Module,
    linears: Sequence[Linear],
    dense: Sequence[Tensor],
    results: Sequence[Pruned],
    seen: Mapping[int, Seen],
    aside: Mapping[int, Seen],
) -> tuple[list[LinearReport], int]:
    """What became of the linears of a block, and its zeros; the device is waited for once."""
    weights = list(block.parameters())
    figures = [_nonzero(w) for w in weights]
    for linear, before, result in zip(linears, dense, results, strict=True):
        figures.append(_nonzero(result.mask))
        for found in (seen.get(id(linear.module)), aside.get(id(linear.module))):
            if found is not None:
                figures.append(found.relative_error(before, linear.weight))
    samples = _samples(index, linears, results)
    bits = torch.cat([torch.stack(figures).double().view(torch.uint8), *samples]).cpu()
    told, *samples = bits.split([8 * len(figures), *map(len, samples)])
    numbers = iter(told.view(torch.float64).tolist())
    zero = sum(w.numel() - int(next(numbers)) for w in weights)
    reports = []
    for linear, before, result, sample in zip(linears, dense, results, samples, strict=True):
        rows, columns = before.shape
        entry = LinearReport(index, linear.name, rows, columns, int(next(numbers)), result.notes)
        if id(linear.module) in seen:
            entry.error = _ratio(next(numbers))
        if id(linear.module) in aside:
            entry.heldout_error = _ratio(next(numbers))
        entry.mask_sample = np.packbits(sample.numpy(), bitorder="little").tobytes()
        reports.append(entry)
    return reports, zero


def _samples(index: int, linears: Sequence[Linear], results: Sequence[Pruned]) -> list[Tensor]:
    """Every mask at its sampled positions, uint8; a GPU is not waited for."""
    if not linears:
        return []
    places = []
    for linear, result in zip(linears, results, strict=True):
        rows, columns = result.mask.shape
        places.append(sampled_positions(rows, columns, index, linear.name))
    together, device = torch.cat(places), results[0].mask.device
    if device.type == "cuda":
        together = together.pin_memory()
    there = together.to(device, non_blocking=True).split([len(x) for x in places])
    return [
        result.mask.flatten()[place].view(torch.uint8)
        for result, place in zip(results, there, strict=True)
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
        if x.numel() % 1024:
            return x.count_nonzero()
        eight = x.flatten().view(torch.int64).view(-1, 128).sum(1)  # a byte each, none beyond 128
        return eight.view(torch.uint8).sum()
    each = torch.linalg.vector_norm(x, 0, dim=-1, dtype=torch.float32)  # exact below 2^24 a row
    return each.sum(dtype=torch.float64)
