from __future__ import annotations

import pytest
import torch

from prune.sample import SAMPLED_WEIGHTS, pack_bits, sampled_positions, unpack_bits


@pytest.mark.parametrize("shape", [(3, 5), (64, 64), (65, 64), (300, 1001)])
def test_positions_are_distinct_spread_and_few(shape: tuple[int, int]) -> None:
    size = shape[0] * shape[1]
    positions = sampled_positions(*shape, 3, "mlp.up_proj")
    count = min(size, SAMPLED_WEIGHTS)
    assert len(positions) == len(positions.unique()) == count
    assert torch.equal(positions, positions.sort().values)
    parts = positions.double() * count / size
    assert (parts - torch.arange(count)).abs().max() <= 1 + count / size


def test_positions_depend_on_shape_block_and_name_alone() -> None:
    first = sampled_positions(100, 200, 0, "q_proj")
    torch.manual_seed(5)
    assert torch.equal(first, sampled_positions(100, 200, 0, "q_proj"))
    for other in ((200, 100, 0, "q_proj"), (100, 200, 1, "q_proj"), (100, 200, 0, "k_proj")):
        assert not torch.equal(first, sampled_positions(*other))


def test_golden_positions() -> None:
    """Stored samples can only be compared as long as these stay."""
    assert sampled_positions(2, 3, 0, "a").tolist() == [0, 1, 2, 3, 4, 5]
    found = sampled_positions(4096, 4096, 7, "self_attn.q_proj")
    assert found[:3].tolist() == [2063, 4218, 9369]


def test_bits_are_packed_lowest_first() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    packed = pack_bits(mask)
    assert packed.tolist() == [0b11000101, 0b1]
    assert torch.equal(unpack_bits(packed, mask.shape), mask)
