"""Evaluation documents that a dataset contains: shared 13-grams (Brown et al. 2020, appendix C)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calib.samples import READ_AT_ONCE
from calib.shingles import gram_hashes, word_hashes

if TYPE_CHECKING:
    import numpy as np

N = 13
"""Words in a gram."""


@dataclass(frozen=True)
class Contamination:
    """What a dataset shares with a task.

    Attributes:
        documents: documents of the task that are long enough to be looked for.
        found: how many of them share an n-gram with the dataset.
        texts: indices of the dataset's texts that share one with the task.
    """

    documents: int
    found: int
    texts: list[int]


@dataclass(frozen=True)
class TaskGrams:
    """The n-grams of a task's documents.

    Attributes:
        hashes: uint64 [grams], ascending. owners: int64 [grams], the document of each.
        documents: documents that have an n-gram.
        n: words in a gram.
    """

    hashes: np.ndarray
    owners: np.ndarray
    documents: int
    n: int = N

    @classmethod
    def of(cls, documents: Sequence[str], n: int = N) -> TaskGrams:
        """Of the documents of a task, question and answers as one text."""
        import numpy as np

        hashes, counts = gram_hashes(*word_hashes(documents), n)
        owners = np.repeat(np.arange(len(counts)), counts)
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], owners[order], int((counts > 0).sum()), n)

    def within(self, texts: Sequence[str]) -> Contamination:
        """What a dataset's texts share with the task."""
        import numpy as np

        distinct = np.unique(self.hashes)
        found: set[int] = set()
        touched: list[int] = []
        for i in range(0, len(texts) if len(distinct) else 0, READ_AT_ONCE):
            hashes, counts = gram_hashes(*word_hashes(texts[i : i + READ_AT_ONCE]), self.n)
            at = np.minimum(np.searchsorted(distinct, hashes), len(distinct) - 1)
            shared = distinct[at] == hashes
            if shared.any():
                owners = np.repeat(np.arange(len(counts)), counts)
                touched += (np.unique(owners[shared]) + i).tolist()
                found |= set(self.owners[np.isin(self.hashes, hashes[shared])].tolist())
        return Contamination(self.documents, len(found), touched)

    def save(self, path: Path) -> None:
        """Write them as safetensors."""
        import numpy as np
        from safetensors.numpy import save_file

        numbers = np.array([self.documents, self.n], np.int64)
        save_file({"hashes": self.hashes, "owners": self.owners, "numbers": numbers}, path)

    @classmethod
    def load(cls, path: Path) -> TaskGrams:
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        arrays = load_file(path)
        documents, n = arrays["numbers"].tolist()
        return cls(arrays["hashes"], arrays["owners"], documents, n)
