"""Similarities against plain set arithmetic, planted overlaps and their own standard errors."""

from __future__ import annotations

import math
import random
import re
import statistics
from collections.abc import Sequence

import numpy as np
import pytest

from calib.pool import Pool
from calib.samples import READ_AT_ONCE, sides
from calib.shingles import unit_hashes, word_hashes, words
from calib.similarity import compare, exact, minhash

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

    def split(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        asked.extend(texts)
        return word_hashes(texts)

    compare(corpus("a", 2000), corpus("b", 300), 3, 130, split)
    assert len(asked) == 2 * READ_AT_ONCE


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
    mixed = Pool.of([*candidate.texts, *both.texts], MANY)
    other = Pool.of([*reference.texts, *both.texts], MANY)
    left, right = sides(mixed.ids, other.ids)
    ours, theirs = {mixed.ids[i] for i in left}, {other.ids[i] for i in right}
    assert not ours & theirs
    assert ours | theirs == set(mixed.ids) | set(other.ids)
    assert {*candidate.ids} <= ours
    assert {*reference.ids} <= theirs


def test_the_reference_against_itself_is_the_ceiling() -> None:
    reference = corpus("r", 200)
    left, right = sides(reference.ids, reference.ids)
    assert sorted([*left, *right]) == list(range(200))
    assert 60 < len(left) < 140
    ceiling = exact(compare(reference, reference, 3, 4000))["jaccard"].value
    near = Pool.of([*corpus("n", 100).texts, *corpus("f", 100, vocabulary=90).texts], MANY)
    assert 0 < exact(compare(near, reference, 3, 4000))["jaccard"].value < ceiling < 1


def test_the_order_of_documents_does_not_matter() -> None:
    candidate, reference = corpus("a", 20), corpus("b", 20)
    turned = Pool(candidate.ids[::-1], candidate.texts[::-1])
    found, again = compare(candidate, reference, 3, MANY), compare(turned, reference, 3, MANY)
    assert np.array_equal(found.candidate.grams, again.candidate.grams)
    assert exact(found)["jaccard"].value == exact(again)["jaccard"].value


@pytest.mark.parametrize("one", ["", "two words"])
def test_too_little_text_is_refused(one: str) -> None:
    with pytest.raises(ValueError, match=r"too little text for 3-grams: [02] words"):
        compare(Pool.of([one], 1), corpus("b", 5), 3, MANY)


def test_other_units_than_words_may_be_compared() -> None:
    def split(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        joined = np.frombuffer("".join(texts).encode(), np.uint8)
        return unit_hashes(joined), np.array([len(text) for text in texts])

    comparison = compare(corpus("a", 5), corpus("b", 5), 2, MANY, split)
    assert comparison.units > 300
    assert exact(comparison)["jaccard"].value > 0.5


def test_documents_may_be_left_out_of_the_reference() -> None:
    candidate, reference = corpus("a", 30), corpus("b", 30)
    gone = set(reference.ids[::2])
    rest = reference.only([i for i, d in enumerate(reference.ids) if d not in gone])
    left_out = compare(candidate, reference, 3, MANY, without=gone)
    assert np.array_equal(
        left_out.reference.grams, compare(candidate, rest, 3, MANY).reference.grams
    )


# -- standard errors


def passages(turn: int, side: str, documents: int) -> list[str]:
    """Documents of two kinds that quote common passages, some of them often."""
    choose = random.Random(f"{turn} {side}")
    quotes = [text(f"quote {i}", 12, 5000) for i in range(300)]
    made = []
    for _ in range(documents):
        own = [f"{side}{choose.randrange(10**9)}" for _ in range(choose.choice([40, 80, 400]))]
        if choose.random() < 0.4:
            own += quotes[min(int(choose.expovariate(0.02)), 299)].split()
        made.append(" ".join(own))
    return made


@pytest.mark.parametrize("documents", [100, 400])
def test_the_standard_error_is_the_spread_of_replicate_samples(documents: int) -> None:
    found = []
    for turn in range(40):
        pools = [Pool.of(passages(turn, side, documents), MANY) for side in "ab"]
        found.append(exact(compare(*pools, 3, documents * 100))["jaccard"])
    spread = statistics.stdev(value.value for value in found)
    claimed = statistics.mean(value.stderr for value in found)
    assert 0.75 < claimed / spread < 1.75


def leave_one_out(samples: list[tuple[list[str], list[str]]]) -> float:
    """The jackknife of Jaccard over disjoint samples, by sets that are made anew each time."""

    def jaccard(one: list[str], other: list[str]) -> float:
        a, b = grams(one, 3), grams(other, 3)
        return len(a & b) / len(a | b)

    variance = 0.0
    for side in (0, 1):
        losses, lengths = [], []
        for pair in samples:
            whole = jaccard(*pair)
            for i, left_out in enumerate(pair[side]):
                rest = [*pair[side][:i], *pair[side][i + 1 :]]
                losses.append(
                    whole - (jaccard(rest, pair[1]) if side == 0 else jaccard(pair[0], rest))
                )
                lengths.append(len(words(left_out)))
        rate, total, count = sum(losses) / sum(lengths), sum(lengths), len(lengths)
        for loss, length in zip(losses, lengths, strict=True):
            other = (loss - rate * length) / (1 - length / total)
            variance += other**2 * (1 - 1 / count) / len(samples)
    return math.sqrt(variance)


def test_the_standard_error_leaves_out_each_document_of_disjoint_samples() -> None:
    asked: list[str] = []

    def split(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        asked.extend(texts)
        return word_hashes(texts)

    pools = [corpus(name, 130, vocabulary=10) for name in "ab"]
    comparison = compare(*pools, 3, 60 * 40, split)
    assert len(comparison.replicates) == 130 // 40 - 1
    assert len(asked) == len(set(asked)) == 260
    parts = [[list(p.texts[40 * i : 40 * (i + 1)]) for p in pools] for i in range(3)]
    plain = leave_one_out([(a, b) for a, b in parts])
    assert exact(comparison)["jaccard"].stderr == pytest.approx(plain, rel=1e-9)


def test_a_long_document_does_not_explain_itself_away() -> None:
    """One document of another kind that is four fifths of its side: what it would be without it."""
    small = [text(f"a{i}", 40, 12) for i in range(10)]
    one = Pool.of([*small, text("long", 1600, 10**6)], MANY)
    other = Pool.of([text(f"b{i}", 200, 12) for i in range(10)], MANY)
    found = exact(compare(one, other, 3, MANY))["jaccard"]
    without = exact(compare(Pool.of([t * 5 for t in small], MANY), other, 3, MANY))["jaccard"]
    assert abs(found.value - without.value) < 3 * found.stderr


@pytest.mark.parametrize("share", [0.02, 0.2, 0.6])
def test_planted_overlaps_are_within_three_standard_errors(share: float) -> None:
    """Documents of words of their own, of which a known share are in both, in other clothes."""
    kept, within = round(100 * share), 0
    for turn in range(25):
        names = random.Random(f"{share} {turn}")
        lengths = [names.choice([10, 30, 200]) for _ in range(100)]
        lengths += lengths[kept:]
        texts = [" ".join(f"{turn}x{i}x{k}" for k in range(n)) for i, n in enumerate(lengths)]
        one = Pool.of(texts[:100], MANY)
        other = Pool.of([*(f"«{t}»" for t in texts[:kept]), *texts[100:]], MANY)
        sizes = [n - 2 for n in lengths]
        true = sum(sizes[:kept]) / sum(sizes)
        comparison = compare(one, other, 3, MANY)
        found = minhash(comparison, 512, seed=turn)
        within += abs(found.value - true) <= 3 * found.stderr
    assert within == 25


def test_one_document_a_side_has_no_standard_error() -> None:
    found = exact(compare(Pool.of(["a b c d"], 1), Pool.of(["a b c e"], 1), 3, MANY))["jaccard"]
    assert found.value == 1 / 3
    assert math.isnan(found.stderr)


def test_nothing_in_common_is_known_to_one_gram() -> None:
    one = corpus("a", 20)
    other = Pool.of([t.replace("w", "v") for t in one.texts], 20)
    found = exact(compare(one, other, 3, MANY))["jaccard"]
    assert (found.value, found.stderr) == (0, 1 / found.n)


# -- MinHash


@pytest.mark.parametrize("vocabulary", [8, 12, 30])
def test_minhash_is_within_its_standard_error_of_exact(vocabulary: int) -> None:
    comparison = compare(
        corpus("a", 20, vocabulary=vocabulary), corpus("b", 20, vocabulary=vocabulary), 3, MANY
    )
    true, estimate = exact(comparison)["jaccard"].value, minhash(comparison, 4096)
    of_sketch = math.sqrt(estimate.value * (1 - estimate.value) / 4096)
    assert of_sketch < estimate.stderr
    assert abs(estimate.value - true) < 4 * of_sketch


def test_minhash_is_that_of_datasketch() -> None:
    import datasketch

    comparison = compare(corpus("a", 10), corpus("b", 10), 3, MANY)
    plain = []
    for side in (comparison.candidate, comparison.reference):
        hashes = side.grams.tolist()
        plain.append(datasketch.MinHash(1024, hashfunc=lambda gram: gram & 0xFFFFFFFF))
        plain[-1].update_batch(hashes)
    assert minhash(comparison, 1024).value == plain[0].jaccard(plain[1])
