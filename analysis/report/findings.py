"""What the statistics say of each score of a run, gathered once for answers, plots and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from analysis.results import CONDITION
from analysis.scores import Score, told_scores
from analysis.sentences import Teller
from analysis.tables import ESTIMANDS, Data, association_table, share_table

Row = dict[str, Any]

MOST_PAIRS = 3000
"""Comparisons that the page lists, over all scores; the database answers for all."""

PAIR_COLUMNS = (
    *("axis", *CONDITION, "dataset", "a", "b", "estimand", "verdict", "mean_a", "mean_b"),
    *("difference", "low", "high", "unit", "p_holm", "draws", "more_draws"),
    *("bound_by_documents", "mixed"),
)


@dataclass(frozen=True)
class Findings:
    """The tables of one score.

    Attributes:
        teller: has the score, its pairs, gaps and best datasets, and words for them.
        shares, associations: the other tables; see `analysis.tables`.
    """

    teller: Teller
    shares: list[Row]
    associations: list[Row]

    @property
    def score(self) -> Score:
        """The score that all this is about."""
        return self.teller.data.score

    def gaps(self) -> list[Row]:
        """Gaps between datasets, for any draw and the benchmark's own questions."""
        return [r for r in self.teller.gaps if r["estimand"] == ESTIMANDS["draws"]]

    def pairs(self, axis: str) -> list[Row]:
        """Comparisons along an axis, for any draw and the benchmark's own questions."""
        return [
            r
            for r in self.teller.pairs
            if r["axis"] == axis and r["estimand"] == ESTIMANDS["draws"]
        ]


def gather(connection: duckdb.DuckDBPyConnection) -> list[Findings]:
    """Findings of the scores that are told of, the primary one first."""
    found = []
    for score in told_scores(connection):
        data = Data(connection, score)
        teller = Teller(data)
        found.append(Findings(teller, share_table(data), association_table(data)))
    return found


def listed_pairs(findings: list[Findings]) -> dict[str, list[Row]]:
    """The comparisons of each score that the page lists, datasets first."""
    listed: dict[str, list[Row]] = {}
    room = MOST_PAIRS
    for f in findings:
        rows = sorted(
            f.teller.pairs, key=lambda r: (r["axis"] != "dataset", r["dataset"] is not None)
        )
        listed[f.score.name] = [{name: r[name] for name in PAIR_COLUMNS} for r in rows[:room]]
        room -= len(listed[f.score.name])
    return listed


def _order(row: Row) -> tuple[bool, bool]:
    """Datasets first, then what is averaged over them, then the rest."""
    return row["axis"] != "dataset", row["dataset"] is not None


def listed_gaps(findings: list[Findings]) -> dict[str, list[Row]]:
    """The gaps of each score: where, as `CONDITION` orders it, and what chance would make."""
    names = ("gap", "if_nothing_differed", "at_most", "p", "best", "worst")
    return {
        f.score.name: [
            {"where": [r[axis] for axis in CONDITION], **{name: r[name] for name in names}}
            for r in f.gaps()
        ]
        for f in findings
    }


def listed_ties(findings: list[Findings]) -> dict[str, list[Row]]:
    """For each score and setting, the datasets that may be the best (95 % confidence set)."""
    listed = {}
    for f in findings:
        groups: dict[tuple[Any, ...], list[str]] = {}
        for r in f.teller.best:
            if r["estimand"] == ESTIMANDS["draws"]:
                where = tuple(r[axis] for axis in CONDITION)
                groups.setdefault(where, []).extend([r["dataset"]] if r["may_be_best"] else [])
        listed[f.score.name] = [
            {"where": list(where), "names": names} for where, names in groups.items()
        ]
    return listed
