"""Published figures beside a run's own: `python -m analysis.published results.duckdb [PACK]`.

Prints *published, ours, difference*. A difference stands only against a like row: same seqlen,
BOS, harness, metric, source and number of draws, as far as the publication says; otherwise
*not comparable*, and why. The figures are in `analysis/published/`, one file a grid of
`jobs/grids/`, each with its source and how far it can be trusted.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from statistics import stdev
from typing import Any

import duckdb

from analysis.command import database_parser, run
from analysis.formats import FORMATS
from analysis.results import Results, generated_datasets, mean, recipe_parts
from analysis.scores import DatabaseError, opened

HEADER = ("published in", "what", "published", "ours", "difference", "not comparable because")
DERIVED = ("gap", "sd", "gain")
"""Prefixes of metrics that are made of several datasets or draws."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = database_parser("published", __doc__)
    parser.add_argument("pack", nargs="?", help="a pack (default: the one of the run's name)")
    parser.add_argument("--format", choices=sorted(FORMATS), default="table")
    options = parser.parse_args(arguments)
    known = packs()
    try:
        with opened(options.database) as connection:
            own = Own.read(connection)
    except DatabaseError as error:
        print(error, file=sys.stderr)
        return 2
    pack = options.pack or own.results.run.get("run")
    if pack not in known:
        parser.error(f"no published figures for {pack!r}; there is: {', '.join(known)}")
    FORMATS[options.format](HEADER, [compare(p, own).line() for p in read(pack)])
    return 0


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


@dataclass(frozen=True)
class Comparison:
    """A published figure, our own (None: not run), and why they cannot be compared, if so."""

    published: Published
    ours: list[float]
    spread: float | None
    reasons: list[str]

    def line(self) -> list[str]:
        """The row of the table, in the order of `HEADER`."""
        p = self.published
        values = (p.pruner, p.allocation, p.refine, p.dataset, p.pattern)
        what = [p.model, *(v for v in values if v is not None)]
        what += [f"{100 * p.sparsity:g} %"] if p.sparsity is not None else []
        what += [f"n={p.size}"] if p.size is not None else []
        ours = "not run" if not self.ours else " to ".join(f"{v:.2f}" for v in self.ours)
        ours += f" ± {self.spread:.2f}" if self.spread is not None else ""
        difference = "" if self.reasons or not self.ours else self._difference()
        return [
            f"{p.source}, {p.where} ({p.trust})",
            f"{p.metric}: {', '.join(what)}",
            self._published(),
            ours,
            difference,
            "; ".join(self.reasons),
        ]

    def _published(self) -> str:
        p = self.published
        text = "" if p.value is None else f"{p.value:g}" + ("" if p.sd is None else f" ± {p.sd:g}")
        if p.low is not None and p.high is not None:
            text += f" [{p.low:g}, {p.high:g}]"
        return text.strip()

    def _difference(self) -> str:
        p = self.published
        ours = mean(self.ours)
        if p.value is not None:
            return f"{ours - p.value:+.2f}"
        low, high = p.low if p.low is not None else ours, p.high if p.high is not None else ours
        outside = [v - high if v > high else v - low for v in self.ours if not low <= v <= high]
        return f"{max(outside, key=abs):+.2f} outside" if outside else "inside"


def compare(published: Published, own: Own) -> Comparison:
    """Our figure for a published one, with what keeps the two from being compared."""
    rows = own.like(published)
    if not rows:
        return Comparison(published, [], None, [])
    scale = 1.0 if published.base.startswith(("ppl_", "similarity")) else 100.0
    ours, spread = _figure(published, rows, scale, own)
    if not ours:
        return Comparison(published, [], None, [])
    return Comparison(published, ours, spread, list(_differences(published, rows, own)))


def _figure(
    published: Published, rows: list[dict[str, Any]], scale: float, own: Own
) -> tuple[list[float], float | None]:
    """One value, or least and greatest of several; and the spread over draws of a single one."""
    draws: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        group = f"{row['model']} {row['recipe']} {row['pattern']} {row['size']}"
        draws[group, own.results.series(row)].append(scale * row[published.base])
    if published.kind is None:
        values = [v for scores in draws.values() for v in scores]
        spread = stdev(values) if len(values) > 1 and len(draws) == 1 else None
        return [mean(values)], spread
    found = list(_derived(published, draws, own))
    return sorted({min(found), max(found)}) if found else [], None


def _derived(
    published: Published, draws: dict[tuple[str, str], list[float]], own: Own
) -> Iterator[float]:
    """Spreads over draws, gaps between datasets, or gains of generated text, one a group."""
    if published.kind == "sd":
        yield from (stdev(v) for v in draws.values() if len(v) > 1)
        return
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for (group, dataset), scores in draws.items():
        groups[group][dataset] = mean(scores)
    generated = generated_datasets(own.results.run.get("grid"))
    rival = (published.dataset or "").partition(" - ")[2]
    for means in groups.values():
        if published.kind == "gap" and len(means) > 1:
            yield max(means.values()) - min(means.values())
        elif published.kind == "gain" and rival in means:
            yield from (means[n] - means[rival] for n in means if n in generated)


def _differences(published: Published, rows: list[dict[str, Any]], own: Own) -> Iterator[str]:
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


if __name__ == "__main__":
    run(main)
