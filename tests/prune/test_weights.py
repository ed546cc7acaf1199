"""Where a model's blocks are: what is kept of their bookkeeping, on a stand-in for a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prune.model.weights import StreamedWeights


class OnCpu(StreamedWeights):
    """Blocks that leave the CPU for the CPU; what no machine without a GPU has is left out."""

    def _rooms(self, sizes: Sequence[int]) -> list[Tensor]:
        return [torch.empty(size, dtype=torch.uint8) for size in sizes]


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> OnCpu:
    def nothing(*_: Any) -> Any:
        return SimpleNamespace(
            record=nothing, synchronize=nothing, wait_event=nothing, wait_stream=nothing
        )

    for name in ("Stream", "Event", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(Tensor, "record_stream", nothing)
    torch.manual_seed(0)
    blocks = nn.ModuleList(nn.Linear(3, 2) for _ in range(3))
    return OnCpu(blocks, torch.device("cpu"), {}, "")


def test_a_changed_block_is_kept_and_comes_again(streamed: OnCpu) -> None:
    with streamed.here(1, changed=True, then=2) as block:
        block.weight.fill_(7)
    assert streamed.blocks[1].weight.is_meta
    assert streamed.host_copy(1)["weight"].tolist() == [[7] * 3] * 2
    with streamed.here(1) as block:
        assert block.weight.tolist() == [[7] * 3] * 2


def test_blocks_that_settled_can_be_changed_and_copied(streamed: OnCpu) -> None:
    with streamed.here(0, changed=True) as block:
        block.weight.fill_(7)
    streamed.settle()
    with streamed.here(1, changed=True, then=2) as block:
        block.weight.fill_(5)
    for index, value in ((0, 7), (1, 5)):
        assert streamed.host_copy(index)["weight"].tolist() == [[value] * 3] * 2
    assert not any(x.is_meta for x in streamed.blocks.parameters())
