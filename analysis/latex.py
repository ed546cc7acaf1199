"""The big table of a study in LaTeX: the best of each row in bold, ties marked."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import stdev
from typing import Any

from analysis.report.findings import Row
from analysis.results import CONDITION, Condition, Metric, Results, mean, recipe_labels

SPECIAL = {c: rf"\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\^{}"}
SPECIAL |= {"\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}"}

TIE = r"$^{\approx}$"


def latex_table(results: Results, metric: Metric, ties: Sequence[Row]) -> str:
    """A `table` environment (package booktabs): one row a comparison group, one column a dataset.

    Each entry is the mean over draws with its standard deviation.

    Args:
        results: the run.
        metric: the score.
        ties: for each group, the datasets that may be the best; see `findings.listed_ties`.
    """
    conditions = results.conditions(metric)
    datasets = sorted({name for c in conditions for name in c.scores})
    axes = [a for a in CONDITION if a == "recipe" or _varies(conditions, a)]
    labels = recipe_labels(r["recipe"] for r in results.rows)
    tied = {tuple(row["where"]): set(row["names"]) for row in ties}
    lines = []
    for condition in conditions:
        where = [condition.where[axis] for axis in axes]
        words = [_word(axis, value, labels) for axis, value in zip(axes, where, strict=True)]
        may = tied.get(tuple(condition.where[a] for a in CONDITION), set())
        best = condition.ranked(metric)[0] if len(condition.scores) > 1 else None
        entries = [_entry(condition, name, metric, best, may) for name in datasets]
        lines.append(" & ".join([*map(escape, words), *entries]) + r" \\")
    heads = [escape("pruner" if axis == "recipe" else axis) for axis in axes]
    heads += [escape(name) for name in datasets]
    note = f"; {TIE} may be the best too (95 per cent confidence set, for any draw)" if ties else ""
    unit = ", in per cent" if metric.higher else ""
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(metric.label.capitalize())}{unit}: mean and standard deviation "
            rf"over draws. Bold: best of its row{note if ties else ''}.}}",
            rf"\begin{{tabular}}{{{'l' * len(axes)}{'r' * len(datasets)}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Text with LaTeX's special characters made harmless."""
    return "".join(SPECIAL.get(c, c) for c in text)


def _entry(
    condition: Condition, name: str, metric: Metric, best: str | None, tied: set[str]
) -> str:
    scores = condition.scores.get(name)
    if not scores:
        return "--"
    text = metric.show(mean(scores))
    if len(scores) > 1:
        text += rf"{{\scriptsize$\pm${metric.scale * stdev(scores):.2f}}}"
    if name == best:
        return rf"\textbf{{{text}}}"
    return text + (TIE if name in tied else "")


def _varies(conditions: list[Condition], axis: str) -> bool:
    return len({c.where[axis] for c in conditions}) > 1


def _word(axis: str, value: Any, labels: dict[str, str]) -> str:
    if axis == "recipe":
        return labels[value]
    return f"{100 * value:g} %" if axis == "sparsity" else str(value).rsplit("/", 1)[-1]
