"""Pools: the documents that a dataset offers, in an order that no file order can change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def document_id(text: str) -> str:
    """A document's id: the first 128 bits of the SHA-256 of its text, hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Pool:
    """The documents of a dataset, in the order of their ids; no document twice."""

    ids: list[str]
    texts: list[str]

    @classmethod
    def of(cls, texts: Iterable[str], max_documents: int) -> Pool:
        """The `max_documents` documents of lowest id; reads all, keeps twice that at most."""
        lowest: dict[str, str] = {}
        bound = "g"  # above every hexadecimal id
        for text in texts:
            if (identity := document_id(text)) < bound:
                lowest[identity] = text
            if len(lowest) >= 2 * max_documents:
                lowest = dict(sorted(lowest.items())[:max_documents])
                bound = max(lowest)
        ids = sorted(lowest)[:max_documents]
        return cls(ids, [lowest[i] for i in ids])

    @classmethod
    def mix(cls, pools: Mapping[str, Pool], weights: Mapping[str, float]) -> Pool:
        """Documents of several pools, in shares of characters that follow `weights`.

        Each step takes the next document of the pool that is furthest behind its share; it ends
        with the first pool that runs out.
        """
        taken = dict.fromkeys(pools, 0)
        following = {name: iter(pool.texts) for name, pool in pools.items()}
        texts: list[str] = []
        while True:
            behind = min(pools, key=lambda name: (taken[name] / weights[name], name))
            text = next(following[behind], None)
            if text is None:
                return cls.of(texts, len(texts) or 1)
            taken[behind] += len(text)
            texts.append(text)

    def save(self, folder: Path) -> None:
        """Write `documents.parquet` (id, text) into `folder`."""
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({"id": self.ids, "text": self.texts})
        pyarrow.parquet.write_table(table, folder / "documents.parquet", compression="zstd")

    @classmethod
    def load(cls, folder: Path) -> Pool:
        """Read what `save` wrote."""
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(folder / "documents.parquet")
        return cls(table["id"].to_pylist(), table["text"].to_pylist())


SEPARATOR = " "
"""Stands before every document of a stream, as in the study's code."""


@dataclass(frozen=True)
class Tokens:
    """The token ids of a pool's documents, end to end.

    Attributes:
        ids: int32 [tokens]. ends: int64 [documents], where each document ends in `ids`.
        documents: the documents' ids.
    """

    ids: np.ndarray
    ends: np.ndarray
    documents: Sequence[str]

    @classmethod
    def of(cls, pool: Pool, tokenize: Any, separator: str) -> Tokens:
        """Tokenise each document by itself, `separator` before it, without special tokens.

        Args:
            pool: the documents.
            tokenize: list of texts to list of id lists.
            separator: `SEPARATOR` for streams, empty for single documents.
        """
        import numpy as np

        parts = [np.zeros(0, np.int32)]
        lengths: list[int] = []
        for i in range(0, len(pool.texts), 1000):
            for ids in tokenize([separator + text for text in pool.texts[i : i + 1000]]):
                parts.append(np.asarray(ids, np.int32))
                lengths.append(len(ids))
        return cls(np.concatenate(parts), np.cumsum(lengths, dtype=np.int64), pool.ids)

    def save(self, folder: Path) -> None:
        """Write `tokens.safetensors` into `folder`."""
        from safetensors.numpy import save_file

        save_file({"ids": self.ids, "ends": self.ends}, folder / "tokens.safetensors")

    @classmethod
    def load(cls, folder: Path, documents: Sequence[str]) -> Tokens:
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        arrays = load_file(folder / "tokens.safetensors")
        return cls(arrays["ids"], arrays["ends"], documents)

    def fold(self, index: int, folds: int) -> Tokens:
        """The documents with id mod `folds` = `index`, end to end."""
        import numpy as np

        starts = self.ends - np.diff(self.ends, prepend=0)
        keep = [i for i, d in enumerate(self.documents) if int(d, 16) % folds == index]
        parts = [self.ids[starts[i] : self.ends[i]] for i in keep]
        ids = np.concatenate([np.zeros(0, np.int32), *parts])
        ends = np.cumsum([len(p) for p in parts], dtype=np.int64)
        return Tokens(ids, ends, [self.documents[i] for i in keep])
