"""A few bits of every mask, so that masks of many cells can be compared in a database."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

SAMPLED_WEIGHTS = 4096
"""Positions of a linear that are kept, at most."""


def sampled_positions(rows: int, columns: int, block: int, linear: str) -> Tensor:
    """Positions in a mask, row by row, int64, rising: one in each of equally many equal parts.

    They depend on the linear's shape, block and name alone, so that any two cells of a model can
    be compared. A linear that is small enough is taken whole.
    """
    size = rows * columns
    starts, lengths = _parts(size)
    digest = hashlib.sha256(f"{rows}x{columns}\0{block}\0{linear}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    within = torch.rand(len(starts), generator=generator, dtype=torch.float64)
    return starts + (within * lengths).long()


@lru_cache(maxsize=64)
def _parts(size: int) -> tuple[Tensor, Tensor]:
    """Where equal parts of so many weights start, and how long they are."""
    count = min(size, SAMPLED_WEIGHTS)
    bounds = torch.arange(count + 1) * size // count
    return bounds[:-1], bounds[1:] - bounds[:-1]


def pack_bits(mask: Tensor) -> Tensor:
    """A bool mask as uint8, eight weights a byte, the first in the lowest bit."""
    flat = torch.nn.functional.pad(mask.flatten(), (0, -mask.numel() % 8))
    powers = 2 ** torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (flat.view(-1, 8).to(torch.uint8) * powers).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: torch.Size) -> Tensor:
    """What `pack_bits` packed."""
    bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    return bits.flatten()[: shape.numel()].bool().view(shape)
