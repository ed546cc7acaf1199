"""One score of a results database, as the tables of answers need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np

from analysis.comparisons import strata
from analysis.scores import Cell, Outcomes, Score, cells, outcomes

Row = dict[str, Any]

LARGEST = 30_000_000
"""Outcomes held at once (240 MB); beyond, each family reads its own."""

ESTIMANDS = {
    "draws": "any draw, these questions",
    "questions": "any draw, new questions",
    "sets": "these calibration sets alone, new questions",
    "models": "these models alone, new questions",
}

ALONE = ESTIMANDS["sets"], ESTIMANDS["models"]
"""Estimands without any draw but the one that there is."""


class Data:
    """One score of a database: its cells, and outcomes by document as they are needed."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, score: Score) -> None:
        self.connection = connection
        self.score = score
        self.cells = cells(connection, score)
        self._by_model: dict[str, Outcomes | None] = {}
        self._small = self._size() <= LARGEST

    def _size(self) -> int:
        """The outcomes behind the score, at most; a text counts tokens, but has rows of windows."""
        names = [name for name, _ in self.score.parts]
        counted = self.connection.execute(
            "SELECT least((SELECT count(*) FROM outcomes), coalesce(sum(n), 0)) "
            "FROM metrics JOIN evaluations e USING (evaluation) "
            "WHERE e.in_grid AND list_contains(?, e.name) AND metric = e.headline",
            [names],
        ).fetchall()
        return int(counted[0][0])

    def outcomes(self, of: Sequence[Cell]) -> Outcomes | None:
        """Outcomes by document of some cells of one model."""
        if not self._small:
            return outcomes(self.connection, self.score, of)
        model = of[0].model
        if model not in self._by_model:
            same = [c for c in self.cells if c.model == model]
            self._by_model[model] = outcomes(self.connection, self.score, same)
        return self._by_model[model]

    def documents(self, found: Outcomes | None) -> int | None:
        """Documents behind the outcomes."""
        return None if found is None else len(found.documents.stratum)


def mean_of(of: Sequence[Cell]) -> float:
    """The mean score of an arm as `results` has it, every dataset counting the same."""
    by_dataset = strata(of, ("dataset",)).values()
    return float(np.mean([np.mean([c.raw for c in group]) for group in by_dataset]))
