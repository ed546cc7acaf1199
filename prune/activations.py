"""Where the activations between two blocks are kept: on the device, on the host, or in a file."""

from __future__ import annotations

import mmap
import tempfile
import weakref
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prune.host_memory import free_host_bytes

DEVICE_BYTES = 2 * 2**30
"""Activations up to this size stay on the device; it does not grow with the calibration set."""

HOST_SHARE = 0.5
"""The part of the host's free memory that larger ones may take; what exceeds it goes to a file."""

BUFFERS = 2
"""Batches on their way to the device, and on their way back."""


def allocate(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, host_share: float | None = None
) -> Tensor:
    """Room for activations: a tensor on the device, on the host, or in a temporary file.

    The file lies where `TMPDIR` says and is gone with the process.

    Args:
        shape, dtype: of the tensor.
        device: where it is worked on.
        host_share: the part of the host's free memory it may take; default: `HOST_SHARE`.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    if device.type != "cuda" or size <= DEVICE_BYTES:
        return torch.empty(*shape, dtype=dtype, device=device)
    if size <= (host_share or HOST_SHARE) * free_host_bytes():
        return _page_locked(size).view(dtype).view(*shape)
    with tempfile.NamedTemporaryFile(prefix="calgrid-activations-") as file:
        file.truncate(size)
        flat = torch.from_file(file.name, shared=True, size=size // dtype.itemsize, dtype=dtype)
    return flat.view(*shape)  # the mapping outlives the name


def _page_locked(size: int) -> Tensor:
    """Host memory that a GPU reads and writes by itself, uint8 [size].

    Torch's own takes the next power of two, and touches its pages one after the other: 8 GiB in
    7.1 s beside an H200, where this takes 0.8 s.
    """
    room = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    flat = torch.frombuffer(room, dtype=torch.uint8).zero_()  # all threads touch its pages
    torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(flat.data_ptr(), size, 0))
    weakref.finalize(room, _unlock, flat.data_ptr()).atexit = False
    return flat


def _unlock(address: int) -> None:
    torch.cuda.synchronize()  # copies may be on their way
    torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(address))


class Batches:
    """One walk over activations, batch by batch: read, compute, perhaps write back.

    What does not lie on the device travels on a stream of its own, so that computing does not
    wait: the next batch comes while this one is computed, the last one leaves meanwhile.
    """

    def __init__(self, stored: Tensor, parts: Sequence[slice], device: torch.device) -> None:
        self.stored = stored
        self.parts = parts
        self.device = device
        self.away = device.type == "cuda" and not stored.is_cuda
        if self.away:
            self._stream = torch.cuda.Stream(device)
            self._come = [_Buffer() for _ in range(BUFFERS)]
            self._leave = [_Buffer() for _ in range(BUFFERS)]
            # whatever was written before must have arrived
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """The batches in order, on the device; each lives until the one after the next is asked."""
        if not self.away:
            for part in self.parts:
                yield part, self.stored[part]
            return
        for place, part in enumerate(self.parts):
            if place == 0:
                self._fetch(0)
            if place + 1 < len(self.parts):
                self._fetch(place + 1)
            buffer = self._come[place % BUFFERS]
            now = torch.cuda.current_stream(self.device)
            now.wait_event(buffer.full)
            yield part, buffer.of(self.stored[part], self.device)
            buffer.free.record(now)
        self.finish()

    def finish(self) -> None:
        """What is computed from now on finds all that was written, and may take the rooms."""
        if self.away:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def write(self, part: slice, value: Tensor) -> None:
        """Put `value` where batch `part` is kept; only after it was read. See `finish`."""
        if not self.away:
            self.stored[part] = value
            return
        buffer = self._leave[(part.start // max(1, part.stop - part.start)) % BUFFERS]
        now = torch.cuda.current_stream(self.device)
        now.wait_event(buffer.free)
        room = buffer.of(self.stored[part], self.device)
        room.copy_(value)
        buffer.full.record(now)
        self._stream.wait_event(buffer.full)
        with torch.cuda.stream(self._stream):
            self.stored[part].copy_(room, non_blocking=True)
            buffer.free.record(self._stream)

    def _fetch(self, place: int) -> None:
        buffer, source = self._come[place % BUFFERS], self.stored[self.parts[place]]
        if buffer.room is None:  # new room is memory that earlier work may not be done with
            buffer.of(source, self.device)
            buffer.free.record(torch.cuda.current_stream(self.device))
        room = buffer.of(source, self.device)
        self._stream.wait_event(buffer.free)
        with torch.cuda.stream(self._stream):
            room.copy_(source, non_blocking=True)
            buffer.full.record(self._stream)


class _Buffer:
    """Room for one batch on the device, and who may use it when."""

    def __init__(self) -> None:
        self.room: Tensor | None = None
        self.full, self.free = torch.cuda.Event(), torch.cuda.Event()

    def of(self, like: Tensor, device: torch.device) -> Tensor:
        """The room, as large as `like`."""
        if self.room is None or len(self.room) < len(like):
            self.room = torch.empty(like.shape, dtype=like.dtype, device=device)
        return self.room[: len(like)]
