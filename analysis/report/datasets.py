"""Questions about the calibration datasets: do they differ, where, and which is best?"""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import median
from typing import Any

from analysis.comparisons import SAME_TEXT
from analysis.report.findings import Findings, Row
from analysis.report.words import SURE, Answer, amount, gain_of, place, signed, some
from analysis.results import CONDITION, Results, generated_datasets, mean
from analysis.tables import CONTROLS, ESTIMANDS

MATTER = "Does the choice of calibration data change the result?"


def does_it_matter(results: Results, f: Findings) -> Answer | None:
    """How far datasets are apart, beside chance and beside what counts as relevant."""
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
        f"In {len(clear)} of {some(gaps, 'setting')} the gap between datasets is larger than "
        f"chance makes it (p < {SURE}), in {len(matters)} also larger than the "
        f"{amount(f)} that count as relevant. {sentence} Of {some(pairs, 'pair')} of "
        f"datasets {counts['differs']} differ, {counts['equivalent']} are equivalent within "
        f"{amount(f)}, {counts['undecided']} are undecided."
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
        text += f" For new questions too, {differs} of {some(new, 'pair')} differ."
    if open_:
        text += f" Open pairs need {min(open_)} to {max(open_)} more draws (median "
        text += f"{median(open_):.0f})."
    flags = {flag for row in pairs for flag in row["mixed"].split(", ") if flag}
    mixed = sorted(flags - {SAME_TEXT})
    text += f" Beware: comparisons mix {', '.join(mixed)}." if mixed else ""
    return text + (" Beware: some datasets hold the same text." if SAME_TEXT in flags else "")


def where_does_it_matter(results: Results, f: Findings) -> Answer | None:
    """The pattern and sparsity with the widest gap between datasets."""
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
        listed.append(f"{place(key)} {gap:.2f} (by chance {chance:.2f})")
    sure = {k: mean([r["p"] < SURE for r in rows]) for k, rows in groups.items()}
    most = max(order, key=lambda k: (sure[k], mean([r["gap"] for r in groups[k]])))
    widths = [mean([r["gap"] for r in rows]) for rows in groups.values()]
    verdict = place(most) if sure[most] else "nowhere for certain"
    if len(set(sure.values())) == 1 and max(widths) - min(widths) < f.score.shown(f.score.delta):
        verdict = "about the same everywhere" if sure[most] else verdict
    return Answer(
        "Where does it matter most?",
        verdict,
        f"Mean gap between the best and the worst dataset, {f.score.unit}: {'; '.join(listed)}.",
        f"Means over {_other_axes(f)}; by chance: if no dataset differed.",
        "gaps",
    )


NAMES = {"recipe": "pruners", "size": "sizes", "seqlen": "window lengths", "sampler": "samplers"}


def _other_axes(f: Findings) -> str:
    """What the grid varies beside sparsity and pattern."""
    found = ["models"] * ("model" in f.teller.varied) + [
        name for axis, name in NAMES.items() if axis in f.teller.varied
    ]
    return " and ".join(filter(None, [", ".join(found[:-1]), *found[-1:]])) or "one setting each"


def which_is_best(results: Results, f: Findings) -> Answer | None:
    """The datasets that may be the best, over all settings."""
    rows = [r for r in f.teller.best if r["estimand"] == ESTIMANDS["draws"]]
    if not rows:
        return None
    settings: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        settings[tuple(row[n] for n in CONDITION)].append(row)
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
    sentence = f"Of {some(settings, 'setting')}, a dataset may be the best: {listed}."
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


OWN_TEXT = {"better": "better than", "worse": "worse than", "not told apart": "not told apart from"}
"""How generated text does beside a real dataset, in words."""


def own_text(results: Results, f: Findings) -> Answer | None:
    """Generated text beside each real dataset."""
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
        gains = [gain_of(r, r["b"] if r["a"] == name else r["a"]) for r in rows]
        pairs = list(zip(rows, gains, strict=True))
        better = sum(r["verdict"] == "differs" and g > 0 for r, g in pairs)
        worse = sum(r["verdict"] == "differs" and g < 0 for r, g in pairs)
        way = "better" if better > worse else "worse" if worse > better else "not told apart"
        told = f"{max(better, worse)} of {len(rows)}"
        groups[way].append(f"{name} ({signed(mean(gains), f)}, {told})")
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
