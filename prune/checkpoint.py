"""Finished blocks, stored on the way, so that a pruning that was killed goes on where it was."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from prune.model.blocks import Linear
from prune.model.tensorfile import Entry, header
from prune.model.weights import BlockWeights
from prune.report import BlockReport
from prune.sample import pack_bits, unpack_bits

LEAST_SECONDS = 60.0
"""Time between two checkpoints, and before the first: what takes less is done again faster."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Checkpoint:
    """The finished blocks of one pruning, in a folder.

    A block is stored as its masks, one bit a weight, where survivors keep their weights, else as
    the weights of its linears. Activations are not stored: they are computed again from the stored
    blocks, in one pass over each, where finding the masks takes two and more. Files are written by
    a thread of their own, each renamed into place, with every block finished since the last one.

    What was stored on another kind of GPU, or by another torch, is not continued: the result would
    be neither's.
    """

    def __init__(self, folder: Path, masks_alone: bool) -> None:
        """Look at what `folder` holds.

        Args:
            folder: belongs to this pruning alone, whose identity it stands for.
            masks_alone: no weight changes but those that become zero.
        """
        self.folder = folder
        self.masks_alone = masks_alone
        self.targets: list[Fraction] | None = None
        self.error_tokens = (0, 0)
        self._started = self._last = time.monotonic()
        self._waiting: dict[int, tuple[Sequence[Linear], BlockReport]] = {}
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._entries: dict[int, dict[str, Entry]] = {}  # by block, those of its file
        self._reports: dict[int, BlockReport] = {}
        self._read()

    @property
    def done(self) -> int:
        """Blocks that are stored, from the first on."""
        return len(self._reports)

    def restore(self, index: int, linears: Sequence[Linear]) -> BlockReport:
        """Make a dense block what it was when it was stored; returns what was said of it."""
        entries = self._entries[index]
        for linear in linears:
            stored, weight = entries[f"{index}.{linear.name}"].read(), linear.weight
            if self.masks_alone:
                mask = unpack_bits(stored.to(weight.device), weight.shape)
                weight.masked_fill_(mask, 0)
            else:
                weight.copy_(stored)
        return self._reports[index]

    def add(
        self, index: int, linears: Sequence[Linear], report: BlockReport, weights: BlockWeights
    ) -> None:
        """A block is finished and has left; store it, with others, where it is time to."""
        self._waiting[index] = linears, report
        idle = self._writing is None or self._writing.done()
        if idle and time.monotonic() - self._last >= LEAST_SECONDS:
            self._write(weights)

    def finish(self, weights: BlockWeights) -> None:
        """All blocks are finished; store the rest where doing all again would take longer."""
        if time.monotonic() - self._started >= LEAST_SECONDS:
            self.keep(weights)
        self._writer.shutdown()

    def keep(self, weights: BlockWeights) -> None:
        """Store every block that is finished, and wait until all are written."""
        if self._waiting:
            self._write(weights)
        if self._writing is not None:
            self._writing.result()

    # -- files

    def _write(self, weights: BlockWeights) -> None:
        if self._writing is not None:
            self._writing.result()  # what went wrong there is raised here
        blocks, self._waiting = self._waiting, {}
        self._last = time.monotonic()
        self._writing = self._writer.submit(self._store, blocks, weights)

    def _store(
        self, blocks: Mapping[int, tuple[Sequence[Linear], BlockReport]], weights: BlockWeights
    ) -> None:
        tensors: dict[str, Tensor] = {}
        for index, (linears, _) in blocks.items():
            held = weights.host_copy(index)
            for linear in linears:
                weight = linear.of(held)
                stored = pack_bits(_is_zero(weight)) if self.masks_alone else weight.contiguous()
                tensors[f"{index}.{linear.name}"] = stored
        state = {
            "setting": _setting(),
            "targets": [str(x) for x in self.targets or []],
            "error_tokens": self.error_tokens,
            "blocks": {index: report.to_json() for index, (_, report) in blocks.items()},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"blocks-{min(blocks):05}-{max(blocks):05}.safetensors"
        partial = path.with_suffix(f".{os.getpid()}.partial")
        save_file(tensors, partial, metadata={"state": json.dumps(state)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    def _read(self) -> None:
        """Take what is stored, up to the first block that is not, or cannot be read."""
        for path in self.folder.glob("*.partial"):
            path.unlink(missing_ok=True)
        for path in sorted(self.folder.glob("blocks-*.safetensors")):
            try:
                metadata, entries = header(path)
                state = json.loads(metadata["state"])
            except (ValueError, KeyError):  # cut short when a machine went down
                path.unlink()
                continue
            if state["setting"] != _setting():
                continue
            for key, report in sorted(state["blocks"].items(), key=lambda item: int(item[0])):
                if int(key) == self.done:
                    self._entries[int(key)] = entries
                    self._reports[int(key)] = BlockReport.from_json(report)
            self.targets = [Fraction(x) for x in state["targets"]] or None
            linears, blocks = state.get("error_tokens", (0, 0))
            self.error_tokens = (linears, blocks)


def _setting() -> dict[str, str]:
    """What the bits of a result depend on, besides its science."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"torch": torch.__version__, "gpu": gpu}


def _is_zero(weight: Tensor) -> Tensor:
    """Which weights are +0; -0, which no mask makes, is left as it is."""
    return weight.contiguous().view(_BITS[weight.element_size()]) == 0
