"""What keeps a run's own rows from being compared with a published figure."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from analysis.publications import Published
from analysis.results import Results, recipe_parts


@dataclass(frozen=True)
class Own:
    """The run's own rows, and the settings of its evaluations by cell and name.

    The settings of a task have `num_fewshot`, those of a text have not.
    """

    results: Results
    settings: dict[str, dict[str, dict[str, Any]]]

    @classmethod
    def read(cls, connection: duckdb.DuckDBPyConnection) -> Own:
        """Read what the comparison needs."""
        rows = connection.execute(
            "SELECT cell, name, settings FROM evaluations WHERE in_grid"
        ).fetchall()
        settings: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for cell, name, text in rows:
            settings[cell][name] = json.loads(text or "{}")
        return cls(Results.read(connection), settings)

    def like(self, published: Published) -> list[dict[str, Any]]:
        """The finished cells of the same experiment, however they were measured."""
        return [
            row
            for row in self.results.rows
            if row["status"] == "done"
            and not row["replicate"]
            and row.get(published.base) is not None
            and _same_model(published.model, row["model"])
            and _same(published.pruner, row["pruner"])
            and _same(published.sparsity, row["sparsity"])
            and _same(published.pattern, row["pattern"])
            and (row["size"] is None or _same(published.size, row["size"]))
            and (published.kind or _same_dataset(published.dataset, row["dataset"]))
            and _same_parts(published, row["recipe"])
        ]


def differences(published: Published, rows: list[dict[str, Any]], own: Own) -> Iterator[str]:
    """Why the rows are not like the published one; nothing where they are."""
    p, text = published, published.base.startswith("ppl_")
    if p.sparsity is None and p.base != "similarity":
        yield "the publication does not say the sparsity"
    if p.dataset == "any":
        yield "the publication names no source"
    if p.base == "similarity":
        yield "the publication does not say how similarity was measured"
        return
    calibrated = any(r["dataset"] is not None for r in rows)
    if calibrated:
        if p.size is None and len({r["size"] for r in rows}) > 1:
            yield "the publication does not say the size, of which there are several here"
        yield from _unlike("seqlen", p.seqlen, {r["seqlen"] for r in rows})
        if p.kind is None:
            yield from _unlike("sampler", p.sampler, {r["sampler"] for r in rows})
            count = len({r["seed"] for r in rows})
            if p.draws is None:
                yield "the publication does not say how many draws"
            elif count < p.draws:
                yield f"{count} draws here, {p.draws} published"
    used = [
        setting
        for row in rows
        for name, setting in own.settings[row["cell"]].items()
        if (name == p.base.removeprefix("ppl_") if text else _counts(name, setting, p.base))
    ]
    yield from _unlike("BOS", p.bos, {s.get("bos") for s in used})
    if any(s.get("limit") is not None for s in used):
        yield "only the first documents were scored here (evaluate.limit)"
    if text:
        yield from _unlike("window length", p.eval_seqlen, {s.get("seqlen") for s in used})
        return
    if p.base == "mean_accuracy":
        tasks = {n for n, s in own.settings[rows[0]["cell"]].items() if "num_fewshot" in s}
        if p.tasks is None:
            yield "the publication's tasks are not known"
        elif tasks != set(p.tasks.split()):
            yield f"the mean is over {', '.join(sorted(tasks))} here"
    versions = {str(s.get("harness")) for s in used}
    if p.harness is None:
        yield "the publication does not say the version of lm-eval"
    elif other := sorted(v for v in versions if not v.startswith(p.harness)):
        yield f"lm-eval {', '.join(other)} here, {p.harness} published"


def _counts(name: str, setting: dict[str, Any], metric: str) -> bool:
    """Is an evaluation a task that the metric is made from?"""
    return "num_fewshot" in setting and metric in ("mean_accuracy", name)


def _unlike(what: str, published: Any, ours: set[Any]) -> Iterator[str]:
    if published is None:
        yield f"the publication does not say the {what}"
    elif ours != {published}:
        yield f"{what} {', '.join(sorted(map(str, ours)))} here, {published} published"


def _same(published: Any, ours: Any) -> bool:
    """Equal, or not said."""
    if isinstance(published, float) and isinstance(ours, float):
        return abs(published - ours) < 1e-9
    return published is None or published == ours


def _same_dataset(published: str | None, ours: str | None) -> bool:
    return published in (None, "any") or published == ours


def _same_model(published: str, ours: str) -> bool:
    """The same model by the last part of its name; `-hf` and a revision say nothing."""

    def bare(name: str) -> str:
        name = re.sub(r"@.*$", "", name.rstrip("/")).rsplit("/", 1)[-1].lower()
        return re.sub(r"^meta-|-hf$", "", name)

    return published == "any" or bare(published) == bare(ours)


def _same_parts(published: Published, recipe: str) -> bool:
    """Allocation, refiner and, where published, variant are the same."""
    _, options = recipe_parts(recipe)
    return (
        published.pruner is None
        or all(
            (getattr(published, part) or "") == options.get(part, "").partition("(")[0]
            for part in ("allocation", "refine")
        )
    ) and published.variant in (None, options.get("variant"))
