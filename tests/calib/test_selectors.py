"""The contract of every selector, and what each chooses."""

from __future__ import annotations

import random

import pytest

from calib.pool import Pool
from calib.selectors import SELECTORS, Context
from calib.shingles import words

REFERENCE = Pool.of([f"reference document {i} says what number {i} says" for i in range(30)], 99)


def made(count: int, seed: int = 0) -> list[str]:
    choose = random.Random(seed)
    return [" ".join(f"w{choose.randrange(50)}" for _ in range(20)) for _ in range(count)]


def perplexities(texts: object) -> list[float]:
    return [float(len(set(words(text)))) for text in texts]  # type: ignore[attr-defined]


def choose(name: str, pool: Pool, documents: int) -> list[str]:
    context = Context(reference=lambda: REFERENCE, perplexities=perplexities)
    indices = SELECTORS[name].load()(pool, documents, context)
    assert len(set(indices)) == len(indices)
    return [pool.texts[i] for i in indices]


@pytest.mark.parametrize("name", SELECTORS)
class TestContract:
    def test_it_chooses_as_many_as_are_wanted(self, name: str) -> None:
        pool = Pool.of(made(40), 99)
        for documents in (1, 7, 40):
            assert len(choose(name, pool, documents)) == documents

    def test_the_order_of_texts_does_not_matter(self, name: str) -> None:
        texts = [*made(40), *REFERENCE.texts[:3]]
        pools = [Pool.of(random.Random(turn).sample(texts, 43), 99) for turn in range(2)]
        assert choose(name, pools[0], 10) == choose(name, pools[1], 10)

    def test_choices_nest(self, name: str) -> None:
        pool = Pool.of(made(40), 99)
        assert choose(name, pool, 20)[:10] == choose(name, pool, 10)

    def test_empty_words_are_no_obstacle(self, name: str) -> None:
        pool = Pool.of(["...", "!", "a", "a b c d e", "- -"], 99)
        assert sorted(choose(name, pool, 5)) == sorted(pool.texts)


def test_perplexity_ranks_from_either_end() -> None:
    pool = Pool.of(made(40), 99)
    scores = sorted(perplexities(pool.texts))
    assert perplexities(choose("least_perplexity", pool, 9)) == scores[:9]
    assert perplexities(choose("most_perplexity", pool, 9)) == scores[::-1][:9]


def test_nearest_and_farthest_are_opposite() -> None:
    near = [text + " indeed" for text in REFERENCE.texts[:5]]
    middle = [f"{' '.join(REFERENCE.texts[9].split()[:4])} {text}" for text in made(5, 1)]
    pool = Pool.of([*near, *middle, *made(20, 2)], 99)
    assert set(choose("nearest", pool, 5)) == set(near)
    assert set(choose("nearest", pool, 10)) == {*near, *middle}
    assert set(choose("farthest", pool, 20)) == {*made(20, 2)}


def test_zipcal_is_greedy_for_new_words() -> None:
    pool = Pool.of(made(60), 99)
    seen: set[str] = set()
    left = list(pool.texts)
    for text in choose("zipcal", pool, 8):
        assert len(set(words(text)) - seen) == max(len(set(words(t)) - seen) for t in left)
        seen |= set(words(text))
        left.remove(text)
    drawn = set(words(" ".join(pool.texts[:8])))
    assert len(seen) > len(drawn)


def test_zipcal_starts_anew_when_every_word_is_seen() -> None:
    pool = Pool.of(["a b c", "a b", "c", "a b c d"], 99)
    assert choose("zipcal", pool, 4)[:2] == ["a b c d", "a b c"]
