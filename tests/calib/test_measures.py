"""Measures of two pools, document by document and as a whole."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from calib.measures import MEASURES, Corpora, aggregations
from calib.pool import Document, Pool
from calib.shingles import words


def text(seed: object, count: int = 60, vocabulary: int = 10_000) -> str:
    choose = random.Random(str(seed))
    return " ".join(f"w{choose.randrange(vocabulary)}" for _ in range(count))


def corpus(seed: object, documents: int) -> Pool:
    return Pool.of([text(f"{seed} {i}") for i in range(documents)], documents)


REFERENCE = corpus("r", 40)


def grams(one: str, n: int = 3) -> set[tuple[str, ...]]:
    own = words(one)
    return {tuple(own[i : i + n]) for i in range(len(own) - n + 1)}


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_is_finite_and_the_same_in_any_order(name: str) -> None:
    addressed = [Document(t, f"http://{i % 7}.org") for i, t in enumerate(corpus("c", 30).texts)]
    known = [Document(t, f"http://{i % 3}.org") for i, t in enumerate(REFERENCE.texts)]
    found = [
        MEASURES[name](
            Corpora(
                Pool.collect(random.Random(turn).sample(addressed, 30), 99),
                Pool.collect(random.Random(turn).sample(known, 40), 99),
                permutations=128,
            )
        )
        for turn in range(2)
    ]
    assert found[0] == found[1]
    assert all(0 <= v.value <= 1 and v.stderr >= 0 and v.n > 0 for v in found[0].values())
    assert found[0]


def test_nearest_finds_the_copies() -> None:
    copies = [one + " end" for one in REFERENCE.texts[:10]]
    both = Corpora(Pool.of([*copies, *corpus("c", 30).texts], 40), REFERENCE)
    found = MEASURES["nearest"](both)["nearest"]
    assert found.value == pytest.approx(10 * (58 / 59) / 40, abs=1e-12)
    assert found.n == 40
    assert 0.05 < found.stderr < 0.09
    rows = {row["document"]: row for row in both.neighbours}
    for copy, original in zip(copies, REFERENCE.texts, strict=False):
        row = rows[Pool.of([copy], 1).ids[0]]
        assert row["nearest"] == Pool.of([original], 1).ids[0]
        assert row["jaccard"] == len(grams(copy) & grams(original)) / len(
            grams(copy) | grams(original)
        )


def test_containment_finds_quotations_that_jaccard_cannot() -> None:
    short = [" ".join(one.split()[10:40]) for one in REFERENCE.texts[:10]]
    both = Corpora(Pool.of([*short, *corpus("c", 10).texts], 40), REFERENCE)
    found = MEASURES["containment"](both)
    assert found["document_containment"].value == pytest.approx(0.5)
    common = set().union(*map(grams, both.candidate.texts))
    known = set().union(*map(grams, REFERENCE.texts))
    whole = Corpora(both.candidate, REFERENCE, units=10**9).comparison
    assert whole.units == 900
    assert 0 < found["containment"].value <= len(common & known) / 300


def test_texts_too_short_for_a_gram_have_no_neighbour() -> None:
    both = Corpora(Pool.of(["a", "b c"], 2), REFERENCE)
    assert MEASURES["nearest"](both)["nearest"].value == 0
    assert [row["nearest"] for row in both.neighbours] == [None, None]


def test_aggregation_is_the_share_of_repeated_grams() -> None:
    texts = [text(1, 30, 3), "a b c d a b c d a b c d", "too short", text(2)]
    plain = []
    for one in texts:
        own = words(one)
        all_ = [tuple(own[i : i + 4]) for i in range(len(own) - 3)]
        if all_:
            plain.append(1 - len(set(all_)) / len(all_))
    assert aggregations(texts) == pytest.approx(plain)
    assert plain[1] == pytest.approx(5 / 9)
    found = MEASURES["aggregation"](Corpora(Pool.of(texts, 9), REFERENCE))["aggregation"]
    assert found.value == pytest.approx(fmean(plain))


def test_domains_are_shared_by_host() -> None:
    ours = [Document("a", "http://x.org/1"), Document("b", "https://www.y.org"), Document("c")]
    theirs = [Document("d", "http://www.x.org/2"), Document("e", "http://z.org")]
    found = MEASURES["domains"](Corpora(Pool.collect(ours, 9), Pool.collect(theirs, 9)))
    assert (found["domain_overlap"].value, found["domain_overlap"].n) == (0.5, 2)
    assert MEASURES["domains"](Corpora(Pool.of(["a"], 1), Pool.collect(theirs, 9))) == {}
