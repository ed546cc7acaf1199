"""Published figures beside a run's own: `python -m analysis.published results.duckdb [PACK]`.

Prints *published, ours, difference*. A difference stands only against a like row: same seqlen,
BOS, harness, metric, source and number of draws, as far as the publication says; otherwise
*not comparable*, and why. The figures are in `analysis/published/`, one file a grid of
`jobs/grids/`, each with its source and how far it can be trusted.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import stdev
from typing import Any

from analysis.command import database_parser, run
from analysis.formats import FORMATS
from analysis.likeness import Own, differences
from analysis.publications import Published, packs, read
from analysis.results import generated_datasets, mean
from analysis.scores import DatabaseError, opened

HEADER = ("published in", "what", "published", "ours", "difference", "not comparable because")


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
    return Comparison(published, ours, spread, list(differences(published, rows, own)))


def _figure(
    published: Published, rows: list[dict[str, Any]], scale: float, own: Own
) -> tuple[list[float], float | None]:
    """One value, or least and greatest of several; and the spread over draws of a single one."""
    draws: dict[tuple[Any, str], list[float]] = defaultdict(list)
    for row in rows:
        draws[own.results.condition(row), row["dataset"]].append(scale * row[published.base])
    if published.kind is None:
        values = [v for scores in draws.values() for v in scores]
        spread = stdev(values) if len(values) > 1 and len(draws) == 1 else None
        return [mean(values)], spread
    found = list(_derived(published, draws, own))
    return sorted({min(found), max(found)}) if found else [], None


def _derived(
    published: Published, draws: dict[tuple[Any, str], list[float]], own: Own
) -> Iterator[float]:
    """Spreads over draws, gaps between datasets, or gains of generated text, one a group."""
    if published.kind == "sd":
        yield from (stdev(v) for v in draws.values() if len(v) > 1)
        return
    groups: dict[Any, dict[str, float]] = defaultdict(dict)
    for (group, dataset), scores in draws.items():
        groups[group][dataset] = mean(scores)
    generated = generated_datasets(own.results.run.get("grid"))
    rival = (published.dataset or "").partition(" - ")[2]
    for means in groups.values():
        if published.kind == "gap" and len(means) > 1:
            yield max(means.values()) - min(means.values())
        elif published.kind == "gain" and rival in means:
            yield from (means[n] - means[rival] for n in means if n in generated)


if __name__ == "__main__":
    run(main)
