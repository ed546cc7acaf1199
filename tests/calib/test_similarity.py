"""Similarities against plain set arithmetic, planted overlaps and their own standard errors."""

from __future__ import annotations

import math
import random
import re
import statistics

import numpy as np
import pytest

from calib.pool import Pool
from calib.similarity import CANDIDATE, REFERENCE, compare, exact, minhash, nearest, sides, words

MANY = 10**9


def text(seed: object, count: int, vocabulary: int) -> str:
    choose = random.Random(str(seed))
    return " ".join(f"w{choose.randrange(vocabulary)}" for _ in range(count))


def corpus(seed: object, documents: int, count: int = 60, vocabulary: int = 40) -> Pool:
    return Pool.of([text(f"{seed} {i}", count, vocabulary) for i in range(documents)], documents)


def grams(texts: list[str], n: int, units: int = MANY) -> set[tuple[str, ...]]:
    """The n-grams of the first `units` words, as plainly as can be."""
    found: set[tuple[str, ...]] = set()
    for one in texts:
        own = re.findall(r"\w+", one.lower())[:units]
        units -= len(own)
        found |= {tuple(own[i : i + n]) for i in range(len(own) - n + 1)}
    return found


def test_words_are_lower_cased_runs_of_letters_and_digits() -> None:
    assert words("Don't STOP: Ünïcode_2, naïve—3.5") == [
        "don", "t", "stop", "ünïcode_2", "naïve", "3", "5",
    ]  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("units", [MANY, 700])
def test_exact_equals_sets(n: int, units: int) -> None:
    candidate, reference = corpus("a", 30), corpus("b", 20)
    comparison = compare(candidate, reference, n, units)
    a = grams(candidate.texts, n, comparison.units)
    b = grams(reference.texts, n, comparison.units)
    found = exact(comparison)
    assert found["jaccard"].value == len(a & b) / len(a | b)
    assert found["containment"].value == len(a & b) / len(a)
    assert found["jaccard"].n == len(a | b)


def test_both_sides_have_the_same_number_of_units() -> None:
    assert compare(corpus("a", 30), corpus("b", 20), 3, MANY).units == 20 * 60
    assert compare(corpus("a", 30), corpus("b", 20), 3, 1000).units == 1000


def test_no_text_is_split_beyond_the_cut() -> None:
    asked: list[str] = []

    def split(one: str) -> list[str]:
        asked.append(one)
        return words(one)

    compare(corpus("a", 30), corpus("b", 20), 3, 130, split)
    assert len(asked) == 2 * 3


@pytest.mark.parametrize("shared", [0, 10, 100, 300])
def test_a_planted_overlap_is_found(shared: int) -> None:
    """Texts of 3 words, all different: a text is a gram."""

    def plain(names: list[str]) -> Pool:
        return Pool.of([f"{name} x y" for name in names], MANY)

    # shared grams, in documents that differ by a word too many for them to be the same document
    both = [f"s{i}" for i in range(shared)]
    candidate = Pool.of([*plain([f"a{i}" for i in range(400 - shared)]).texts], MANY)
    reference = Pool.of([*plain([f"b{i}" for i in range(400 - shared)]).texts], MANY)
    candidate = Pool.of([*candidate.texts, *(f"{s} x y" for s in both)], MANY)
    reference = Pool.of([*reference.texts, *(f"{s} X y." for s in both)], MANY)
    jaccard = exact(compare(candidate, reference, 3, MANY))["jaccard"].value
    assert jaccard == shared / (800 - shared)


def test_a_document_in_both_pools_is_on_one_side() -> None:
    candidate, reference = corpus("a", 40), corpus("b", 40)
    both = corpus("c", 40)
    left, right = sides(
        mixed := Pool.of([*candidate.texts, *both.texts], MANY),
        other := Pool.of([*reference.texts, *both.texts], MANY),
    )
    ours, theirs = {mixed.ids[i] for i in left}, {other.ids[i] for i in right}
    assert not ours & theirs
    assert ours | theirs == set(mixed.ids) | set(other.ids)
    assert {*candidate.ids} <= ours
    assert {*reference.ids} <= theirs


def test_the_reference_against_itself_is_the_ceiling() -> None:
    reference = corpus("r", 200)
    left, right = sides(reference, reference)
    assert sorted([*left, *right]) == list(range(200))
    assert 60 < len(left) < 140
    ceiling = exact(compare(reference, reference, 3, 4000))["jaccard"].value
    near = Pool.of([*corpus("n", 100).texts, *corpus("f", 100, vocabulary=90).texts], MANY)
    assert 0 < exact(compare(near, reference, 3, 4000))["jaccard"].value < ceiling < 1


def test_the_order_of_documents_does_not_matter() -> None:
    candidate, reference = corpus("a", 20), corpus("b", 20)
    turned = Pool(candidate.ids[::-1], candidate.texts[::-1])
    found, again = compare(candidate, reference, 3, MANY), compare(turned, reference, 3, MANY)
    assert np.array_equal(found.hashes, again.hashes)
    assert exact(found)["jaccard"].value == exact(again)["jaccard"].value


@pytest.mark.parametrize("one", ["", "two words"])
def test_too_little_text_is_refused(one: str) -> None:
    with pytest.raises(ValueError, match=r"too little text for 3-grams: [02] words"):
        compare(Pool.of([one], 1), corpus("b", 5), 3, MANY)


def test_other_units_than_words_may_be_compared() -> None:
    comparison = compare(corpus("a", 5), corpus("b", 5), 2, MANY, lambda one: list(one.encode()))
    assert comparison.units > 300
    assert exact(comparison)["jaccard"].value > 0.5


# -- standard errors


def test_the_jackknife_is_about_the_spread_of_replicate_samples() -> None:
    found = []
    for turn in range(60):
        kind = random.Random(turn)  # each document at random of one of two kinds
        one = [text(f"{turn} a {i}", 60, kind.choice([15, 15, 40])) for i in range(60)]
        other = [text(f"{turn} b {i}", 60, kind.choice([15, 60])) for i in range(60)]
        found.append(exact(compare(Pool.of(one, 60), Pool.of(other, 60), 3, MANY))["jaccard"])
    spread = statistics.stdev(value.value for value in found)
    claimed = statistics.mean(value.stderr for value in found)
    assert spread / 2 < claimed < spread * 2


def test_the_groups_of_the_jackknife_hold_equal_text() -> None:
    pools = [corpus(name, 200, vocabulary=10_000) for name in "ab"]
    members = compare(*pools, 3, MANY).members
    sizes = [int((members & (1 << group) != 0).sum()) for group in range(10)]
    assert sizes == [20 * 58] * 10


def test_one_document_a_side_has_no_standard_error() -> None:
    found = exact(compare(Pool.of(["a b c d"], 1), Pool.of(["a b c e"], 1), 3, MANY))["jaccard"]
    assert found.value == 1 / 3
    assert math.isnan(found.stderr)


# -- MinHash


@pytest.mark.parametrize("vocabulary", [8, 12, 30])
def test_minhash_is_within_its_standard_error_of_exact(vocabulary: int) -> None:
    comparison = compare(
        corpus("a", 20, vocabulary=vocabulary), corpus("b", 20, vocabulary=vocabulary), 3, MANY
    )
    true, estimate = exact(comparison)["jaccard"].value, minhash(comparison, 4096)
    assert estimate.stderr == pytest.approx(
        math.sqrt(estimate.value * (1 - estimate.value) / 4096), abs=1e-12
    )
    assert abs(estimate.value - true) < 4 * estimate.stderr


def test_minhash_is_datasketch_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasketch

    class Kept(datasketch.MinHash):
        made: list[Kept] = []

        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            self.made.append(self)

    monkeypatch.setattr("datasketch.MinHash", Kept)
    comparison = compare(corpus("a", 10), corpus("b", 10), 3, MANY)
    value = minhash(comparison, 1024)
    plain = []
    for side in (CANDIDATE, REFERENCE):
        hashes = comparison.hashes[(comparison.members & side) != 0].tolist()
        assert len(hashes) > 2**18 // 1024, "more than one part"
        plain.append(datasketch.MinHash(1024, hashfunc=lambda gram: gram & 0xFFFFFFFF))
        plain[-1].update_batch(hashes)
    for chunked, whole in zip(Kept.made, plain, strict=False):
        assert np.array_equal(chunked.hashvalues, whole.hashvalues)
    assert value.value == plain[0].jaccard(plain[1])


# -- nearest documents


def test_nearest_finds_the_copies() -> None:
    reference = corpus("r", 40, vocabulary=10_000)
    copies = [one + " end" for one in reference.texts[:10]]
    candidate = Pool.of([*copies, *corpus("c", 30, vocabulary=10_000).texts], 40)
    found = nearest(candidate, reference, 3, 100)
    assert found.value == pytest.approx(10 * (58 / 59) / 40, abs=0.01)
    assert found.n == 40
    assert 0.05 < found.stderr < 0.09


def test_nearest_takes_texts_too_short_for_a_gram() -> None:
    candidate = Pool.of(["a", "b c"], 2)
    assert nearest(candidate, corpus("r", 5), 3, 100).value == 0
