"""Do intervals and verdicts keep their promises? `python -m tests.bench.statistics`.

Simulates data with known truth, with effects of documents, of datasets on documents, of draws, and
of draws on documents, and prints how often intervals cover it and verdicts err.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np

from analysis.blocks import Array, Block, Documents
from analysis.estimate import Estimate, estimates
from analysis.gaps import best_set, fit, gap
from analysis.spread import noise, pool
from analysis.verdict import judge_family
from tests.analysis.simulated import RareChanges, Truth

DRAWS = (2, 3, 5, 20)
DATASETS, SETTINGS = 4, 6
TRUTHS = {
    "as it is found": Truth(),
    "no effect of draws": Truth(draw=0.0),
    "large effect of draws": Truth(draw=4.0),
    "right or wrong answers": Truth(document=8.0, draw_document=0.0, binary=True),
}


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.statistics", description=__doc__)
    parser.add_argument("--simulations", type=int, default=4000)
    n = parser.parse_args(arguments).simulations
    error = 100 * (0.95 * 0.05 / n) ** 0.5
    print(f"{n:,} simulations a row, {DATASETS} datasets (a true 95 % shows as 95 ± {error:.1f})")
    print("\ncoverage of 95 % intervals: any draw; any draw and new questions; both paired")
    for name, truth in TRUTHS.items():
        for draws in DRAWS:
            print(f"  {name:23}{draws:3} draws {_coverage(replace(truth, draws=draws), n)}")
    print("\nthe same where the draws of one dataset are three times as far apart: a quiet pair, ")
    print("and one with the noisy dataset")
    for draws in DRAWS:
        print(f"  {draws:3} draws {_uneven(Truth(draws=draws, draw=2.0), n)}")
    print(f"\nthe same with {SETTINGS} settings that share the draws, whose effects go together by")
    print("half; first where the datasets are alike; and how often a gap of three standard")
    print("deviations of the draws is found (Holm), in one setting and with the others")
    for draws in DRAWS[:3]:
        for name, noisy in {"alike": 1.0, "one noisy": 3.0}.items():
            print(f"  {draws:3} draws, {name:9} {_crossed(Truth(draws=draws, draw=2.0), noisy, n)}")
    print("\nnothing differs: families with a pair that `differs`, gaps with p < 0.05,")
    print("best sets without a given dataset, which is as good as any")
    for draws in DRAWS:
        for estimand in ("draws", "questions"):
            told = _false_alarms(Truth(draws=draws), n, estimand)
            print(f"  {draws:3} draws, {estimand:9} {told}")
    print("\na true difference of delta: called equivalent; and, of those undecided, found with as")
    print("many draws as they were told")
    for draws in DRAWS[:3]:
        print(f"  {draws:3} draws {_at_delta(Truth(draws=draws), n)}")
    print("\nright or wrong answers of which few change (half of them in all draws): coverage, and")
    print("a difference of delta called equivalent; any draw, and new questions")
    for documents in (20, 100):
        for draws in (1, *DRAWS):
            for changes in (0.3, 1.0, 3.0):
                told = _rare(RareChanges(documents, draws, changes / documents), n)
                print(f"  {documents:3} documents, {draws:2} draws, {changes:3} change {told}")


def _rare(truth: RareChanges, n: int) -> str:
    random, names = np.random.default_rng(0), ("draws", "questions")[: 1 + (truth.draws > 1)]
    covers, equivalent = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for _ in range(n):
        (a, b), here = truth.sample(random)
        blocks = _difference(*(Block(y.mean(1), y) for y in (a, b)))
        for name, e in zip(names, estimates(blocks, truth.answers), strict=True):
            wanted = here if e.estimand == "draws" else truth.mean
            covers[name] += _covers(e, wanted)
            (verdict,) = judge_family([e], wanted, truth.documents)
            equivalent[name] += verdict.verdict == "equivalent"
    return f"{_percent(covers, n)}  equivalent{_percent(equivalent, n)}"


def _documents(truth: Truth) -> Documents:
    """Two tasks of unequal size."""
    tasks = (np.arange(truth.documents) >= truth.documents // 3).astype(np.int64)
    return Documents(tasks, np.array([0.5, 0.5]), np.full(2, 100.0 * truth.binary))


def _simulate(
    truth: Truth, effects: Array, n: int, equal: bool = False, noise: float | Array = 1.0
) -> Iterator[tuple[list[Block], Documents, Array]]:
    """For each simulation a block of each dataset, and the scores expected on its documents.

    Args:
        equal: do datasets differ on single documents, but not on the whole?
    """
    random = np.random.default_rng(0)
    documents = _documents(truth)
    for _ in range(n):
        fixed = truth.fixed(len(effects), random)
        if equal:
            fixed[1:] -= (fixed[1:] @ documents.each)[:, None]
        y, _ = truth.sample(effects, random, fixed, noise)
        expected = effects + (fixed[0] + fixed[1:]) @ documents.each
        yield [Block(d @ documents.each, d) for d in y], documents, expected


def _difference(a: Block, b: Block) -> list[Block]:
    assert b.documents is not None
    return [a, Block(-b.scores, -b.documents)]


def _covers(e: Estimate, wanted: float) -> bool:
    low, high = e.interval()
    return bool(low <= wanted <= high)


def _percent(counts: dict[str, int], n: int) -> str:
    return "".join(f"  {name} {100 * count / n:5.1f}" for name, count in counts.items())


def _coverage(truth: Truth, n: int) -> str:
    hits = {"draws": 0, "questions": 0, "paired": 0, "paired questions": 0}
    for blocks, documents, expected in _simulate(truth, np.array([55.0, 50, 50, 50]), n):
        spread = pool(blocks, documents)
        for e in estimates(_difference(blocks[0], blocks[1]), documents, spread):
            wanted = expected[0] - expected[1] if e.estimand == "draws" else 5.0
            hits[e.estimand] += _covers(e, wanted)
        a, b = blocks[2], blocks[3]
        assert a.documents is not None
        assert b.documents is not None
        paired = Block(a.scores - b.scores, a.documents - b.documents)
        here, new = estimates([paired], documents)
        hits["paired"] += _covers(here, expected[2] - expected[3])
        hits["paired questions"] += _covers(new, 0.0)
    return _percent(hits, n)


def _uneven(truth: Truth, n: int) -> str:
    hits = {"quiet": 0, "noisy": 0}
    noise = np.array([1.0, 1, 1, 3])
    for blocks, documents, expected in _simulate(truth, np.full(4, 50.0), n, noise=noise):
        spread = pool(blocks, documents)
        for name, (i, j) in {"quiet": (0, 1), "noisy": (2, 3)}.items():
            e = estimates(_difference(blocks[i], blocks[j]), documents, spread)[0]
            hits[name] += _covers(e, expected[i] - expected[j])
    return _percent(hits, n)


def _crossed(truth: Truth, noisy: float, n: int) -> str:
    found = {"quiet": 0, "noisy": 0, "found alone": 0, "found": 0}
    scale, random = np.array([1.0, 1, 1, noisy]), np.random.default_rng(2)
    sd = (truth.draw**2 + truth.draw_document**2 * (_documents(truth).each ** 2).sum()) ** 0.5
    effects = np.array([50.0 + 3 * sd, 50, 50, 50])
    half = replace(truth, draw=truth.draw / 2**0.5)
    for _ in range(n):
        shared = random.normal(size=(DATASETS, truth.draws)) * half.draw * scale[:, None]
        fixed = truth.fixed(DATASETS, random)
        documents = _documents(truth)
        fixed[1:] -= (fixed[1:] @ documents.each)[:, None]
        settings = [
            half.sample(effects, random, fixed, scale)[0] + shared[:, :, None]
            for _ in range(SETTINGS)
        ]
        scores = np.stack([y @ documents.each for y in settings], 1)
        blocks = [Block(d @ documents.each, d) for d in settings[0]]
        spread = pool(blocks, documents, noise(list(scores)))
        for name, (i, j) in {"quiet": (0, 1), "noisy": (2, 3)}.items():
            e = estimates(_difference(blocks[i], blocks[j]), documents, spread)[0]
            found[name] += _covers(e, effects[i] - effects[j])
        for name, shares in {"found alone": pool(blocks, documents), "found": spread}.items():
            every = [
                estimates(_difference(a, b), documents, shares)[0]
                for a, b in combinations(blocks, 2)
            ]
            found[name] += judge_family(every, 1e-9, truth.documents)[0].verdict == "differs"
    return _percent(found, n)


def _false_alarms(truth: Truth, n: int, estimand: str) -> str:
    wrong = {"pairs": 0, "gap": 0, "best": 0}
    effects = np.full(DATASETS, 50.0)
    # equal on these questions, or equal over all questions that there could be
    for blocks, documents, _ in _simulate(truth, effects, n, equal=estimand == "draws"):
        spread = pool(blocks, documents)
        every = [
            e
            for a, b in combinations(blocks, 2)
            for e in estimates(_difference(a, b), documents, spread)
        ]
        found = [e for e in every if e.estimand == estimand]
        verdicts = judge_family(found, 1e-9, truth.documents)
        wrong["pairs"] += any(v.verdict == "differs" for v in verdicts)
        fitted = fit(blocks, documents, estimand)
        assert fitted is not None
        wrong["gap"] += gap(fitted).p < 0.05
        wrong["best"] += not best_set(fitted)[0]  # any is the best of equals
    return _percent(wrong, n)


def _at_delta(truth: Truth, n: int) -> str:
    delta, random = 3.0, np.random.default_rng(1)
    equivalent, told, found = 0, 0, 0
    for blocks, documents, _ in _simulate(truth, np.array([50.0, 50 + delta]), n, equal=True):
        e = estimates(_difference(*blocks), documents, pool(blocks, documents))[0]
        (verdict,) = judge_family([e], delta, truth.documents)
        equivalent += verdict.verdict == "equivalent"
        if verdict.verdict == "undecided" and verdict.draws_needed:
            told += 1
            more = replace(truth, draws=max(verdict.draws_needed, truth.draws))
            sd = (more.draw**2 + more.draw_document**2 * (documents.each**2).sum()) ** 0.5
            scores = random.normal(scale=sd, size=(2, more.draws)) + np.array([[0], [delta]])
            again = [Block(scores[0]), Block(-scores[1])]
            found += estimates(again, None)[0].p < 0.05
    share = f"{100 * found / told:5.1f} (of {told:,})" if told else "    - (none)"
    return f"  equivalent {100 * equivalent / n:5.1f}  found {share}"


if __name__ == "__main__":
    main()
