"""The questions of a study, each answered in a sentence, with the verdict of the statistics."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from analysis.report.findings import Findings, Row
from analysis.results import Metric, Results, generated_datasets, mean
from analysis.sentences import with_unit
from analysis.tables import CONTROLS, ESTIMANDS

SETTING = ("model", "recipe", "pattern", "sparsity", "size", "seqlen")
SURE = 0.05


@dataclass(frozen=True)
class Answer:
    """One question and what the run says to it.

    Attributes:
        question: as a researcher would ask it.
        verdict: one or two words: yes, no, undecided, ...
        sentence: the answer. basis: what it rests on, and how far it goes.
        view: the part of the page that shows it.
    """

    question: str
    verdict: str
    sentence: str
    basis: str
    view: str


def answer_all(results: Results, findings: list[Findings]) -> dict[str, list[Answer]]:
    """By score, the answers that the run's cells allow, the central question first."""
    return {f.score.name: _answers(results, f) for f in findings}


def _answers(results: Results, f: Findings) -> list[Answer]:
    questions: list[Callable[[Results, Findings], Answer | None]] = [
        _does_it_matter,
        _where_does_it_matter,
        _which_is_best,
        _does_similarity_tell,
        _data_or_pruner,
        _how_much_data,
        _own_text,
        _worse_than_magnitude,
    ]
    answers = [a for ask in questions if (a := ask(results, f)) is not None]
    return answers if any(a.question == MATTER for a in answers) else [_not_yet(results), *answers]


MATTER = "Does the choice of calibration data change the result?"


def _not_yet(results: Results) -> Answer:
    done = sum(r["status"] == "done" for r in results.rows)
    return Answer(
        MATTER,
        "no answer yet",
        "No two calibration datasets have finished cells that differ in nothing else.",
        f"{done} of {len(results.rows)} cells are done.",
        "cells",
    )


def _does_it_matter(results: Results, f: Findings) -> Answer | None:
    told = f.teller.told_gaps()
    if not told:
        return None
    gaps, pairs = f.gaps(), f.pairs("dataset")
    widest = max(told, key=lambda row: row["gap"])
    sentence = f"Widest: {f.teller.gap(widest)}."
    if not gaps:
        return Answer(
            MATTER, "undecided", sentence, "A second draw of each dataset would tell.", "gaps"
        )
    clear = [row for row in gaps if row["p"] < SURE]
    counts = Counter(row["verdict"] for row in pairs)
    delta = f.score.shown(f.score.delta)
    matters = [row for row in clear if row["gap"] > delta]
    verdict = "undecided"
    if 2 * len(matters) > len(gaps):
        verdict = "yes"
    elif matters:
        verdict = "in places"
    elif clear or counts["differs"]:
        verdict = "measurably, but little"
    elif counts["equivalent"] == len(pairs):
        verdict = "no"
    sentence = (
        f"In {len(clear)} of {_some(gaps, 'setting')} the gap between datasets is larger than "
        f"chance makes it (p < {SURE}), in {len(matters)} also larger than the "
        f"{_amount(results, f)} that count as relevant. {sentence} Of {_some(pairs, 'pair')} of "
        f"datasets {counts['differs']} differ, {counts['equivalent']} are equivalent within "
        f"{_amount(results, f)}, {counts['undecided']} are undecided."
    )
    return Answer(MATTER, verdict, sentence, _reach(f, pairs), "pairs")


def _reach(f: Findings, pairs: list[Row]) -> str:
    """For whom the verdicts hold, and what would settle those that are open."""
    draws = sorted({row["draws"] for row in pairs})
    new = [
        row
        for row in f.teller.pairs
        if row["axis"] == "dataset" and row["estimand"] == ESTIMANDS["questions"]
    ]
    open_ = [row["more_draws"] for row in pairs if row["more_draws"]]
    text = f"{draws[0] if len(draws) == 1 else f'{draws[0]} to {draws[-1]}'} draws a dataset; for "
    text += "any draw, on these questions; Holm's correction within a setting."
    if new:
        differs = sum(row["verdict"] == "differs" for row in new)
        text += f" For new questions too, {differs} of {_some(new, 'pair')} differ."
    if open_:
        text += f" Open pairs need {min(open_)} to {max(open_)} more draws (median "
        text += f"{median(open_):.0f})."
    mixed = sorted({row["mixed"] for row in pairs if row["mixed"]})
    return text + (f" Beware: comparisons mix {'; '.join(mixed)}." if mixed else "")


def _where_does_it_matter(results: Results, f: Findings) -> Answer | None:
    groups: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in f.gaps():
        groups[row["pattern"], row["sparsity"]].append(row)
    if len(groups) < 2:
        return None
    order = sorted(groups, key=lambda k: (k[0] != "unstructured", k[0], k[1]))
    listed = []
    for key in order:
        rows = groups[key]
        gap, chance = mean([r["gap"] for r in rows]), mean([r["if_nothing_differed"] for r in rows])
        listed.append(f"{_place(key)} {gap:.2f} (by chance {chance:.2f})")
    sure = {k: mean([r["p"] < SURE for r in rows]) for k, rows in groups.items()}
    most = max(order, key=lambda k: (sure[k], mean([r["gap"] for r in groups[k]])))
    return Answer(
        "Where does it matter most?",
        _place(most) if sure[most] else "nowhere for certain",
        f"Mean gap between the best and the worst dataset, {f.score.unit}: {'; '.join(listed)}.",
        "Means over pruners and sizes; by chance: if no dataset differed.",
        "gaps",
    )


def _which_is_best(results: Results, f: Findings) -> Answer | None:
    rows = [r for r in f.best if r["estimand"] == ESTIMANDS["draws"]]
    if not rows:
        return None
    settings: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        settings[(*(row[n] for n in SETTING), row["sampler"])].append(row)
    may = Counter(r["dataset"] for r in rows if r["may_be_best"])
    alone = Counter(
        kept[0]["dataset"]
        for members in settings.values()
        if len(kept := [r for r in members if r["may_be_best"]]) == 1
    )
    total = len(settings)
    out = sorted(r for r in {r["dataset"] for r in rows} if not may[r])
    verdict = "cannot be told"
    if alone and 2 * alone.most_common(1)[0][1] > total:
        verdict = f"it is {alone.most_common(1)[0][0]}"
    elif out:
        verdict = f"not {' or '.join(out)}"
    listed = ", ".join(f"{name} in {n}" for name, n in may.most_common())
    sentence = f"Of {_some(settings, 'setting')}, a dataset may be the best: {listed}."
    if alone:
        sentence += " The only one that may be: "
        sentence += ", ".join(f"{name} in {n}" for name, n in alone.most_common()) + "."
    if out:
        sentence += f" Never: {', '.join(out)}."
    return Answer(
        "Which calibration data is best?",
        verdict,
        sentence,
        "95 % confidence sets of the best, for any draw, on these questions.",
        "scores",
    )


def _does_similarity_tell(results: Results, f: Findings) -> Answer | None:
    rows = [r for r in f.associations if r["measure"] == "jaccard" and r["given"] is None]
    if not rows:
        return None
    sure = [r for r in rows if r["p"] < SURE]
    ahead = sum(r["correlation"] > 0 for r in sure)  # of what is better, also of perplexities
    verdict = "undecided"
    if 2 * ahead > len(rows):
        verdict = "yes"
    elif 2 * (len(sure) - ahead) > len(rows):
        verdict = "no, the reverse"
    datasets, rank = max(r["datasets"] for r in rows), median(r["rank"] for r in rows)
    return Answer(
        "Does text nearer to the pre-training text prune better?",
        verdict,
        f"Nearer datasets tend to score {'better' if rank > 0 else 'worse'}: median rank "
        f"correlation {rank:+.2f} over {_some(rows, 'setting')}, p < {SURE} in {len(sure)}"
        f"{_beside_quality(f)}.",
        f"{datasets} datasets are the units; p by permutation"
        + ("; so few bear no interval." if datasets < 8 else "."),
        "similarity",
    )


def _beside_quality(f: Findings) -> str:
    """How similarity and editorial quality do, each where the other is given."""
    given = {
        measure: [r["rank"] for r in f.associations if r["measure"] == measure and r["given"]]
        for measure in ("jaccard", "quality")
    }
    if not all(given.values()):
        return ""
    similarity, quality = (median(ranks) for ranks in given.values())
    return f"; given quality {similarity:+.2f}, and quality given similarity {quality:+.2f}"


def _data_or_pruner(results: Results, f: Findings) -> Answer | None:
    if not f.shares:
        return None
    by_source: dict[str, list[float]] = defaultdict(list)
    for row in f.shares:
        by_source[row["source"]].append(row["share"])
    settings = len(by_source["dataset"])
    data, pruner = mean(by_source["dataset"]), mean(by_source["pruner"])
    wins = sum(d > p for d, p in zip(by_source["dataset"], by_source["pruner"], strict=True))
    listed = ", ".join(f"{name} {100 * mean(v):.0f} %" for name, v in by_source.items())
    return Answer(
        "Does the data matter more than the pruner?",
        "yes" if data > pruner else "no",
        f"Of the variance of {Metric.of(f.score).label}, on average over {settings} settings: "
        f"{listed}. The dataset has more than the pruner in {wins} of {settings}.",
        "Shares of variance among the datasets and pruners of this grid, controls left out.",
        "scores",
    )


def _how_much_data(results: Results, f: Findings) -> Answer | None:
    rows = [r for r in f.pairs("size") if r["dataset"] is None]
    if not rows:
        return None
    steps: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in rows:
        small, large = sorted((int(row["a"]), int(row["b"])))
        steps[small, large].append(row)
    delta = f.score.shown(f.score.delta)
    largest = max(large for _, large in steps)
    enough = [
        small
        for small, large in sorted(steps)
        if large == largest
        and all(-delta < r["low"] and r["high"] < delta for r in steps[small, large])
    ]
    told = []
    for (small, large), members in sorted(steps.items()):
        if large == largest or len(steps) <= 3:
            gain = mean([_gain(r, str(large)) for r in members])
            counts = Counter(r["verdict"] for r in members)
            verdicts = ", ".join(f"{n} {word}" for word, n in counts.most_common())
            told.append(f"{small} to {large} windows {_signed(gain, f)} ({verdicts})")
    sizes = sorted({n for step in steps for n in step})
    reach = f"{enough[0]} windows" if enough else "undecided"
    if any(r["verdict"] == "differs" and _gain(r, str(largest)) > 0 for r in rows) and not enough:
        reach = f"more than {sizes[0]} windows"
    return Answer(
        "How much calibration data is enough?",
        reach,
        "; ".join(told) + ".",
        f"Averaged over datasets, one verdict a setting. Enough is what the intervals keep within "
        f"{_amount(results, f)} of {largest} windows.",
        "sizes",
    )


def _gain(row: Row, name: str) -> float:
    """How much better the arm `name` is than the other, in the row's unit."""
    ahead = row["difference"] if row["a"] == name else -row["difference"]
    return -ahead if row["unit"] == "%" else ahead


OWN_TEXT = {"better": "better than", "worse": "worse than", "not told apart": "not told apart from"}
"""How generated text does beside a real dataset, in words."""


def _own_text(results: Results, f: Findings) -> Answer | None:
    generated = generated_datasets(results.run.get("grid"))
    rivals: dict[str, list[Row]] = defaultdict(list)
    for row in f.pairs("dataset"):
        own = {row["a"], row["b"]} & generated
        other = {row["a"], row["b"]} - generated - set(CONTROLS)
        if len(own) == 1 and other:
            rivals[other.pop()].append(row)
    if not rivals:
        return None
    groups: dict[str, list[str]] = defaultdict(list)
    lost = won = total = 0
    for name, rows in sorted(rivals.items()):
        gains = [_gain(r, r["b"] if r["a"] == name else r["a"]) for r in rows]
        pairs = list(zip(rows, gains, strict=True))
        better = sum(r["verdict"] == "differs" and g > 0 for r, g in pairs)
        worse = sum(r["verdict"] == "differs" and g < 0 for r, g in pairs)
        way = "better" if better > worse else "worse" if worse > better else "not told apart"
        told = f"{max(better, worse)} of {len(rows)}"
        groups[way].append(f"{name} ({_signed(mean(gains), f)}, {told})")
        lost, won, total = lost + worse, won + better, total + len(rows)
    listed = [f"{words} {', '.join(groups[way])}" for way, words in OWN_TEXT.items() if groups[way]]
    verdict = "undecided"
    if won and not lost:
        verdict = "yes, better" if 2 * won > total else "yes, where it can be told"
    elif lost and not won:
        verdict = "no"
    elif won and lost:
        verdict = "depends on the rival"
    return Answer(
        "Does text that the model writes itself do as well as real text?",
        verdict,
        f"Beside each real dataset it is {'; '.join(listed)}.",
        "Mean difference, and in how many settings it is told from chance that way; for any draw, "
        "on these questions.",
        "pairs",
    )


def _worse_than_magnitude(results: Results, f: Findings) -> Answer | None:
    rows = [
        r for r in f.pairs("pruner") if r["dataset"] is not None and "magnitude" in (r["a"], r["b"])
    ]
    if not rows:
        return None
    told = [(r, _gain(r, r["b"] if r["a"] == "magnitude" else r["a"])) for r in rows]
    worse = [(r, g) for r, g in told if g < 0]
    sure = [(r, g) for r, g in worse if r["verdict"] == "differs"]
    sentence = (
        f"On {len(worse)} of {len(told)} combinations of pruner, dataset and setting the mean is "
        f"below plain magnitude, on {len(sure)} of them beyond chance."
    )
    if worse:
        row, gain = min(worse, key=lambda pair: pair[1])
        name = row["b"] if row["a"] == "magnitude" else row["a"]
        sentence += f" The lowest: {f.teller.names.get(name, name)} {_signed(gain, f)}, "
        sentence += f"{f.teller.where(row)}."
    return Answer(
        "Can bad data make a method worse than no data at all?",
        "yes" if sure else "undecided" if worse else "not here",
        sentence,
        "Means over draws against the one magnitude cell of the same setting.",
        "pairs",
    )


def _some(things: Any, word: str) -> str:
    return f"{len(things)} {word}" + ("" if len(things) == 1 else "s")


def _place(key: tuple[str, float]) -> str:
    return f"{100 * key[1]:g} %" + ("" if key[0] == "unstructured" else f" {key[0]}")


def _amount(results: Results, f: Findings) -> str:
    """The difference that matters, as the grid gives it."""
    return with_unit(f.score.shown(f.score.delta), f.score.unit)


def _signed(gain: float, f: Findings) -> str:
    """A gain in words that need no sign convention."""
    if f.score.lower_is_better:
        return f"{abs(gain):.2f} % {'lower' if gain >= 0 else 'higher'}"
    return f"{round(gain, 2) + 0.0:+.2f} points"  # no -0.00
