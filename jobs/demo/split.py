"""From documents to corpora that share nothing: split by file, near copies dropped."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from jobs.demo.documents import Document, fold

QUESTIONS = "questions"  # what the two tasks are made from; not a file of its own
SPAN = 13  # words of the runs that are compared; the usual length in contamination checks
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class Corpus:
    """Where a corpus comes from and what it may hold.

    ``share`` is the fraction of a document's word runs that earlier corpora, or this one, may
    already hold; ``limit`` is in bytes of text, None for all there is.
    """

    kind: str
    low: float
    high: float
    share: float
    limit: int | None


# Files at [low, high) of the hash give a corpus. The first in the table is filled first, so
# that what is held out is compared with all of the pre-training text.
CORPORA: dict[str, Corpus] = {
    "pretraining": Corpus("docstring", 0.20, 1.00, 0.5, None),
    "heldout": Corpus("docstring", 0.00, 0.03, 0.2, 50_000),
    QUESTIONS: Corpus("docstring", 0.03, 0.09, 0.2, None),
    "docstrings": Corpus("docstring", 0.09, 0.16, 0.3, 1_400_000),
    "manuals": Corpus("manual", 0.00, 1.00, 0.5, 1_400_000),
    "licences": Corpus("licence", 0.00, 1.00, 0.5, 1_400_000),
    "code": Corpus("code", 0.16, 0.20, 0.5, 1_400_000),
}


def reads_as_code(origin: str) -> bool:
    """Tell whether a file is read as code."""
    return CORPORA["code"].low <= fold(origin) < CORPORA["code"].high


def split(documents: Iterable[Document]) -> dict[str, list[str]]:
    """Deal documents to corpora.

    Args:
        documents: in any order; equal texts count once.

    Returns:
        For each name of ``CORPORA`` its texts, in the order of their sha256.
    """
    chosen: dict[str, dict[str, str]] = {name: {} for name in CORPORA}
    for document in documents:
        place = fold(document.origin)
        for name, corpus in CORPORA.items():
            if document.kind == corpus.kind and corpus.low <= place < corpus.high:
                key = hashlib.sha256(document.text.encode()).hexdigest()
                chosen[name][key] = document.text
    seen: set[int] = set()
    anchors = _Anchors()
    return {
        name: _distinct([texts for _, texts in sorted(chosen[name].items())], corpus, seen, anchors)
        for name, corpus in CORPORA.items()
    }


class _Anchors(dict[str, bool]):
    """Says of a word, by its hash, whether runs that start with it are compared: one in four.

    Both sides of a comparison pick the same runs, so a quarter of the work finds the copies.
    """

    def __missing__(self, word: str) -> bool:
        self[word] = anchor = zlib.crc32(word.encode()) % 4 == 0
        return anchor


def _distinct(texts: list[str], corpus: Corpus, seen: set[int], anchors: _Anchors) -> list[str]:
    """Keep the texts that are mostly new, up to the corpus's limit, and add their runs to seen."""
    kept: list[str] = []
    size = 0
    for text in texts:
        runs = _runs(text, anchors)
        if len(runs & seen) > corpus.share * len(runs):
            continue
        size += len(text.encode())
        if corpus.limit is not None and size > corpus.limit:
            break
        kept.append(text)
        seen |= runs
    return kept


def _runs(text: str, anchors: _Anchors) -> set[int]:
    """Return the hashes of a text's compared runs of ``SPAN`` words."""
    words = _WORDS.findall(text.lower())
    return {
        hash(tuple(words[start : start + SPAN]))
        for start in range(len(words) - SPAN + 1)
        if anchors[words[start]]
    }
