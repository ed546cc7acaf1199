"""Perplexity texts as token windows, with the bytes that each window scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedTokenizerBase

TEXT_VERSION = 1
"""Raised when a text's tokens come out otherwise than before."""


@dataclass(frozen=True)
class Window:
    """A sequence of tokens; all but the first are predicted.

    Attributes:
        ids: token ids. bytes: length in UTF-8 of the predicted ones; None where it is not known.
    """

    ids: np.ndarray
    bytes: int | None


@dataclass(frozen=True)
class TextTokens:
    """A text as tokens.

    Attributes:
        ids: int32 [tokens].
        bytes: int32 [tokens], what each token adds to the text in UTF-8; empty where the
            tokenizer does not say which characters its tokens stand for.
    """

    ids: np.ndarray
    bytes: np.ndarray

    @classmethod
    def of(
        cls, pieces: Iterable[str], tokenizer: PreTrainedTokenizerBase, most: int | None = None
    ) -> TextTokens:
        """Pieces tokenised one by one, without special tokens, end to end.

        Args:
            pieces: parts of the text. tokenizer: of the model.
            most: pieces are read until there are so many tokens.
        """
        ids, sizes, count = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], 0
        for piece in pieces:
            if most is not None and count >= most:
                break
            tokens = encode(piece, tokenizer)
            ids.append(tokens.ids)
            sizes.append(tokens.bytes)
            count += len(tokens.ids)
        return cls(np.concatenate(ids), np.concatenate(sizes))

    def save(self, folder: Path) -> None:
        """Write `tokens.safetensors` into `folder`."""
        save_file({"ids": self.ids, "bytes": self.bytes}, folder / "tokens.safetensors")

    @classmethod
    def load(cls, folder: Path) -> TextTokens:
        """Read what `save` wrote."""
        return cls(**load_file(folder / "tokens.safetensors"))

    def windows(self, seqlen: int, bos: int | None, limit: int | None) -> list[Window]:
        """Consecutive windows of at most `seqlen` tokens, BOS included, the last one shorter.

        Args:
            seqlen: tokens a window. bos: stands before each; None = nothing does.
            limit: windows, from the first.
        """
        stride = seqlen if bos is None else seqlen - 1
        starts = range(0, len(self.ids), stride)
        found = [self._window(slice(start, start + stride), bos) for start in starts[:limit]]
        return [window for window in found if len(window.ids) > 1]

    def _window(self, part: slice, bos: int | None) -> Window:
        ids, sizes = self.ids[part], self.bytes[part]
        if bos is not None:
            ids = np.concatenate([np.asarray([bos], np.int32), ids])
        else:
            sizes = sizes[1:]
        return Window(ids, int(sizes.sum()) if len(self.bytes) else None)


def encode(text: str, tokenizer: PreTrainedTokenizerBase) -> TextTokens:
    """The tokens of one text."""
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False
    )
    ids = np.asarray(encoded.input_ids, np.int32)
    if not tokenizer.is_fast:
        return TextTokens(ids, np.zeros(0, np.int32))
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    upto = np.concatenate([[0], np.cumsum(lengths)])
    ends = np.asarray([end for _, end in encoded.offset_mapping], np.int64)
    if len(ends):
        ends[-1] = len(text)  # what follows the last token belongs to it
    reached = upto[np.maximum.accumulate(ends)] if len(ends) else ends
    return TextTokens(ids, np.diff(reached, prepend=0).astype(np.int32))


def row_windows(
    rows: Sequence[str], tokenizer: PreTrainedTokenizerBase, longest: int, bos: int | None
) -> list[Window]:
    """Every row as a window of its own, of at most `longest` tokens with BOS.

    Rows of fewer than two tokens predict nothing and are left out.
    """
    windows = [encode(row, tokenizer).windows(longest, bos, 1) for row in rows]
    return [window for found in windows for window in found]
