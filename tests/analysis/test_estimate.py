"""Intervals hold what they promise, on data with known truth; `tests.bench.statistics` has more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from analysis.blocks import Block, Documents
from analysis.estimate import Estimate, estimates
from analysis.gaps import best_set, fit, gap
from analysis.power import detectable, draws_needed, power
from analysis.shares import shares
from analysis.spread import matched_df, noise, pool
from analysis.verdict import benjamini_hochberg, holm, judge_family
from tests.analysis.simulated import RareChanges, Truth

FEW = 400
"""Simulations: a coverage of 95 % is then found between 91.7 and 98.3 %, three standard errors."""


def one_task(n: int) -> Documents:
    return Documents(np.zeros(n, np.int64), np.ones(1))


def independent(y: np.ndarray) -> list[Block]:
    return [Block(s * d.mean(1), s * d) for s, d in zip((1, -1), y, strict=True)]


@pytest.mark.parametrize("draws", [2, 3, 5, 20])
def test_intervals_cover_the_truth(draws: int) -> None:
    random = np.random.default_rng(draws)
    truth = Truth(draws=draws, documents=60)
    documents = one_task(60)
    covered = dict.fromkeys(("draws", "questions", "paired draws", "paired questions"), 0)
    for _ in range(FEW):
        y, here = truth.sample(np.array([55.0, 50.0]), random)
        paired = Block((y[0] - y[1]).mean(1), y[0] - y[1])
        for kind, blocks in (("", independent(y)), ("paired ", [paired])):
            for e in estimates(blocks, documents):
                low, high = e.interval()
                wanted = here[0] - here[1] if e.estimand == "draws" else 5.0
                covered[kind + e.estimand] += low <= wanted <= high
    least, most = 0.917 * FEW, (0.983 if draws > 2 else 0.995) * FEW
    assert all(least <= n <= most for n in covered.values()), covered


def test_the_interval_over_draws_is_student_s_on_the_scores() -> None:
    a = np.random.default_rng(0).normal(size=5)
    b = 1.2 * a[::-1] - 0.3  # about as far apart
    (e,) = estimates([Block(a), Block(-b)], None)
    wanted = stats.ttest_ind(a, b)
    assert e.p == pytest.approx(wanted.pvalue)
    assert e.interval() == pytest.approx(tuple(wanted.confidence_interval()))
    (paired,) = estimates([Block(a - b)], None)
    assert paired.p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_unequal_variances_are_welch_s() -> None:
    random = np.random.default_rng(1)
    for draws, times in ((9, 20), (3, 1)):  # too far apart to be alike, too few to tell
        a, b = random.normal(size=draws), times * random.normal(size=draws)
        (e,) = estimates([Block(a), Block(-b)], None)
        assert e.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)


@pytest.mark.parametrize("draws", [2, 3, 5, 20])
@pytest.mark.parametrize("noise", [[1, 1, 1, 1], [1, 1, 1, 3], [1, 1, 3, 3]])
def test_intervals_cover_where_datasets_are_unevenly_noisy(draws: int, noise: list[int]) -> None:
    random = np.random.default_rng(draws)
    covered = np.zeros(2)
    for _ in range(FEW):
        blocks = [Block(y) for y in random.normal(size=(4, draws)) * np.array(noise)[:, None]]
        spread = pool(blocks, None)
        for number, (i, j) in enumerate(((0, 1), (2, 3))):
            (e,) = estimates([blocks[i], Block(-blocks[j].scores)], None, spread)
            low, high = e.interval()
            covered[number] += low <= 0 <= high
    assert (covered >= 0.917 * FEW).all(), covered
    assert (covered <= 0.99 * FEW).all(), covered


def test_two_draws_of_arms_alike_have_about_two_degrees_of_freedom() -> None:
    (e,) = estimates([Block(np.array([1.0, 3])), Block(np.array([0.0, 2]))], None)
    assert e.df == 2
    (e,) = estimates([Block(np.array([1.0, 3])), Block(np.array([0.0, 200]))], None)
    assert e.df == pytest.approx(1, abs=1e-3)


def test_one_draw_is_a_claim_about_that_set_alone() -> None:
    random = np.random.default_rng(2)
    y = random.normal(size=(2, 1, 50))
    (e,) = estimates(independent(y), one_task(50))
    assert e.estimand == "sets"
    assert e.p == pytest.approx(stats.ttest_rel(y[0, 0], y[1, 0]).pvalue)


def test_documents_count_by_task() -> None:
    stratum = np.array([0] * 10 + [1] * 40)
    documents = Documents(stratum, np.array([0.5, 0.5]))
    values = np.where(stratum == 0, 3.0, 1.0)[None, :]
    assert (values @ documents.each)[0] == pytest.approx(2.0)
    assert documents.variance_of_mean(values) == 0  # tasks are fixed: they are no noise


def test_draws_that_tie_by_chance_are_no_certainty() -> None:
    random = np.random.default_rng(3)
    base = (random.random(100) < 0.5) * 100.0
    y = np.stack([[random.permutation(base), random.permutation(base)] for _ in range(2)])
    assert np.ptp(y.mean(2)) == 0
    for e in estimates(independent(y), one_task(100)):
        assert e.stderr > 1


@pytest.mark.parametrize("outcomes", [False, True])
def test_measured_draws_that_tie_decide_nothing(outcomes: bool) -> None:
    by_window = np.tile(np.random.default_rng(5).normal(size=50), (3, 1)) if outcomes else None
    for a, b in ((2.0, 2.0), (2.0, 1.0), (2.0 + 1e-15, 2.0)):  # level, apart, apart by rounding
        blocks = [
            Block(sign * np.full(3, score), None if by_window is None else sign * by_window)
            for sign, score in ((1, a), (-1, b))
        ]
        found = estimates(blocks, one_task(50) if outcomes else None)
        assert len(found) == 1 + outcomes
        for e in found:
            assert e.tied
            assert e.interval() == (-math.inf, math.inf)
            (verdict,) = judge_family([e], 5.0, 50 if outcomes else None)
            assert (verdict.verdict, verdict.p, verdict.p_equivalent) == ("undecided", 1, 1)
            assert (verdict.draws_needed, verdict.bound_by_documents) == (None, False)
        assert fit([b for b in blocks for _ in range(2)], None, "draws") is None


def test_an_arm_that_ties_is_taken_to_vary_as_the_other_does() -> None:
    moving = np.array([1.0, 2.0, 3.0])
    (e,) = estimates([Block(moving), Block(np.full(3, -2.0))], None)
    assert e.stderr == pytest.approx(math.sqrt(2 / 3))


@pytest.mark.parametrize("draws", [1, 2, 5])
def test_right_answers_that_all_agree_hide_three_of_their_number(draws: int) -> None:
    n = 200
    documents = RareChanges(n, draws, 0).answers
    y = np.tile(np.where(np.arange(n) < 150, 100.0, 0.0), (2, draws, 1))
    *here, new = estimates(independent(y), documents)
    assert new.interval()[1] >= 100 * 3 / n
    if draws > 1:  # of all answers that were given
        assert here[0].interval()[1] >= 100 * 3 / (n * draws)
        assert here[0].stderr == pytest.approx(2**0.5 * 100 * 3 / 1.96 / n / draws)
    (verdict,) = judge_family([new], 100 * 2 / n, n)
    assert verdict.verdict == "undecided"
    (verdict,) = judge_family([new], 100 * 50 / n, n)
    assert verdict.verdict == "equivalent"


@pytest.mark.parametrize("draws", [1, 2, 3, 5])
def test_rare_changes_of_answers_are_covered(draws: int) -> None:
    random = np.random.default_rng(draws)
    for changes in (0.3, 1.0, 3.0):  # a draw
        truth = RareChanges(30, draws, changes / 30)
        covered, wrong = dict.fromkeys(("draws", "questions", "sets"), 0), 0
        for _ in range(FEW):
            y, here = truth.sample(random)
            for e in estimates(independent(y), truth.answers):
                low, high = e.interval()
                wanted = here if e.estimand == "draws" else truth.mean
                covered[e.estimand] += low <= wanted <= high
                (verdict,) = judge_family([e], wanted, 30)  # the difference is delta
                wrong += verdict.verdict == "equivalent"
        told = [covered["sets"]] if draws == 1 else [covered["draws"], covered["questions"]]
        assert min(told) >= 0.917 * FEW, (changes, covered)
        assert wrong <= len(told) * 0.083 * FEW


def test_arms_that_are_alike_share_their_variance_and_others_do_not() -> None:
    random = np.random.default_rng(4)
    y = np.linspace(1, 1.5, 5)[:, None] * random.normal(size=6)
    assert pool([Block(row[:4]) for row in y], None) is None  # four draws cannot tell
    spread = pool([Block(row) for row in y], None)
    assert spread is not None
    assert spread.df == 25
    assert spread.variance == pytest.approx(y.var(1, ddof=1).mean())
    y[0] *= 100
    assert pool([Block(row) for row in y], None) is None


def test_settings_that_share_the_draws_tell_whether_arms_are_alike() -> None:
    random = np.random.default_rng(9)
    level = np.array([1.0, 5, 2, 30, 1, 4])[None, :, None]
    y = level * random.normal(size=(4, 6, 3))  # datasets, settings of many scales, draws
    blocks = [Block(arm[0]) for arm in y]
    assert pool(blocks, None) is None
    told = noise(list(y))
    assert told.variances.mean() == pytest.approx(1)
    assert (
        2 * 3 < told.df[0] < 2 * 6
    )  # six settings; that they go together by chance is allowed for
    spread = pool(blocks, None, told)
    assert spread is not None
    assert spread.df == 8
    assert pool(blocks, None, noise([*y[:3], 5 * y[3]])) is None  # noisy in every setting
    assert pool([*blocks[:3], Block(30 * y[3, 0])], None, told) is None  # in this one
    assert pool([Block(b.scores[:2]) for b in blocks], None, noise(list(y[:, :, :2]))) is None
    same = level * random.normal(size=(4, 1, 3))  # draws that are ahead everywhere tell once
    assert noise(list(same)).df == pytest.approx(2)


def test_corrections_are_the_published_ones() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p) == pytest.approx(list(stats.false_discovery_control(p)))


def test_power_is_that_of_the_t_test() -> None:
    random = np.random.default_rng(5)
    x = random.normal(1.2, 1, size=(4000, 2, 6)) - np.array([0.0, 1.2])[:, None]
    found = (stats.ttest_ind(x[:, 0], x[:, 1], axis=1).pvalue < 0.05).mean()
    assert power(1.2, math.sqrt(2 / 6), 10) == pytest.approx(found, abs=0.03)
    assert power(detectable(0.3, 7), 0.3, 7) == pytest.approx(0.8, abs=1e-6)


def test_the_number_of_draws_that_settles() -> None:
    def error(n: int) -> tuple[float, float]:
        return math.sqrt(2 / n), 2.0 * (n - 1)

    n = draws_needed(1.0, error)
    assert n == 17  # as in any table: sixteen to seventeen a group for d = 1, two-sided, 0.8
    assert draws_needed(1.0, lambda n: (math.sqrt(2 / n + 0.2), 1e9)) is None


def verdict(difference: float, stderr: float, floor: float = 0.0) -> str:
    e = Estimate("draws", difference, stderr, 20.0, floor, stderr**2 * 5, (5, 5), 2)
    (found,) = judge_family([e], 1.0, None)
    if found.verdict != "undecided":
        return found.verdict
    return "bound" if found.bound_by_documents else f"undecided {found.draws_needed}"


def test_verdicts() -> None:
    assert verdict(3.0, 0.5) == "differs"
    assert verdict(0.1, 0.2) == "equivalent"
    assert verdict(0.5, 1.0).startswith("undecided ")
    assert verdict(0.5, 1.0, floor=1.0) == "bound"


def test_more_draws_are_as_many_as_it_takes() -> None:
    e = Estimate("draws", 0.5, 1.0, 8.0, 0.0, 5.0, (5, 5), 2)
    (found,) = judge_family([e], 1.0, None)
    assert found.draws_needed is not None
    assert power(1.0, *e.error_at(found.draws_needed, None)) >= 0.8
    assert power(1.0, *e.error_at(found.draws_needed - 1, None)) < 0.8


def test_a_gap_among_equals_is_rarely_called_one_and_a_true_one_is() -> None:
    random = np.random.default_rng(6)
    truth = Truth(draws=3, documents=60)
    documents = one_task(60)
    called = dict.fromkeys(("draws", "questions"), 0)
    for _ in range(100):
        fixed = truth.fixed(4, random)
        fixed[1:] -= fixed[1:].mean(1, keepdims=True)  # equal on these documents
        y, _ = truth.sample(np.full(4, 50.0), random, fixed)
        blocks = [Block(d.mean(1), d) for d in y]
        for estimand in called:
            fitted = fit(blocks, documents, estimand)
            assert fitted is not None
            called[estimand] += gap(fitted).p < 0.05
    assert called["draws"] <= 0.05 * 100 + 3 * math.sqrt(100 * 0.05 * 0.95)
    assert called["questions"] <= 0.05 * 100 + 3 * math.sqrt(100 * 0.05 * 0.95)
    y, _ = truth.sample(np.array([50.0, 50, 50, 70]), random)
    fitted = fit([Block(d.mean(1), d) for d in y], documents, "draws")
    assert fitted is not None
    assert gap(fitted).p < 0.05
    assert best_set(fitted) == [False, False, False, True]


def test_the_best_set_keeps_the_best() -> None:
    random = np.random.default_rng(7)
    kept = 0
    for _ in range(100):
        scores = random.normal(size=(4, 3)) + np.array([0.0, 0, 0, 0.5])[:, None]
        fitted = fit([Block(s) for s in scores], None, "draws")
        assert fitted is not None
        kept += best_set(fitted)[3]
    assert kept >= 0.95 * 100 - 3 * math.sqrt(100 * 0.05 * 0.95)


def test_variance_shares_of_known_components() -> None:
    random = np.random.default_rng(8)
    covered = np.zeros(5)
    sds = np.array([2.0, 1.0, 0.5, 0.7, 0.4])
    wanted = sds**2 / (sds**2).sum()
    for _ in range(150):
        dataset, pruner = random.normal(size=(6, 1, 1)), random.normal(size=(1, 5, 1))
        both = random.normal(size=(6, 5, 1))
        draw, rest = random.normal(size=(6, 1, 4)), random.normal(size=(6, 5, 4))
        parts = zip(sds, (dataset, pruner, both, draw, rest), strict=True)
        found = shares(sum(sd * part for sd, part in parts))
        assert sum(s.share for s in found) == pytest.approx(1)
        covered += [s.low <= w <= s.high for s, w in zip(found, wanted, strict=True)]
    assert (covered / 150 > 0.88).all(), covered / 150


@pytest.mark.parametrize("df", [1, 1.5, 2, 3, 6])
def test_a_sum_with_a_hardly_known_part_is_covered_as_promised(df: float) -> None:
    share = np.array([0.02, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
    points = (np.arange(2000) + 0.5) / 2000
    covered = []
    for true in share:
        estimated = true * stats.chi2.ppf(points, df) / df
        dfs = [matched_df([x, 1 - true], [df, 10**9]) for x in estimated]
        half = stats.t.ppf(0.975, dfs) * np.sqrt(estimated + 1 - true)
        covered.append((2 * stats.norm.cdf(half) - 1).mean())
    assert min(covered) > 0.93
    assert max(covered) < 0.972
    assert matched_df([1.0, 0.0], [df, 10**9]) == pytest.approx(df, rel=1e-6)


def test_errors_that_pairs_share_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def counted(df: float, p: float) -> float:
        asked.append(p)
        return float(special.stdtrit(df, p))

    first = matched_df([0.25, 0.5], [7, 311]), power(1.0, 0.3125, 17.5, 0.01)
    monkeypatch.setattr("analysis.spread.stdtrit", counted)
    monkeypatch.setattr("analysis.power.stdtrit", counted)
    assert (matched_df([0.5, 1.0], [7, 311]), power(1.0, 0.3125, 17.5, 0.01)) == first
    assert not asked
