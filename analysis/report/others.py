"""Questions about what else there is: similarity, pruners, the amount of data, no data at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import median

from analysis.report.findings import Findings, Row
from analysis.report.words import SURE, Answer, amount, gain_of, signed, some
from analysis.results import Metric, Results, mean


def does_similarity_tell(results: Results, f: Findings) -> Answer | None:
    """Similarity to the pre-training text, and quality, against the outcome."""
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
    way = f"Nearer datasets tend to score {'better' if rank > 0 else 'worse'}"
    if not sure:
        way = "Beyond chance nearer datasets score neither better nor worse"
    return Answer(
        "Does text nearer to the pre-training text prune better?",
        verdict,
        f"{way}: median rank correlation {rank:+.2f} over {some(rows, 'setting')}, p < {SURE} in "
        f"{len(sure)}{_beside_quality(f)}.",
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


def data_or_pruner(results: Results, f: Findings) -> Answer | None:
    """The shares of variance that datasets and pruners have."""
    if not f.shares:
        return None
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in f.shares:
        by_source[row["source"]].append(row)
    pairs = list(zip(by_source["dataset"], by_source["pruner"], strict=True))
    data = sum(d["low"] > p["high"] for d, p in pairs)
    pruner = sum(p["low"] > d["high"] for d, p in pairs)
    larger = sum(d["share"] > p["share"] for d, p in pairs)
    verdict = "undecided"
    if 2 * max(data, pruner) > len(pairs):
        verdict = "yes" if data > pruner else "no"
    listed = ", ".join(
        f"{name} {100 * mean([r['share'] for r in rows]):.0f} % "
        f"({100 * mean([r['low'] for r in rows]):.0f} to "
        f"{100 * mean([r['high'] for r in rows]):.0f})"
        for name, rows in by_source.items()
    )
    return Answer(
        "Does the data matter more than the pruner?",
        verdict,
        f"Of the variance of {Metric.of(f.score).label}, on average over "
        f"{some(pairs, 'setting')}, with 95 % intervals: {listed}. The dataset has more than the "
        f"pruner in {larger} of {len(pairs)}, beyond chance in {data}; the pruner beyond chance "
        f"in {pruner}.",
        "Shares of variance among the datasets and pruners of this grid, controls left out; of few "
        "datasets or pruners the intervals are wide.",
        "scores",
    )


def how_much_data(results: Results, f: Findings) -> Answer | None:
    """Sizes beside the largest one."""
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
        if large == largest and all(_within(r, delta) for r in steps[small, large])
    ]
    told = []
    for (small, large), members in sorted(steps.items()):
        if large == largest or len(steps) <= 3:
            gain = mean([gain_of(r, str(large)) for r in members])
            counts = Counter(r["verdict"] for r in members)
            verdicts = ", ".join(
                f"{n} {'differ' if n > 1 and word == 'differs' else word}"
                for word, n in counts.most_common()
            )
            told.append(f"{small} to {large} windows {signed(gain, f)} ({verdicts})")
    sizes = sorted({n for step in steps for n in step})
    reach = f"{enough[0]} windows" if enough else "undecided"
    if any(r["verdict"] == "differs" and gain_of(r, str(largest)) > 0 for r in rows) and not enough:
        reach = f"more than {sizes[0]} windows"
    return Answer(
        "How much calibration data is enough?",
        reach,
        "; ".join(told) + ".",
        f"Averaged over datasets, one verdict a setting. Enough is what the intervals keep within "
        f"{amount(f)} of {largest} windows.",
        "sizes",
    )


def _within(row: Row, delta: float) -> bool:
    """Does the interval keep a difference within delta? Draws that tie have none."""
    return row["low"] is not None and -delta < row["low"] and row["high"] < delta


def worse_than_magnitude(results: Results, f: Findings) -> Answer | None:
    """Methods on each dataset beside magnitude, which needs none."""
    rows = [
        r for r in f.pairs("pruner") if r["dataset"] is not None and "magnitude" in (r["a"], r["b"])
    ]
    if not rows:
        return None
    told = [(r, gain_of(r, r["b"] if r["a"] == "magnitude" else r["a"])) for r in rows]
    worse = [(r, g) for r, g in told if g < 0]
    sure = [(r, g) for r, g in worse if r["verdict"] == "differs"]
    sentence = (
        f"On {len(worse)} of {len(told)} combinations of pruner, dataset and setting the mean is "
        f"worse than plain magnitude, on {len(sure)} of them beyond chance."
    )
    if worse:
        row, gain = min(worse, key=lambda pair: pair[1])
        name = row["b"] if row["a"] == "magnitude" else row["a"]
        sentence += f" The worst: {f.teller.names.get(name, name)} {signed(gain, f)}, "
        sentence += f"{f.teller.where(row)}."
    return Answer(
        "Can bad data make a method worse than no data at all?",
        "yes" if sure else "undecided" if worse else "not here",
        sentence,
        "Means over draws against the one magnitude cell of the same setting.",
        "pairs",
    )
