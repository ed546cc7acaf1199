"""What an evaluation gives: figures, outcomes of documents, and how they were computed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Metric:
    """One figure; `n` is the number of documents, windows or tokens behind it."""

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int


@dataclass
class Scores:
    """What one evaluation gives.

    Attributes:
        metrics: the figures. outcomes: (task, document, metric, value) per document or window.
        notes: how it was computed, for the record.
    """

    metrics: list[Metric] = field(default_factory=list)
    outcomes: list[tuple[str, int, str, float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Metrics and notes as plain data; outcomes go into a table of their own."""
        return {"metrics": [asdict(m) for m in self.metrics], "notes": self.notes}
