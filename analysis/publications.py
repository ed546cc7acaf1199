"""Figures as they were published: `published/*.csv`, one file a grid of `jobs/grids/`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

DERIVED = ("gap", "sd", "gain")
"""Prefixes of metrics that are made of several datasets or draws."""


@dataclass(frozen=True)
class Published:
    """One figure as it was published; None where the publication does not say.

    Accuracies are percentages. `low` and `high` are a published range. `sampler` is how the source
    was drawn, `eval_seqlen` the windows of a perplexity, `harness` the version of lm-eval as far
    as it is known, `tasks` what a mean accuracy is the mean of.
    """

    source: str
    where: str
    trust: str
    model: str
    dataset: str | None
    pruner: str | None
    allocation: str | None
    refine: str | None
    variant: str | None
    sparsity: float | None
    pattern: str | None
    size: int | None
    seqlen: int | None
    sampler: str | None
    draws: int | None
    metric: str
    value: float | None
    sd: float | None
    low: float | None
    high: float | None
    eval_seqlen: int | None
    bos: str | None
    harness: str | None
    tasks: str | None
    note: str | None

    @property
    def base(self) -> str:
        """The column of `results` that the metric is, or is made from."""
        prefix, _, rest = self.metric.partition("_")
        return rest if prefix in DERIVED else self.metric

    @property
    def kind(self) -> str | None:
        """What it is made of: `gap`, `sd`, `gain`, or None for the metric itself."""
        prefix = self.metric.partition("_")[0]
        return prefix if prefix in DERIVED else None


def packs() -> list[str]:
    """The packs with published figures."""
    folder = files("analysis") / "published"
    return sorted(p.name.removesuffix(".csv") for p in folder.iterdir() if p.name.endswith(".csv"))


def read(pack: str) -> list[Published]:
    """The published figures of a pack."""
    text = (files("analysis") / "published" / f"{pack}.csv").read_text("utf-8")
    kinds = {name: str(kind) for name, kind in Published.__annotations__.items()}
    return [
        Published(**{name: _typed(kinds[name], value) for name, value in row.items()})
        for row in csv.DictReader(text.splitlines())
    ]


def _typed(kind: str, value: str) -> Any:
    if value == "":
        return None
    return float(value) if "float" in kind else int(value) if "int" in kind else value
