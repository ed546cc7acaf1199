"""Figures and tables of a study: `python -m analysis.figures results.duckdb --out figures/`.

Writes every figure that the run's cells allow as PDF and PNG, and the big table as LaTeX. Colours
are those of Okabe and Ito, which colour-blind readers can tell apart; markers help in print.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any

from analysis.command import database_parser, run
from analysis.latex import latex_table
from analysis.report.findings import gather, listed_ties
from analysis.results import Condition, Metric, Results, mean, recipe_labels
from analysis.scores import DatabaseError, opened

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6d00", "#777777")
MARKERS = "osD^vPX*"
COLUMNS, PANEL = 3, (3.3, 2.6)
"""Panels beside each other, and the inches of each."""

DRAWN = {"model": "{}", "size": "{} windows", "seqlen": "{} tokens", "sampler": "{}"}
"""What tells panels apart beside the pruner, the sparsity and the pattern, in words."""

MOST_PANELS = 60
"""Of one figure; a larger grid shows the first settings of its order."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = database_parser("figures", __doc__, out="figures")
    parser.add_argument("--metric", help="the score (default: the one that the grid compares)")
    options = parser.parse_args(arguments)
    try:
        with opened(options.database) as connection:
            results = Results.read(connection)
            ties = listed_ties(gather(connection))
    except DatabaseError as error:
        print(error, file=sys.stderr)
        return 2
    if find_spec("matplotlib") is None:
        parser.error("figures need matplotlib: pip install 'calgrid[figures]'")
    names = {m.name: m for m in results.metrics}
    if options.metric not in (None, *names):
        parser.error(f"no score {options.metric!r}; there is: {', '.join(names)}")
    metric = names[options.metric] if options.metric else results.primary
    for path in write(results, metric, options.out):
        print(path)
    path = options.out / "scores.tex"
    path.write_text(latex_table(results, metric, ties.get(metric.name, [])), "utf-8")
    print(path)
    return 0


def write(results: Results, metric: Metric, out: Path) -> list[Path]:
    """Write every figure that there is data for; returns the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    mpl.rcParams.update({"pdf.fonttype": 42, "savefig.bbox": "tight", "legend.frameon": False})
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in FIGURES.items():
        figure = draw(results, metric)
        if figure is None:
            continue
        for suffix in ("pdf", "png"):
            path = out / f"{name}.{suffix}"
            # without a date, so that equal results give equal files
            metadata = {"CreationDate": None} if suffix == "pdf" else None
            figure.savefig(path, dpi=200, metadata=metadata)
            written.append(path)
        plt.close(figure)
    return written


def gaps(results: Results, metric: Metric) -> Figure | None:
    """Gap between the best and the worst dataset, by sparsity and pattern; a line a pruner."""
    groups: dict[tuple[Any, ...], list[Condition]] = defaultdict(list)
    for c in results.conditions(metric):
        if len(c.scores) > 1:
            groups[tuple(c.where[name] for name in DRAWN)].append(c)
    if not groups:
        return None
    figure, panels = _panels(len(groups), width=1.7 if len(groups) == 1 else 1.0)
    for axes, conditions in zip(panels, (groups[key] for key in sorted(groups)), strict=False):
        _gaps(axes, conditions, results, metric)
        if len(groups) > 1:
            axes.set_title(", ".join(_drawn(conditions[0].where, results)), fontsize=8.5)
    return figure


def _gaps(axes: Axes, conditions: Sequence[Condition], results: Results, metric: Metric) -> None:
    """One panel of `gaps`."""
    places = sorted(
        {(c.where["pattern"], c.where["sparsity"]) for c in conditions},
        key=lambda p: (p[0] != "unstructured", p[0], p[1]),
    )
    labels = recipe_labels(r["recipe"] for r in results.rows)
    for i, recipe in enumerate(dict.fromkeys(c.where["recipe"] for c in conditions)):
        found = {
            (c.where["pattern"], c.where["sparsity"]): c.gap(metric)
            for c in conditions
            if c.where["recipe"] == recipe
        }
        named = False
        for pattern in dict.fromkeys(p for p, _ in places):  # a line joins sparsities, no patterns
            xs = [k for k, place in enumerate(places) if place[0] == pattern and place in found]
            if xs:
                axes.plot(
                    xs,
                    [found[places[k]] for k in xs],
                    marker=MARKERS[i % len(MARKERS)],
                    color=COLOURS[i % len(COLOURS)],
                    label=None if named else labels[recipe],
                )
                named = True
    names = [f"{100 * s:g} %" + ("" if p == "unstructured" else f"\n{p}") for p, s in places]
    axes.set_xticks(range(len(places)), names)
    axes.set_ylim(0, 1.08 * max(c.gap(metric) for c in conditions) or 1)
    axes.set_xlabel("sparsity and pattern")
    axes.set_ylabel(f"best - worst dataset, {metric.unit}")
    _legend(axes)


def sizes(results: Results, metric: Metric) -> Figure | None:
    """Score against the number of windows, with 95 % t intervals over draws as bands."""
    groups: dict[tuple[Any, ...], dict[str, dict[int, list[float]]]] = defaultdict(dict)
    for c in results.conditions(metric):
        key = tuple((k, v) for k, v in c.where.items() if k != "size")
        for name, scores in c.scores.items():
            groups[key].setdefault(name, {})[c.where["size"]] = scores
    groups = {k: g for k, g in groups.items() if any(len(curve) > 1 for curve in g.values())}
    if not groups:
        return None
    figure, panels = _panels(len(groups))
    names = sorted({n for g in groups.values() for n in g})
    for axes, (where, curves) in zip(panels, groups.items(), strict=False):
        for name, curve in sorted(curves.items()):
            xs = sorted(curve)
            middle = [metric.scale * mean(curve[x]) for x in xs]
            half = [metric.scale * half_interval(curve[x]) for x in xs]
            style = _style(names, name)
            axes.plot(xs, middle, label=name, **style)
            low = [m - h for m, h in zip(middle, half, strict=True)]
            high = [m + h for m, h in zip(middle, half, strict=True)]
            axes.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        ticks = sorted({x for curve in curves.values() for x in curve})
        axes.set_xticks(ticks, [str(x) for x in ticks])
        _title(axes, dict(where), results)
    _name_axes(figure, panels, "windows", metric)
    return figure


def draws(results: Results, metric: Metric) -> Figure | None:
    """Every draw's score by dataset, with its mean."""
    conditions = [c for c in results.conditions(metric) if max(map(len, c.scores.values())) > 1]
    if not conditions:
        return None
    figure, panels = _panels(len(conditions))
    names = sorted({n for c in conditions for n in c.scores})
    for axes, c in zip(panels, conditions, strict=False):
        own = [n for n in names if n in c.scores]
        for k, name in enumerate(own):
            values = [metric.scale * v for v in c.scores[name]]
            style = _style(names, name)
            if len(values) >= 5:
                body = axes.violinplot([values], [k], showextrema=False)["bodies"]
                for part in body:  # type: ignore[attr-defined]
                    part.set(facecolor=style["color"], alpha=0.25)
            axes.plot([k] * len(values), values, ".", color=style["color"], alpha=0.6)
            axes.plot([k], [mean(values)], style["marker"], color=style["color"], markersize=7)
        axes.set_xticks(range(len(own)), own, rotation=30, ha="right")
        _title(axes, c.where, results)
    _name_axes(figure, panels, "", metric)
    return figure


def similarity(results: Results, metric: Metric) -> Figure | None:
    """Mean score against similarity to the reference; one point a dataset."""
    near = {
        (r["model"], r["seqlen"], r["dataset"]): r["similarity"]
        for r in results.calibrated()
        if r["similarity"] is not None
    }
    conditions = [
        c
        for c in results.conditions(metric)
        if sum((c.where["model"], c.where["seqlen"], n) in near for n in c.scores) > 1
    ]
    if not conditions:
        return None
    figure, panels = _panels(len(conditions))
    names = sorted({n for *_, n in near})
    for axes, c in zip(panels, conditions, strict=False):
        for name, scores in sorted(c.scores.items()):
            if (x := near.get((c.where["model"], c.where["seqlen"], name))) is not None:
                axes.errorbar(
                    [x],
                    [metric.scale * mean(scores)],
                    yerr=[metric.scale * half_interval(scores)],
                    label=name,
                    linestyle="",
                    **_style(names, name),
                )
        if min(near.values()) > 0:
            axes.set_xscale("log")
        _title(axes, c.where, results)
    _name_axes(figure, panels, "similarity to the reference (Jaccard)", metric)
    return figure


FIGURES: dict[str, Callable[[Results, Metric], Figure | None]] = {
    "gaps": gaps,
    "sizes": sizes,
    "draws": draws,
    "similarity": similarity,
}


def half_interval(values: Sequence[float]) -> float:
    """Half the 95 % t interval of a mean over draws; 0 with one draw."""
    if len(values) < 2:
        return 0.0
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def _panels(count: int, width: float = 1.0) -> tuple[Figure, list[Axes]]:
    """A figure of at most `MOST_PANELS` panels, in rows of `COLUMNS`."""
    import matplotlib.pyplot as plt

    count = min(count, MOST_PANELS)
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(PANEL[0] * columns * width, PANEL[1] * rows * max(1.0, width * 0.8)),
        squeeze=False,
        layout="constrained",
    )
    panels = list(grid.flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _style(names: Sequence[str], name: str) -> dict[str, Any]:
    """Colour and marker of a dataset, the same in every panel."""
    k = names.index(name)
    return {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}


def _title(axes: Axes, where: Mapping[str, Any], results: Results) -> None:
    """The title of a comparison group."""
    label = recipe_labels(r["recipe"] for r in results.rows)[where["recipe"]]
    first = ", ".join([label, *_drawn(where, results)])
    axes.set_title(f"{first}\n{100 * where['sparsity']:g} % {where['pattern']}", fontsize=8.5)


def _drawn(where: Mapping[str, Any], results: Results) -> list[str]:
    """Model, size, window length and sampler of a group, those of them that the run varies."""
    return [
        words.format(str(where[name]).rsplit("/", 1)[-1])
        for name, words in DRAWN.items()
        if name in where and len({r[name] for r in results.rows} - {None}) > 1
    ]


def _name_axes(figure: Figure, panels: Iterable[Axes], x: str, metric: Metric) -> None:
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(metric.label + (", %" if metric.higher else ""), fontsize=9)
    found: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found:
        names, shown = list(found), list(found.values())
        figure.legend(shown, names, loc="outside upper center", ncols=6, frameon=False)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, fontsize=8)


if __name__ == "__main__":
    run(main)
