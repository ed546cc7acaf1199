"""A draw depends on the pool and the seed alone, and sizes nest."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from calib.draw import CalibrationSet, Sampler, TooLittleTextError, draw
from calib.pool import Tokens

SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
SEQLEN = 16


def tokens_of(lengths: list[int]) -> Tokens:
    """Documents of the given lengths; every token of the whole is another number."""
    ends = np.cumsum(lengths, dtype=np.int64)
    ids = np.arange(1000, 1000 + sum(lengths), dtype=np.int32)
    return Tokens(ids, ends, [f"{i:032x}" for i in range(len(lengths))])


TOKENS = tokens_of([0, 20, 3, 0, 0, 40, 16, *[17 + i % 9 for i in range(200)], 0])


def starts(drawn: CalibrationSet) -> list[int]:
    return [int(row[0]) - 1000 for row in drawn.input_ids]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_draw_has_the_shape_that_was_asked_for(sampler: Sampler) -> None:
    drawn = draw(TOKENS, sampler, 24, SEQLEN, 0)
    assert drawn.input_ids.shape == (24, SEQLEN)
    assert drawn.input_ids.dtype == np.int32


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_smaller_size_is_a_prefix_of_a_larger_one(sampler: Sampler) -> None:
    large = draw(TOKENS, sampler, 128, SEQLEN, 7)
    small = draw(TOKENS, sampler, 64, SEQLEN, 7)
    assert np.array_equal(small.input_ids, large.input_ids[:64])
    assert small.windows == large.windows[:64]


def test_golden_starts() -> None:
    assert starts(draw(TOKENS, "stream", 5, SEQLEN, 5)) == [1830, 2557, 3460, 1736, 3645]
    assert starts(draw(TOKENS, "document", 5, SEQLEN, 5)) == [1025, 533, 2465, 3481, 157]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_seeds_differ_and_repeat(sampler: Sampler) -> None:
    drawn = [starts(draw(TOKENS, sampler, 32, SEQLEN, seed)) for seed in (0, 1, 5, 0)]
    assert drawn[0] == drawn[3]
    assert len({tuple(d) for d in drawn}) == 3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_pieces_of_a_window_give_its_tokens(sampler: Sampler) -> None:
    drawn = draw(TOKENS, sampler, 64, SEQLEN, 3)
    firsts = dict(zip(TOKENS.documents, [0, *TOKENS.ends[:-1]], strict=True))
    lasts = dict(zip(TOKENS.documents, TOKENS.ends, strict=True))
    for row, pieces in zip(drawn.input_ids, drawn.windows, strict=True):
        spans = [(firsts[d] + offset, firsts[d] + offset + n) for d, offset, n in pieces]
        assert np.concatenate([TOKENS.ids[a:b] for a, b in spans]).tolist() == row.tolist()
        assert all(n > 0 for _, _, n in pieces)
        assert all(b <= lasts[d] for (_, b), (d, _, _) in zip(spans, pieces, strict=True))


def test_a_window_of_the_document_sampler_lies_in_one_long_document_of_its_own() -> None:
    drawn = draw(TOKENS, "document", 100, SEQLEN, 0)
    assert all(len(pieces) == 1 for pieces in drawn.windows)
    assert len({pieces[0][0] for pieces in drawn.windows}) == 100


def test_the_order_of_documents_does_not_matter_to_the_document_sampler() -> None:
    lengths, names = np.diff(TOKENS.ends, prepend=0)[::-1], list(reversed(TOKENS.documents))
    parts = np.split(TOKENS.ids, TOKENS.ends[:-1])[::-1]
    turned = Tokens(np.concatenate(parts), np.cumsum(lengths), names)
    same = draw(turned, "document", 50, SEQLEN, 0)
    assert np.array_equal(same.input_ids, draw(TOKENS, "document", 50, SEQLEN, 0).input_ids)


def test_stream_windows_lie_anywhere() -> None:
    tokens = tokens_of([100_000])
    found = starts(draw(tokens, "stream", 2000, SEQLEN, 0))
    counts = np.histogram(found, 10, (0, 100_000))[0]
    assert counts.min() > 150
    assert counts.max() < 250


def test_a_pool_of_just_enough_text_is_used_to_its_ends() -> None:
    tokens = tokens_of([5, 0, 11])
    drawn = draw(tokens, "stream", 1, SEQLEN, 0)
    assert drawn.input_ids.tolist() == [tokens.ids.tolist()]
    assert [n for _, _, n in drawn.windows[0]] == [5, 11]
    assert starts(draw(tokens_of([SEQLEN]), "document", 1, SEQLEN, 0)) == [0]


def test_too_little_text_is_refused_with_numbers() -> None:
    with pytest.raises(TooLittleTextError, match=r"1,999 tokens, and size 125 x seqlen 16 .*2,000"):
        draw(tokens_of([1999]), "stream", 125, SEQLEN, 0)


def test_too_few_long_documents_are_refused_with_numbers() -> None:
    with pytest.raises(TooLittleTextError, match=r"2 documents .* 16 tokens or more.* needs 3"):
        draw(tokens_of([15, 16, 17, 0]), "document", 3, SEQLEN, 0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_pool_without_documents_is_refused(sampler: Sampler) -> None:
    with pytest.raises(TooLittleTextError):
        draw(tokens_of([]), sampler, 1, SEQLEN, 0)


def test_a_calibration_set_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    drawn = draw(TOKENS, "stream", 8, SEQLEN, 0)
    kept = CalibrationSet(drawn.input_ids, drawn.windows, {"seed": 0})
    kept.save(tmp_path)
    again = CalibrationSet.load(tmp_path)
    assert np.array_equal(again.input_ids, kept.input_ids)
    assert (again.windows, again.manifest) == (kept.windows, kept.manifest)
