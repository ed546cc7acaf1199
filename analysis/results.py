"""The view `results` in memory: its rows, its metrics, and the groups that are compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb
from ruamel.yaml import YAML, YAMLError

from analysis.scores import Score, scores

CONDITION = ("model", "recipe", "sparsity", "pattern", "size", "seqlen", "sampler")
"""Cells that agree in these differ by their calibration data alone: a comparison group. Of sampler
it is what the view `draws` calls `samplers`."""


@dataclass(frozen=True)
class Metric:
    """One score of `results`.

    Attributes:
        name: the column. label: for people.
        higher: is more better?
        scale: what a value is multiplied with to be shown, 100 for accuracies.
        unit: of a difference; "%" where differences are relative.
    """

    name: str
    label: str
    higher: bool
    scale: float
    unit: str

    @classmethod
    def of(cls, score: Score) -> Metric:
        """How a score is shown."""
        if score.lower_is_better:
            label = f"perplexity, {score.name.removeprefix('ppl_')}"
            return cls(score.name, label, False, 1.0, score.unit)
        label = "mean accuracy" if score.name == "mean_accuracy" else score.name
        return cls(score.name, label, True, 100.0, score.unit)

    def difference(self, a: float, b: float) -> float:
        """How much better `a` is than `b`, in `unit`: percentage points, or percent of `b`."""
        if self.higher:
            return self.scale * (a - b)
        return 100 * (b - a) / b

    def show(self, value: float) -> str:
        """A value with sensible digits."""
        shown = value * self.scale
        return f"{shown:.2f}" if self.higher or shown < 100 else f"{shown:.1f}"


@dataclass(frozen=True)
class Results:
    """The rows of `results` with what is needed to read them.

    Attributes:
        rows: one dict a cell of the latest grid.
        metrics: the scores that have any value, the primary one first; one at least.
        run: the row of `runs`.
    """

    rows: list[dict[str, Any]]
    metrics: list[Metric]
    run: dict[str, Any]

    @classmethod
    def read(cls, connection: duckdb.DuckDBPyConnection) -> Results:
        """Read the view."""
        rows = _dicts(connection.execute("SELECT * FROM results"))
        (run,) = _dicts(connection.execute("SELECT * FROM runs"))
        metrics = [Metric.of(s) for s in scores(connection).values()]
        return cls(rows, metrics or [Metric("mean_accuracy", "score", True, 100.0, "points")], run)

    @property
    def primary(self) -> Metric:
        """The score that the grid compares; the first there is where that one has no value."""
        return self.metrics[0]

    @cached_property
    def _ways(self) -> dict[tuple[Any, ...], set[tuple[str, str]]]:
        """Datasets with their samplers, by what else is fixed in a comparison group."""
        found: dict[tuple[Any, ...], set[tuple[str, str]]] = defaultdict(set)
        for row in self.calibrated():
            found[_but_sampler(row)].add((row["dataset"], row["sampler"]))
        return found

    def condition(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """The comparison group of a row, in the order of `CONDITION`."""
        ways = self._ways[_but_sampler(row)]
        alone = len(ways) > len({dataset for dataset, _ in ways}) or not ways
        samplers = {row["sampler"]} if alone else {sampler for _, sampler in ways}
        return *_but_sampler(row), ", ".join(sorted(map(str, samplers)))

    def calibrated(self) -> list[dict[str, Any]]:
        """The finished cells that were calibrated on a dataset, repetitions left out."""
        return [
            r
            for r in self.rows
            if r["dataset"] is not None and r["status"] == "done" and not r["replicate"]
        ]

    def conditions(self, metric: Metric) -> list[Condition]:
        """The comparison groups that have at least one score, in the order of the view."""
        groups: dict[tuple[Any, ...], dict[str, list[float]]] = {}
        for row in self.calibrated():
            value = row[metric.name]
            if value is not None:
                group = groups.setdefault(self.condition(row), defaultdict(list))
                group[row["dataset"]].append(value)
        return [
            Condition(dict(zip(CONDITION, key, strict=True)), dict(scores))
            for key, scores in groups.items()
        ]


@dataclass(frozen=True)
class Condition:
    """One comparison group: everything fixed but the dataset and the draw.

    Attributes:
        where: what is fixed. scores: the draws' scores by dataset.
    """

    where: dict[str, Any]
    scores: dict[str, list[float]]

    @property
    def means(self) -> dict[str, float]:
        """Mean score over draws, by dataset."""
        return {name: mean(values) for name, values in self.scores.items()}

    def ranked(self, metric: Metric) -> list[str]:
        """The datasets, best first."""
        means = self.means
        return sorted(means, key=lambda name: means[name], reverse=metric.higher)

    def gap(self, metric: Metric) -> float:
        """Best mean less worst mean, in the metric's unit."""
        order, means = self.ranked(metric), self.means
        return metric.difference(means[order[0]], means[order[-1]])


def _but_sampler(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in CONDITION[:-1])


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def recipe_labels(recipes: Iterable[str]) -> dict[str, str]:
    """A short name for every recipe: only the options by which those of one pruner differ."""
    parts = {recipe: recipe_parts(recipe) for recipe in set(recipes)}
    labels = {}
    for recipe, (name, options) in parts.items():
        alike = [o for n, o in parts.values() if n == name]
        told = [
            _option(option, value)
            for option, value in options.items()
            if option in ("allocation", "refine") or any(o.get(option) != value for o in alike)
        ]
        labels[recipe] = f"{name} ({', '.join(told)})" if told else name
    if len(set(labels.values())) < len(labels):  # options inside an allocation or a refiner
        return {recipe: recipe for recipe in parts}
    return labels


def recipe_parts(recipe: str) -> tuple[str, dict[str, str]]:
    """`name(a=1, b=x(c=2))` as its name and options."""
    name, _, inside = recipe.partition("(")
    options: dict[str, str] = {}
    depth, part = 0, ""
    for letter in inside.removesuffix(")") + ",":
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            option, _, value = part.strip().partition("=")
            if option:
                options[option] = value
            part = ""
        else:
            part += letter
    return name, options


def _option(option: str, value: str) -> str:
    """An option in a label; an allocation or refiner by its name alone."""
    return value.split("(")[0] if option in ("allocation", "refine") else f"{option}={value}"


def generated_datasets(grid: str | None) -> set[str]:
    """The datasets of a grid that the model writes itself."""
    try:
        written = YAML(typ="safe").load(grid or "") or {}
    except YAMLError:  # what is compared does not depend on it
        written = {}
    datasets = written.get("datasets") or {}
    named = {n for n, spec in datasets.items() if isinstance(spec, dict) and "generate" in spec}
    return named | {"synthetic"}


def _dicts(result: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in result.description or ()]
    rows: Iterable[tuple[Any, ...]] = result.fetchall()
    return [dict(zip(names, row, strict=True)) for row in rows]
