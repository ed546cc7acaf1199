"""The tables of answers that a results database gives, as rows: gaps, best sets, shares, ..."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from analysis.association import associate
from analysis.comparisons import BUT_DATA, SAME_TEXT, SETTING, as_block, by_sampler, strata
from analysis.data import ESTIMANDS, Data, Row, mean_of
from analysis.gaps import best_set, fit, gap
from analysis.pairs import pair_table
from analysis.power import ALPHA
from analysis.scores import Cell, Outcomes
from analysis.shares import shares

CONTROLS = ("random_tokens", "ellipses")
"""Datasets that stand for no text; left out of variance shares and associations."""


def _dataset_settings(of: Iterable[Cell]) -> Iterator[tuple[Row, dict[str, list[Cell]]]]:
    """The settings in which datasets are compared, with the cells of each dataset."""
    once = [c for c in of if c.dataset is not None and c.replicate == 0]
    for values, members in strata(once, BUT_DATA).items():
        setting = dict(zip(BUT_DATA, values, strict=True))
        for sampler, group in by_sampler(members).items():
            arms = {str(d): cells for (d,), cells in strata(group, ("dataset",)).items()}
            flags = ["sampler"] * (len({c.sampler for c in group}) > 1)
            texts = [cells[0].text for cells in arms.values() if cells[0].text]
            flags += [SAME_TEXT] * (len(set(texts)) < len(texts))
            if len(arms) > 1:
                yield setting | {"sampler": sampler, "mixed": ", ".join(flags)}, arms


def gap_table(data: Data) -> list[Row]:
    """The gap between datasets in every setting, beside its null distribution."""
    rows = []
    for setting, arms in _dataset_settings(data.cells):
        found = data.outcomes([c for group in arms.values() for c in group])
        blocks = [as_block(group, 1.0, found) for group in arms.values()]
        means = {name: mean_of(group) for name, group in arms.items()}
        order = sorted(means, key=lambda name: means[name], reverse=data.score.lower_is_better)
        row = {
            "score": data.score.name,
            **setting,
            "datasets": len(arms),
            "draws": min(len(group) for group in arms.values()),
            "best": order[-1],
            "worst": order[0],
            "mean_best": means[order[-1]],
            "mean_worst": means[order[0]],
            "unit": data.score.unit,
        }
        observed = [float(b.scores.mean()) for b in blocks]
        row["gap"] = data.score.shown(max(observed) - min(observed))
        told = []
        for estimand in ("draws", "questions"):
            fitted = fit(blocks, found.documents if found else None, estimand)
            if fitted is not None:
                result = gap(fitted)
                told.append(
                    row
                    | {
                        "estimand": ESTIMANDS[estimand],
                        "if_nothing_differed": data.score.shown(result.expected),
                        "at_most": data.score.shown(result.high),
                        "p": result.p,
                        "verdict": "differs" if result.p < ALPHA else "undecided",
                    }
                )
        verdict = "one draw" if row["draws"] < 2 else "draws tie"
        rows += told or [row | {"estimand": ESTIMANDS["sets"], "verdict": verdict}]
    return rows


def best_table(data: Data) -> list[Row]:
    """Every dataset in every setting: may it be the best?"""
    rows = []
    for setting, arms in _dataset_settings(data.cells):
        found = data.outcomes([c for group in arms.values() for c in group])
        sign = -1.0 if data.score.lower_is_better else 1.0
        blocks = [as_block(group, sign, found) for group in arms.values()]
        for estimand in ("draws", "questions"):
            fitted = fit(blocks, found.documents if found else None, estimand)
            if fitted is None:
                continue
            for (dataset, group), may in zip(arms.items(), best_set(fitted), strict=True):
                rows.append(
                    {
                        "score": data.score.name,
                        **setting,
                        "dataset": dataset,
                        "estimand": ESTIMANDS[estimand],
                        "mean": mean_of(group),
                        "draws": len(group),
                        "may_be_best": may,
                    }
                )
    return rows


def share_table(data: Data) -> list[Row]:
    """What the spread of scores is due to, in every balanced part of the grid."""
    names = [n for n in BUT_DATA if n != "recipe"]
    chosen = [
        c
        for c in data.cells
        if c.dataset is not None and c.dataset not in CONTROLS and c.replicate == 0
    ]
    rows = []
    settings = (
        (dict(zip(names, values, strict=True)) | {"sampler": sampler}, group)
        for values, members in strata(chosen, names).items()
        for sampler, group in by_sampler(members).items()
    )
    for setting, group in settings:
        table = _balanced(group)
        if table is None:
            continue
        scores, datasets, pruners = table
        for share in shares(scores):
            rows.append(
                {
                    "score": data.score.name,
                    **setting,
                    "source": share.source,
                    "share": share.share,
                    "low": share.low,
                    "high": share.high,
                    "sd": share.sd,
                    "datasets": datasets,
                    "pruners": pruners,
                    "draws": scores.shape[2],
                }
            )
    return rows


def _balanced(
    members: Sequence[Cell],
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], str, str] | None:
    """[datasets, pruners, draws] of what is complete, with the names; None where that is little."""
    value = {(c.dataset, c.recipe, c.seed): c.value for c in members}
    datasets = sorted({c.dataset for c in members if c.dataset is not None})
    recipes = sorted({c.recipe for c in members})
    seeds = {
        d: sorted(
            s
            for s in {c.seed for c in members if c.dataset == d and c.seed is not None}
            if all((d, r, s) in value for r in recipes)
        )
        for d in datasets
    }
    draws = min((len(s) for s in seeds.values()), default=0)
    if draws < 2 or len(datasets) < 2 or len(recipes) < 2:
        return None
    table = np.array(
        [[[value[d, r, s] for s in seeds[d][:draws]] for r in recipes] for d in datasets]
    )
    return table, ", ".join(datasets), ", ".join(recipes)


def association_table(data: Data) -> list[Row]:
    """How similarity and quality of the datasets go with their scores, each given the other."""
    found_of = _measured(data)
    rows = []
    for setting, arms in _dataset_settings(data.cells):
        measured: dict[str, dict[str, float]] = defaultdict(dict)
        for name, group in arms.items():
            for measure, value in found_of[_source(group[0])].items():
                measured[measure][name] = value
        better = -1.0 if data.score.lower_is_better else 1.0
        means = {
            name: better * float(np.mean([c.value for c in group]))
            for name, group in arms.items()
            if name not in CONTROLS
        }
        for measure, values in measured.items():
            for other in (None, *(m for m in ("jaccard", "quality") if m != measure)):
                given = None if other is None else measured.get(other)
                if other is not None and (given is None or measure not in ("jaccard", "quality")):
                    continue
                known = [d for d in means if d in values and (given is None or d in given)]
                x, y = np.array([values[d] for d in known]), np.array([means[d] for d in known])
                z = None if given is None else np.array([given[d] for d in known])
                found = associate(x, y, z)
                if found is not None:
                    rows.append(
                        {
                            "score": data.score.name,
                            **setting,
                            "measure": measure,
                            "given": other,
                            **vars(found),
                            "points": "; ".join(
                                f"{d}: {a:.4g}, {mean_of(arms[d]):.4g}"
                                for d, a in zip(known, x, strict=True)
                            ),
                        }
                    )
    return rows


def _measured(data: Data) -> dict[tuple[Any, ...], dict[str, float]]:
    """What was measured of each text as it was drawn: measure -> its value."""
    found: dict[tuple[Any, ...], dict[str, float]] = defaultdict(dict)
    for *source, measure, value in data.connection.execute(
        "SELECT r.model, r.dataset, r.seqlen, r.sampler, s.measure, avg(s.value) "
        "FROM similarity s JOIN results r USING (cell) WHERE s.value IS NOT NULL GROUP BY ALL "
        "UNION ALL SELECT model, dataset, seqlen, sampler, 'quality', avg(quality) "
        "FROM results WHERE quality IS NOT NULL GROUP BY ALL"
    ).fetchall():
        found[tuple(source)][measure] = value
    return found


def _source(cell: Cell) -> tuple[Any, ...]:
    return cell.model, cell.dataset, cell.seqlen, cell.sampler


def noise_table(data: Data) -> list[Row]:
    """How far repetitions of the very same cell are apart: the noise floor."""
    groups = [g for g in strata(data.cells, (*SETTING, "seed")).values() if len(g) > 1]
    names = [n for n in SETTING if n != "dataset"]
    rows = []
    by_setting: dict[tuple[Any, ...], list[list[Cell]]] = defaultdict(list)
    for group in groups:
        by_setting[tuple(getattr(group[0], n) for n in names)].append(group)
    for values, members in by_setting.items():
        found = data.outcomes([c for group in members for c in group])
        dfs = sum(len(group) - 1 for group in members)
        squares = sum(
            float(((v := np.array([c.value for c in group])) - v.mean()) @ (v - v.mean()))
            for group in members
        )
        changed = [share for group in members if (share := _changed(group, found)) is not None]
        rows.append(
            {
                "score": data.score.name,
                **dict(zip(names, values, strict=True)),
                "cells": sum(map(len, members)),
                "sd": float(np.sqrt(squares / dfs)),
                "unit": data.score.unit,
                "changed_outcomes": float(np.mean(changed)) if changed else None,
            }
        )
    return rows


def _changed(group: Sequence[Cell], found: Outcomes | None) -> float | None:
    """The share of documents on which repetitions do not agree."""
    rows = [None if found is None else found.of(c.cell) for c in group]
    known = [row for row in rows if row is not None]
    return None if len(known) < len(rows) else float((np.ptp(np.stack(known), 0) > 0).mean())


TABLES: dict[str, tuple[Callable[[Data], list[Row]], str]] = {
    "pairs": (pair_table, "Which differences between datasets, pruners, sizes, ... are real?"),
    "gaps": (gap_table, "How far are datasets apart, and how far would they be by chance?"),
    "best": (best_table, "Which datasets may be the best?"),
    "shares": (share_table, "What is the spread of scores due to: dataset, pruner, draw?"),
    "similarity": (association_table, "Do similarity and quality of a dataset go with its score?"),
    "noise": (noise_table, "How far are repetitions of the very same cell apart?"),
}
"""name -> (its rows, the question that it answers)"""
