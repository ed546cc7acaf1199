"""Answers as sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from analysis.comparisons import SAME_TEXT
from analysis.data import ALONE, ESTIMANDS, Data, Row
from analysis.pairs import pair_table
from analysis.results import recipe_labels
from analysis.tables import best_table, gap_table

SETTING = ("model", "recipe", "pattern", "sparsity", "size", "seqlen", "sampler")

TIES = (
    "all draws tie, which says nothing of others",
    "all documents tie, which says nothing of others",
)
"""What is said where nothing varies: of several draws, and of one."""


class Teller:
    """Tells what one score's tables say, in as few words as keep its settings apart."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.pairs = pair_table(data)
        self.gaps = gap_table(data)
        self.best = best_table(data)
        pruned = [c for c in data.cells if c.pruner != "dense"]
        self.varied = {n for n in SETTING if len({getattr(c, n) for c in pruned} - {None}) > 1}
        self.names = recipe_labels(c.recipe for c in pruned)

    def told_pairs(self) -> list[Row]:
        """The comparisons that are worth a sentence: not those of pruners on single datasets."""
        return [
            row
            for row in self.pairs
            if row["estimand"] != ESTIMANDS["questions"]
            and (row["axis"] == "dataset" or row["dataset"] is None)
        ]

    def comparisons(self) -> Iterator[str]:
        """A sentence for each pair that is decided, and one for all that are not of a family."""
        families: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
        for row in self.told_pairs():
            families[tuple(row[n] for n in ("axis", "dataset", *SETTING))].append(row)
        for rows in families.values():
            undecided = [row for row in rows if row["verdict"] == "undecided"]
            for row in rows:
                if row["verdict"] != "undecided" or len(undecided) == 1:
                    yield self.pair(row)
            if len(undecided) > 1:
                yield self._undecided(undecided, len(rows))

    def _undecided(self, rows: Sequence[Row], of: int) -> str:
        first = rows[0]
        text = f"{self.where(first)}: {len(rows)} of {of} pairs of {first['axis']}s undecided"
        if all(row["low"] is None for row in rows):
            return f"{text}: {TIES[first['estimand'] in ALONE]}"
        more = sorted({row["more_draws"] for row in rows if row["more_draws"]})
        if first["estimand"] in ALONE or not more:
            return text
        span = f"{more[0]}" if len(more) == 1 else f"{more[0]} to {more[-1]}"
        delta = with_unit(first["delta"], first["unit"])
        return f"{text}: {span} more draws a dataset would tell {delta}"

    def told_gaps(self) -> list[Row]:
        """The gaps that are worth a sentence."""
        return [row for row in self.gaps if row["estimand"] != ESTIMANDS["questions"]]

    def where(self, row: Row) -> str:
        """The setting of a row in a few words."""
        recipe, sparsity, pattern = row.get("recipe"), row.get("sparsity"), row.get("pattern")
        words = [str(row["model"])] if "model" in self.varied else []
        words += [self.names.get(recipe, str(recipe))] if recipe is not None else []
        words += [f"{100 * sparsity:g} %"] if sparsity is not None else []
        words += [pattern] if pattern not in (None, "unstructured") else []
        for name, unit in (("size", "windows"), ("seqlen", "tokens a window")):
            if name in self.varied and row.get(name) is not None:
                words.append(f"{row[name]} {unit}")
        sampler = row.get("sampler")
        if "sampler" in self.varied and sampler is not None and not _mixes_samplers(row):
            words.append(f"{sampler} sampler")
        words += [f"on {row['dataset']}"] if row.get("dataset") is not None else []
        return ", ".join(words) or "over all"

    def pair(self, row: Row) -> str:
        """What a comparison found, for the questions of this benchmark and for new ones."""
        lower = row["unit"] == "%"
        ahead = (row["difference"] < 0) == lower
        first, second = (row["a"], row["b"]) if ahead else (row["b"], row["a"])
        first, second = self.names.get(first, first), self.names.get(second, second)
        said = f"{first} beats {second} by {_size(row)}"
        if row["difference"] == 0:
            said = f"{first} is level with {second}"
        text = f"{self.where(row)}: {said}{_interval(row)}, {_verdict(row)}"
        if row["estimand"] == ESTIMANDS["sets"]:
            text += " (one draw: of these calibration sets alone)"
        if row["estimand"] == ESTIMANDS["models"]:
            text += " (nothing is drawn: of these models alone)"
        other = next((r for r in self.pairs if _is_for_new_questions(r, row)), None)
        if other is not None and (other["verdict"] != row["verdict"]):
            text += f"; for new questions {_verdict(other)}"
        return text + _beware(row)

    def gap(self, row: Row) -> str:
        """How far datasets are apart in one setting, and how far they would be by chance."""
        text = f"{self.where(row)}: best {row['best']}, worst {row['worst']}, a gap of "
        text += with_unit(row["gap"], row["unit"])
        if row["gap"] == 0:
            how_many = "both" if row["datasets"] == 2 else f"all {row['datasets']}"
            text = f"{self.where(row)}: {how_many} datasets are level"
        if row["estimand"] == ESTIMANDS["sets"]:
            why = TIES[False]
            if row["draws"] < 2:
                why = "where there is one draw, nothing is said of others"
            return f"{text}; {why}{_beware(row)}"
        return (
            f"{text}; if nothing differed about {_short(row['if_nothing_differed'])}, rarely above "
            f"{_short(row['at_most'])} (p = {row['p']:.2g}){self._best(row)}{_beware(row)}"
        )

    def _best(self, row: Row) -> str:
        """The datasets that may be the best in a setting, where that leaves some out."""
        same = ("estimand", *SETTING)
        arms = [r for r in self.best if all(r[n] == row[n] for n in same)]
        may = [r["dataset"] for r in arms if r["may_be_best"]]
        return f"; with 95 % confidence the best is {_one_of(may)}" if len(may) < len(arms) else ""

    def widest(self) -> Row | None:
        """The comparison of the best and the worst dataset where they are farthest apart."""
        told = self.told_pairs()
        for gap in sorted(self.told_gaps(), key=lambda row: -row["gap"]):
            ways = gap["sampler"].split(", ")
            for row in told:  # which names the samplers too, where it mixes them
                ends: set[Any] = {row["a"], row["b"]}
                ends |= {end.removesuffix(f" ({way})") for end in ends for way in ways}
                if (
                    row["axis"] == "dataset"
                    and ends >= {gap["best"], gap["worst"]}
                    and all(row[n] == gap[n] for n in SETTING if n != "sampler")
                    and set(row["sampler"].split(", ")) <= set(ways)
                ):
                    return row
        return None


def _is_for_new_questions(candidate: Row, row: Row) -> bool:
    same = ("axis", "a", "b", "dataset", *SETTING)
    wanted = candidate["estimand"] == ESTIMANDS["questions"]
    return wanted and row is not candidate and all(candidate[n] == row[n] for n in same)


def _mixes_samplers(row: Row) -> bool:
    """Are the arms of different samplers, which their names or a warning say then?"""
    return "sampler" in row["mixed"].split(", ")


def _beware(row: Row) -> str:
    """In what else the arms of a comparison differ, or that both are one text."""
    flags = [flag for flag in row["mixed"].split(", ") if flag]
    which = "some" if "datasets" in row else "both"
    same = f"; beware, {which} hold the same text" if SAME_TEXT in flags else ""
    mixed = ", ".join(flag for flag in flags if flag != SAME_TEXT)
    return (f"; beware, it mixes {mixed}" if mixed else "") + same


def _one_of(names: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _short(value: float) -> str:
    """Two digits that count, without an exponent."""
    return f"{float(f'{value:.2g}'):g}"


def with_unit(value: float, unit: str) -> str:
    """A difference as it is printed, in points or percent."""
    shown = f"{value:.3g}"
    return f"{shown} {'point' if (shown, unit) == ('1', 'points') else unit}"


def _size(row: Row) -> str:
    """A difference; of perplexities in their own unit, which percent follow."""
    if row["unit"] == "%":
        return f"{abs(row['mean_a'] - row['mean_b']):.3g} of perplexity"
    return with_unit(abs(row["difference"]), row["unit"])


def _interval(row: Row) -> str:
    """What is told beside a difference, in brackets."""
    told = []
    if row["unit"] == "%" and row["difference"]:
        told.append(with_unit(abs(row["difference"]), row["unit"]))
    if row["low"] is not None:
        low, high = row["low"], row["high"]
        if row["difference"] < 0:  # told from the other side
            low, high = -high, -low
        told.append(f"95 % CI {low:.3g} to {with_unit(high, row['unit'])}")
    return f" ({'; '.join(told)})" if told else ""


def _verdict(row: Row) -> str:
    delta = with_unit(row["delta"], row["unit"])
    if row["verdict"] == "equivalent":
        return f"equivalent within {delta}"
    if row["verdict"] == "differs":
        return "differs"
    if row["low"] is None:
        return f"undecided: {TIES[row['estimand'] in ALONE]}"
    if row["estimand"] == ESTIMANDS["sets"]:
        return "undecided"
    if row["bound_by_documents"]:
        however = "" if row["estimand"] == ESTIMANDS["models"] else ", however many draws"
        return f"undecided: too few documents to tell {delta}{however}"
    if not row["more_draws"]:
        return f"undecided: the draws would tell {delta}, so the difference is near it"
    draws = "1 more draw" if row["more_draws"] == 1 else f"{row['more_draws']} more draws"
    return f"undecided: {draws} would tell {delta}"


def summary(data: Sequence[Data]) -> list[str]:
    """The main findings, two at most: where datasets are farthest apart, and by how much."""
    lines = []
    for teller in map(Teller, data[:2]):
        chosen = teller.widest()
        if chosen is not None:
            lines.append(f"{teller.data.score.name}: {teller.pair(chosen)}")
    return lines
