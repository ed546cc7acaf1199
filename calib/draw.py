"""Draws: one seeded calibration set from a pool."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from calib.pool import Tokens

if TYPE_CHECKING:
    import numpy as np

Sampler = Literal["stream", "document"]


class TooLittleTextError(ValueError):
    """A pool that cannot fill the calibration set that was asked of it."""


@dataclass(frozen=True)
class CalibrationSet:
    """The token windows shown to a pruner.

    Attributes:
        input_ids: int32 [size, seqlen].
        windows: for each window, where its tokens come from: (document id, first token taken of
            the document, tokens taken) in order.
        manifest: what else is known of its making (pool, tokenizer, sampler, seed, generator).
    """

    input_ids: np.ndarray
    windows: list[list[tuple[str, int, int]]]
    manifest: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write `ids.safetensors` (tensor `input_ids`) and `manifest.json`."""
        from safetensors.numpy import save_file

        save_file({"input_ids": self.input_ids}, folder / "ids.safetensors")
        manifest = self.manifest | {"windows": self.windows}
        (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> CalibrationSet:
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        windows = [[tuple(piece) for piece in window] for window in manifest.pop("windows")]
        return cls(load_file(folder / "ids.safetensors")["input_ids"], windows, manifest)


def draw(tokens: Tokens, sampler: Sampler, size: int, seqlen: int, seed: int) -> CalibrationSet:
    """The calibration set of a seed; a smaller size is a prefix of a larger one.

    `stream` cuts window k out of the joined documents where (seed, k) says; `document` takes the
    documents in the order of hash(seed, id) and cuts one window out of each that is long enough.

    Raises:
        TooLittleTextError: the pool cannot fill it.
    """
    import numpy as np

    starts = {"stream": _stream_starts, "document": _document_starts}[sampler](
        tokens, size, seqlen, seed
    )
    ids = np.stack([tokens.ids[start : start + seqlen] for start in starts])
    return CalibrationSet(ids, [_pieces(tokens, start, seqlen) for start in starts])


def _number(*parts: object) -> int:
    """64 bits that depend on `parts` alone."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _stream_starts(tokens: Tokens, size: int, seqlen: int, seed: int) -> list[int]:
    check_stream(len(tokens.ids), size, seqlen)
    return [_number(seed, k) % (len(tokens.ids) - seqlen + 1) for k in range(size)]


def check_stream(tokens: int, size: int, seqlen: int) -> None:
    """Refuse a stream of fewer tokens than the windows hold, which would repeat itself."""
    if tokens < size * seqlen:
        raise TooLittleTextError(
            f"the pool has {tokens:,} tokens, and size {size} x seqlen {seqlen} asks for "
            f"{size * seqlen:,}: ask for less, or give the dataset more text"
        )


def _document_starts(tokens: Tokens, size: int, seqlen: int, seed: int) -> list[int]:
    import numpy as np

    lengths = np.diff(tokens.ends, prepend=0)
    firsts = tokens.ends - lengths
    long = [i for i in range(len(firsts)) if lengths[i] >= seqlen]
    check_documents(len(long), size, seqlen)
    order = sorted(long, key=lambda i: _number(seed, tokens.documents[i]))[:size]
    return [
        int(firsts[i]) + _number("start", seed, tokens.documents[i]) % int(lengths[i] - seqlen + 1)
        for i in order
    ]


def check_documents(long: int, size: int, seqlen: int) -> None:
    """Refuse a pool with too few documents that fill a window."""
    if long < size:
        raise TooLittleTextError(
            f"{long:,} documents of the pool have {seqlen} tokens or more, and sampler `document` "
            f"needs {size}: ask for a smaller size or seqlen, or use sampler `stream`"
        )


def _pieces(tokens: Tokens, start: int, seqlen: int) -> list[tuple[str, int, int]]:
    """The documents that a window of the stream covers, in order."""
    import numpy as np

    pieces: list[tuple[str, int, int]] = []
    index = int(np.searchsorted(tokens.ends, start, side="right"))
    position, stop = start, start + seqlen
    while position < stop:
        first = int(tokens.ends[index - 1]) if index else 0
        end = min(stop, int(tokens.ends[index]))
        if end > position:
            pieces.append((tokens.documents[index], position - first, end - position))
        position, index = end, index + 1
    return pieces
