"""Where the weights of a model's blocks are while blocks are worked on one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prune.model.tensorfile import Entry


class BlockWeights:
    """All blocks stay where the model is: small models, and all on a CPU."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self.blocks = blocks

    @contextmanager
    def here(self, index: int, changed: bool = False, then: int | None = None) -> Iterator[Any]:
        """Block `index`, ready to be called.

        Args:
            index: its place in the model.
            changed: its weights will be changed in place and are to be kept.
            then: the block that will be asked for next.
        """
        yield self.blocks[index]

    def settle(self) -> None:
        """Put all blocks on the device, for what calls the model as a whole."""

    def host_copy(self, index: int) -> dict[str, Tensor]:
        """The weights of a block that was changed and has left, on the host, by name."""
        return {name: x.data.cpu() for name, x in self.blocks[index].named_parameters()}


@dataclass
class _Home:
    """Where a tensor of a block is kept: on the host, or as it was in a file."""

    dtype: torch.dtype
    entry: Entry | None = None
    tensor: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Its size there."""
        if self.entry is not None:
            return self.entry.nbytes
        assert self.tensor is not None
        return self.tensor.nbytes

    def copy_into(self, room: Tensor) -> Tensor:
        """Its content in `room`, uint8 [nbytes]; as a view with its dtype and shape there."""
        if self.entry is not None:
            self.entry.read_into(room)
            return room.view(self.entry.dtype).view(self.entry.shape)
        assert self.tensor is not None
        return room.view(self.tensor.dtype).view(self.tensor.shape).copy_(self.tensor)


class StreamedWeights(BlockWeights):
    """One block on the device at a time; the rest in its file, or on the host once changed.

    The next block comes, and a changed one leaves, while the one at hand is worked on: at most
    three are on the device. The host keeps what was changed, so in the end the model once, and
    one block of pinned memory.
    """

    def __init__(
        self, blocks: nn.ModuleList, device: torch.device, files: Mapping[str, Entry], prefix: str
    ) -> None:
        """Take over the weights of `blocks`.

        Args:
            blocks: modules whose weights are on the host, or on "meta" and in `files`.
            device: a GPU.
            files: where weights lie, by `<prefix><index>.<name>`.
            prefix: see `files`.
        """
        super().__init__(blocks)
        self.device = device
        self._homes = [
            {
                name: _Home(x.dtype, files[f"{prefix}{index}.{name}"])
                if x.is_meta
                else _Home(x.dtype, tensor=x.data)
                for name, x in block.named_parameters()
            }
            for index, block in enumerate(blocks)
        ]
        for block in blocks:
            _put(block, {name: _nowhere(x) for name, x in block.named_parameters()})
            for name, buffer in list(block.named_buffers()):
                owner, _, leaf = name.rpartition(".")
                block.get_submodule(owner)._buffers[leaf] = buffer.to(device)
        self._worker = ThreadPoolExecutor(1, "weights")
        self._coming: dict[int, Future[tuple[dict[str, Tensor], torch.cuda.Event]]] = {}
        self._leaving: dict[int, Future[None]] = {}
        self._stream = torch.cuda.Stream(device)
        self._staging = torch.empty(0, dtype=torch.uint8)
        self._settled = False

    @contextmanager
    def here(self, index: int, changed: bool = False, then: int | None = None) -> Iterator[Any]:
        """See `BlockWeights.here`."""
        block = self.blocks[index]
        if self._settled:
            yield block
            return
        self._bring(index)
        if then is not None and then < len(self.blocks):
            self._expect(then)
        yield block
        if changed:
            self._send(index)
        _put(block, {name: _nowhere(x) for name, x in block.named_parameters()})

    def settle(self) -> None:
        """See `BlockWeights.settle`; the host's copies are given up."""
        if self._settled:
            return
        for index in range(len(self.blocks)):
            self._bring(index)
            self._homes[index].clear()
            if index + 1 < len(self.blocks):
                self._expect(index + 1)
        self._settled, self._staging = True, torch.empty(0, dtype=torch.uint8)
        self._worker.shutdown()

    def host_copy(self, index: int) -> dict[str, Tensor]:
        """See `BlockWeights.host_copy`."""
        if self._settled:
            return super().host_copy(index)
        self._wait_for(index)
        found = {name: home.tensor for name, home in self._homes[index].items()}
        return {name: x for name, x in found.items() if x is not None}

    def _wait_for(self, index: int) -> None:
        """Until a changed block has left the device; what went wrong there is raised here."""
        if index in self._leaving:
            self._leaving[index].result()

    # -- coming

    def _expect(self, index: int) -> None:
        if index not in self._coming:
            self._coming[index] = self._worker.submit(self._load, index)

    def _bring(self, index: int) -> None:
        self._expect(index)
        tensors, arrived = self._coming.pop(index).result()
        now = torch.cuda.current_stream(self.device)
        now.wait_event(arrived)
        for x in tensors.values():
            x.record_stream(now)  # its memory is not given away before this stream is done with it
        _put(self.blocks[index], tensors)

    @torch.no_grad()
    def _load(self, index: int) -> tuple[dict[str, Tensor], torch.cuda.Event]:
        """Copy a block to the device through pinned memory."""
        self._wait_for(index)
        homes, tensors = self._homes[index], {}
        rooms = self._rooms([home.nbytes for home in homes.values()])
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            for (name, home), room in zip(homes.items(), rooms, strict=True):
                there = home.copy_into(room).to(self.device, non_blocking=True)
                tensors[name] = there.to(home.dtype)
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        arrived.synchronize()  # the pinned memory is free again
        return tensors, arrived

    # -- leaving

    def _send(self, index: int) -> None:
        ready = torch.cuda.Event()
        ready.record(torch.cuda.current_stream(self.device))
        tensors = {name: x.data for name, x in self.blocks[index].named_parameters()}
        self._leaving[index] = self._worker.submit(self._store, index, tensors, ready)

    @torch.no_grad()
    def _store(self, index: int, tensors: dict[str, Tensor], ready: torch.cuda.Event) -> None:
        """Copy a changed block to the host through pinned memory."""
        rooms = self._rooms([x.nbytes for x in tensors.values()])
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            for x, room in zip(tensors.values(), rooms, strict=True):
                room.view(x.dtype).view(x.shape).copy_(x, non_blocking=True)
            self._stream.synchronize()
        for (name, x), room in zip(tensors.items(), rooms, strict=True):
            kept = room.view(x.dtype).view(x.shape).clone()  # pageable
            self._homes[index][name] = _Home(x.dtype, tensor=kept)

    def _rooms(self, sizes: Sequence[int]) -> list[Tensor]:
        """Pinned room for tensors of these sizes; used by the worker alone."""
        aligned = [-(-size // 64) * 64 for size in sizes]
        if len(self._staging) < sum(aligned):
            self._staging = torch.empty(sum(aligned), dtype=torch.uint8, pin_memory=True)
        parts = self._staging[: sum(aligned)].split(aligned)
        return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def _put(block: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make `tensors`, by name, the parameters of a block."""
    for name, x in tensors.items():
        owner, _, leaf = name.rpartition(".")
        block.get_submodule(owner)._parameters[leaf] = nn.Parameter(x, requires_grad=False)


def _nowhere(x: Tensor) -> Tensor:
    """A tensor that has only the shape and dtype of `x`."""
    return torch.empty_like(x, device="meta")
