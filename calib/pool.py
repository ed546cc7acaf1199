"""Pools: the documents that a dataset offers, in an order that no file order can change."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import numpy as np

ROWS_TOGETHER = 1000
"""Documents of a stored pool that are read at a time."""


def document_id(text: str) -> str:
    """A document's id: the first 128 bits of the SHA-256 of its text, hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Document:
    """One row of a dataset: its text, and the address of its page where the row has one."""

    text: str
    url: str | None = None

    @property
    def domain(self) -> str:
        """The host of its address without `www.`, empty where there is none."""
        try:
            host = urlsplit(self.url or "").hostname or ""
        except ValueError:  # an address that is none
            return ""
        return host.removeprefix("www.")


@dataclass(frozen=True)
class Pool:
    """The documents of a dataset, in the order of their ids; no document twice.

    Attributes:
        ids, texts: of the documents.
        domains: web domains of the documents, empty where unknown; no domain at all for text that
            has no addresses.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    domains: Sequence[str] = field(default=(), compare=False)

    @classmethod
    def of(cls, texts: Iterable[str], max_documents: int) -> Pool:
        """The pool of plain texts; see `collect`."""
        return cls.collect((Document(text) for text in texts), max_documents)

    @classmethod
    def collect(cls, documents: Iterable[Document], max_documents: int) -> Pool:
        """The `max_documents` documents of lowest id; reads all, holds no more than these."""
        kept: dict[int, Document] = {}
        highest: list[int] = []  # negated, so that the heap's first is the highest id
        for document in documents:
            number = -int(document_id(document.text), 16)
            if number in kept:
                kept[number] = min(kept[number], document, key=lambda d: d.url or "\U0010ffff")
                continue
            if len(highest) < max_documents:
                heapq.heappush(highest, number)
            elif number > highest[0]:
                del kept[heapq.heappushpop(highest, number)]
            else:
                continue
            kept[number] = document
        ordered = sorted(kept, reverse=True)
        domains = [kept[number].domain for number in ordered]
        return cls(
            [f"{-number:032x}" for number in ordered],
            [kept[number].text for number in ordered],
            domains if any(domains) else (),
        )

    @classmethod
    def mix(
        cls, pools: Mapping[str, Pool], weights: Mapping[str, float], max_documents: int
    ) -> Pool:
        """Documents of several pools, in shares of characters that follow `weights`.

        Each step takes the next document of the pool that is furthest behind its share; it ends
        with the first pool that runs out, or with `max_documents`. A document of several pools
        is taken once.
        """
        taken = dict.fromkeys(pools, 0)
        following = {name: iter(range(len(pool.ids))) for name, pool in pools.items()}
        chosen: dict[str, tuple[str, str]] = {}
        while len(chosen) < max_documents:
            behind = min(pools, key=lambda name: (taken[name] / weights[name], name))
            index = next(following[behind], None)
            if index is None:
                break
            pool = pools[behind]
            text = pool.texts[index]
            taken[behind] += len(text)
            chosen[pool.ids[index]] = text, pool.domains[index] if pool.domains else ""
        ids = sorted(chosen)
        domains = [chosen[i][1] for i in ids]
        return cls(ids, [chosen[i][0] for i in ids], domains if any(domains) else ())

    def only(self, indices: Sequence[int]) -> Pool:
        """Some of its documents, in the order of their ids."""
        indices = sorted(indices)
        domains = [self.domains[i] for i in indices] if self.domains else ()
        return Pool([self.ids[i] for i in indices], [self.texts[i] for i in indices], domains)

    def joined(self, together: int, between: str) -> Pool:
        """Every `together` documents as one, in the order of their ids; a rest is left out."""
        whole = len(self.ids) // together
        texts = [between.join(self.texts[i * together : (i + 1) * together]) for i in range(whole)]
        return Pool.of(texts, max(whole, 1))

    def save(self, folder: Path) -> None:
        """Write `documents.parquet` (id, text and, where there is one, domain) into `folder`."""
        import pyarrow
        import pyarrow.parquet

        columns = {"id": self.ids, "text": self.texts}
        if self.domains:
            columns["domain"] = self.domains
        pyarrow.parquet.write_table(
            pyarrow.table({name: pyarrow.array(list(c), "string") for name, c in columns.items()}),
            folder / "documents.parquet",
            compression="zstd",
            row_group_size=ROWS_TOGETHER,
        )

    @classmethod
    def load(cls, folder: Path) -> Pool:
        """Read what `save` wrote; the texts stay on disk until they are asked for."""
        import pyarrow.parquet

        path = folder / "documents.parquet"
        names = pyarrow.parquet.read_schema(path).names
        table = pyarrow.parquet.read_table(path, columns=[n for n in names if n != "text"])
        domains = table["domain"].to_pylist() if "domain" in names else ()
        return cls(table["id"].to_pylist(), StoredTexts(path), domains)


class StoredTexts(Sequence[str]):
    """The texts of a stored pool, read by the group; memory holds a few groups of them."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet

        self._file = pyarrow.parquet.ParquetFile(path, memory_map=True)
        metadata = self._file.metadata
        self._length = metadata.num_rows
        self._together = max(1, metadata.row_group(0).num_rows if metadata.num_row_groups else 1)
        self._group = lru_cache(maxsize=2)(self._read)

    def _read(self, group: int) -> list[str]:
        texts: list[str] = self._file.read_row_group(group, columns=["text"])["text"].to_pylist()
        return texts

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        index = range(self._length)[index]
        return self._group(index // self._together)[index % self._together]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


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
