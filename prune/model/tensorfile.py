"""Reading single tensors of a safetensors folder with plain reads: no file is mapped.

A mapping of a file on shared storage turns a stalled server into a hanging process, and a file
that changes underneath into a crash.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LONGEST_HEADER = 100_000_000  # bytes; what the format allows
MOST_AT_ONCE = 1 << 30  # bytes of one read; the kernel gives no more than two GiB


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: `nbytes` bytes from `start` of `file`."""

    file: Path
    dtype: torch.dtype
    shape: torch.Size
    start: int
    nbytes: int

    def read(self) -> Tensor:
        """The tensor, on the host."""
        room = torch.empty(self.nbytes, dtype=torch.uint8)
        self.read_into(room)
        return room.view(self.dtype).view(self.shape)

    def read_into(self, room: Tensor) -> None:
        """Fill `room`, contiguous uint8 [nbytes] on the CPU.

        Raises:
            EOFError: the file has become shorter.
        """
        view = memoryview(room.numpy())  # type: ignore[arg-type]
        done = 0
        with self.file.open("rb", buffering=0) as file:
            while done < self.nbytes:
                part = view[done : min(done + MOST_AT_ONCE, self.nbytes)]
                got = os.preadv(file.fileno(), [part], self.start + done)
                if not got:
                    raise EOFError(f"{self.file} ends early: was it copied as a whole?")
                done += got


def entries(folder: Path) -> dict[str, Entry]:
    """The tensors of the safetensors files of a model folder, by name.

    Raises:
        ValueError: a file is no safetensors file, or not all of it is there.
    """
    paths = sorted(folder.glob("*.safetensors"))
    own = [path for path in paths if path.name.startswith("model")]  # some have a copy beside it
    found: dict[str, Entry] = {}
    for path in own or paths:
        found |= header(path)[1]
    return found


def header(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    """The metadata of a safetensors file, and its tensors by name.

    Raises:
        ValueError: it is no safetensors file, or not all of it is there.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"{path} is no safetensors file")
        content = json.loads(file.read(length))
    metadata: dict[str, str] = content.pop("__metadata__", None) or {}
    found, least = {}, 8 + length
    for name, entry in content.items():
        begin, end = entry["data_offsets"]
        least = max(least, 8 + length + end)
        if entry["dtype"] in DTYPES:  # what is left out counts as missing
            dtype, shape = DTYPES[entry["dtype"]], torch.Size(entry["shape"])
            found[name] = Entry(path, dtype, shape, 8 + length + begin, end - begin)
    if path.stat().st_size < least:
        raise ValueError(f"{path} ends early: was it copied as a whole?")
    return metadata, found
