"""Random tokens stay the tokens that were drawn; ellipses fill every window."""

from __future__ import annotations

import numpy as np
import pytest

from calib import controls
from calib.draw import draw
from calib.pool import Pool, Tokens

VOCABULARY = list(range(3, 260))


def decode(ids: list[int]) -> str:
    return " ".join(map(str, ids))


def test_random_tokens_are_the_same_everywhere_and_uniform() -> None:
    ids = controls.random_tokens(VOCABULARY, 64, 40)
    assert ids.shape == (40, 128)
    assert ids[0, :6].tolist() == FIRST
    counts = np.bincount(ids.ravel(), minlength=260)
    assert counts[:3].sum() == 0
    expected = ids.size / len(VOCABULARY)
    chi2 = ((counts[3:] - expected) ** 2 / expected).sum()
    assert chi2 < len(VOCABULARY) + 5 * (2 * len(VOCABULARY)) ** 0.5


FIRST = [98, 92, 175, 213, 75, 104]


@pytest.mark.parametrize("sampler", ["stream", "document"])
def test_windows_of_random_tokens_are_windows_of_the_ids(sampler: str) -> None:
    ids = controls.random_tokens(VOCABULARY, 16, 30)
    pool, tokens = controls.random_pool(ids, decode)
    rows = {decode(row): row for row in ids.tolist()}
    assert sorted(rows) == sorted(pool.texts)
    drawn = draw(tokens, sampler, 8, 16, 0)  # type: ignore[arg-type]
    for window, pieces in zip(drawn.input_ids.tolist(), drawn.windows, strict=True):
        joined = [
            token
            for document, first, count in pieces
            for token in rows[pool.texts[list(pool.ids).index(document)]][first : first + count]
        ]
        assert joined == window


def test_ellipses_fill_as_many_windows_as_there_are_documents() -> None:
    texts = controls.ellipses(64, lambda text: len(text) // 10, 20)
    assert set("".join(texts)) == {" ", "."}
    tokens = Tokens.of(Pool.of(texts, 99), lambda batch: [[1] * (len(t) // 10) for t in batch], "")
    assert len(tokens.documents) == 20
    assert draw(tokens, "document", 20, 64, 0).input_ids.shape == (20, 64)
