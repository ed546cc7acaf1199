"""The big table of a study in LaTeX: the best of each row in bold, ties marked."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import stdev
from typing import Any

import numpy as np

from analysis.report.findings import Row
from analysis.results import CONDITION, Condition, Metric, Results, mean, recipe_labels

SPECIAL = {c: rf"\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\^{}"}
SPECIAL |= {"\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}"}

MOST_COLUMNS = 5
"""Datasets beside each other; more go into parts below each other, as print would be too small."""

TIE = r"$^{\approx}$"


def latex_table(results: Results, metric: Metric, ties: Sequence[Row]) -> str:
    """A `table` environment: one row a comparison group, one column a dataset.

    Each entry is the mean over draws with its standard deviation. It needs the packages booktabs
    and graphicx.

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
    heads = [escape("pruner" if axis == "recipe" else axis) for axis in axes]
    lines = []
    for condition in conditions:
        words = [escape(_word(axis, condition.where[axis], labels)) for axis in axes]
        may = tied.get(tuple(condition.where[a] for a in CONDITION), set())
        best = condition.ranked(metric)[0] if len(condition.scores) > 1 else None
        lines.append((words, [_entry(condition, name, metric, best, may) for name in datasets]))
    parts = -(-len(datasets) // MOST_COLUMNS) or 1
    tabulars = []
    for columns in np.array_split(np.arange(len(datasets)), parts):
        rows = [[*words, *(entries[i] for i in columns)] for words, entries in lines]
        names = [escape(datasets[i]) for i in columns]
        tabulars.append(_tabular([*heads, *names], rows, len(heads)))
    note = f"; {TIE} may be the best too (95 per cent confidence set, for any draw)" if ties else ""
    over = f" over its {parts} parts" if parts > 1 else ""
    unit = ", in per cent" if metric.higher else ""
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(metric.label.capitalize())}{unit}: mean and standard deviation "
            rf"over draws. Bold: best of its row{over}{note}.}}",
            *([r"\footnotesize"] if parts > 1 else []),  # all of one size, that fits
            "\n\\par\\medskip\n".join(tabulars),
            r"\end{table}",
            "",
        ]
    )


def _tabular(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """One part of the table, no wider than the page; its first `left` columns are words."""
    return "\n".join(
        [
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(heads) - left)}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}}",
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
