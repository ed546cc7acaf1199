"""Array hashes of words and n-grams are those of their plain definitions."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from calib import shingles
from calib.shingles import gram_hash, gram_hashes, word_hash, word_hashes, words

TEXTS = [
    "Don't STOP: Ünïcode_2, naïve—3.5 İstanbul",
    "",
    " \n",
    "one",
    "the  quick\nbrown 中文 fox ½ ٣ x\u0301y",
    "a\ud800b lone surrogate",
    "nul\x00 and \u2028 separators",
]


def plain(texts: list[str], n: int) -> tuple[list[int], list[int]]:
    hashes, counts = [], []
    for text in texts:
        units = [word_hash(word) for word in words(text)]
        grams = [gram_hash(units[i : i + n]) for i in range(len(units) - n + 1)]
        hashes += grams
        counts.append(len(grams))
    return hashes, counts


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("batch", [1, 40, 2**16])
def test_grams_are_their_definition(n: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shingles, "BATCH_CHARACTERS", batch)
    hashes, counts = gram_hashes(*word_hashes(TEXTS), n)
    assert (hashes.tolist(), counts.tolist()) == plain(TEXTS, n)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=6), st.integers(1, 4))
def test_any_text_is_hashed_as_defined(texts: list[str], n: int) -> None:
    hashes, counts = gram_hashes(*word_hashes(texts), n)
    assert (hashes.tolist(), counts.tolist()) == plain(texts, n)


def test_different_words_and_orders_have_different_hashes() -> None:
    vocabulary = [f"{a}{b}{i}" for a in "abcdefgh" for b in "xyz_" for i in range(500)]
    assert len(np.unique(word_hashes([" ".join(vocabulary)])[0])) == len(vocabulary)
    orders = ["a b c", "a c b", "b a c", "c b a", "ab c", "a bc x"]
    assert len({gram_hash([word_hash(w) for w in words(text)]) for text in orders}) == len(orders)


def test_golden_hashes() -> None:
    assert word_hash("similarity") == int(word_hashes(["Similarity!"])[0][0]) == WORD
    assert gram_hash([word_hash(w) for w in ("one", "two", "three")]) == GRAM


WORD, GRAM = 0x8BC5B45C444B6D2F, 0xCA703F92159DA6E0
"""Sketches are compared across machines and versions: these may not change."""
