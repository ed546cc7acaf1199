"""What a person sees: the dry run, the progress of a run, its results and its failures."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from jobs.drive import State
from jobs.failures import old_failures
from jobs.plan import estimates
from jobs.plan.cells import Cell, labels
from jobs.plan.planning import Planned
from jobs.run import RunFolder
from jobs.store.schema import identifier
from prune.recipe import DENSE

MOST_NOTE = 60
"""Characters of a running stage's note that the progress display has room for."""

SETTING = ("model", "recipe", "pattern", "sparsity", "size", "seqlen", "sampler", "dataset")
"""What a row of the results table is about; draws alone are averaged."""

MOST_WORD = 30
"""Characters of a name that the results table keeps together where it has to wrap."""

MOST_ROWS = 40
"""Rows that the dry run spells out; larger grids are summed up by recipe."""


def dry_run(planned: Planned, state: State, run: RunFolder, console: Console) -> None:
    """Print the cells of a plan, what they share, what is done already, and what the rest costs."""
    cells = planned.cells
    rows = _by_recipe(cells, state)
    table = Table(title=f"{planned.plan.name}: {len(cells):,} cells", title_justify="left")
    for column in ("recipe", "pattern", "sparsity", "datasets", "sizes", "seeds"):
        table.add_column(column)
    table.add_column("cells", justify="right")
    table.add_column("done", justify="right")
    for row in rows[:MOST_ROWS]:
        table.add_row(*row)
    if len(rows) > MOST_ROWS:
        table.add_row(f"... and {len(rows) - MOST_ROWS} more rows")
    console.print(table)
    shared = sum(c.draw is None for c in cells.values())
    evaluations = len(planned.plan.evaluations(next(iter(planned.plan.inputs.models))))
    console.print(
        f"{planned.products:,} combinations make {len(cells):,} cells: {shared:,} need no "
        f"calibration data and stand for every dataset, size and seed. "
        f"{evaluations} evaluations a cell. Done: {len(state.done):,}; to run: "
        f"{len(state.queued):,}; failed before: {len(state.failed):,}.",
        highlight=False,
    )
    for line in estimates.lines(planned, state.queued, run.path):
        console.print(line, highlight=False)
    for name in sorted(set(planned.unresolved)):
        console.print(f"unresolved: {name} is not on this machine yet", highlight=False)


def _by_recipe(cells: dict[str, Cell], state: State) -> list[tuple[str, ...]]:
    groups: dict[tuple[str, str, float], list[tuple[str, Cell]]] = defaultdict(list)
    several = len({cell.model for cell in cells.values()}) > 1
    for key, cell in cells.items():
        name = f"{cell.model}: {cell.recipe.short()}" if several else cell.recipe.short()
        groups[name, cell.pattern, float(cell.sparsity)].append((key, cell))
    rows: list[tuple[str, ...]] = []
    for (recipe, pattern, sparsity), members in groups.items():
        draws = [c.draw for _, c in members if c.draw]
        rows.append(
            (
                recipe,
                pattern,
                f"{sparsity:g}",
                _listed(d.dataset for d in draws),
                _listed(d.size for d in draws),
                _listed(c.seed for _, c in members if c.seed is not None),
                str(len(members)),
                str(sum(key in state.done for key, _ in members)),
            )
        )
    return rows


def _listed(values: Iterator[Any]) -> str:
    distinct = list(dict.fromkeys(values))
    shown = ", ".join(map(str, distinct[:6])) + (", ..." if len(distinct) > 6 else "")
    return shown or "-"


class Watch:
    """The live display of a run; plain lines where the output is no terminal."""

    def __init__(self, run: RunFolder, cells: dict[str, Cell], console: Console) -> None:
        self.run = run
        self.cells = cells
        self.labels = labels(cells)
        self.console = console
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("cells"),
            TimeElapsedColumn(),
            console=console,
        )
        self.task = self.bar.add_task(run.path.name, total=len(cells))
        self.live = Live(console=console, refresh_per_second=4, transient=True)
        self.said: set[str] = set()
        self.note = ""

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def __call__(self, state: State) -> None:
        """Show the state; called several times a second."""
        self.bar.update(self.task, completed=len(state.done) + len(state.failed))
        if self.console.is_terminal:
            self.live.update(Group(self.bar, self._running(state), state.note))
            return
        if state.note != self.note:
            self.note = state.note
            self.console.print(self.note or "nothing keeps jobs waiting any more", highlight=False)
        for key in [*sorted(state.done), *sorted(state.failed)]:
            if key not in self.said:
                self.said.add(key)
                word = "done" if key in state.done else "FAILED"
                count = f"{len(self.said)}/{len(self.cells)}"
                self.console.print(f"{count} {word}: {self.labels[key]}", highlight=False)

    def _running(self, state: State) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for key in sorted(state.running):
            try:
                beat = json.loads(self.run.heartbeat(key).read_text("utf-8"))
            except (FileNotFoundError, ValueError):
                continue  # waits for its turn in a process, or has just ended
            where = f"{beat['done']}/{beat['total']}" if beat["total"] else ""
            stage, note = Text(beat["stage"], "cyan"), beat.get("note", "")[:MOST_NOTE]
            table.add_row(f"  {self.labels[key]}", stage, where, note)
        return table


def results_table(database: Path, width: int) -> Table:
    """The `results` view, draws averaged with their spread beside; columns as `width` allows.

    The single tasks go first, then scores from the last: what a row is about stays readable.
    """
    with duckdb.connect(str(database), read_only=True) as connection:
        names = [row[0] for row in connection.execute("DESCRIBE results").fetchall()]
        figures = _figures(names)
        if 60 + 16 * len(figures) > width:  # the mean says most of the single tasks
            figures = [f for f in figures if f == "mean_accuracy" or f.startswith("ppl_")]
        columns = [identifier(figure) for figure in figures]
        averages = "".join(
            f", avg({c}), CASE WHEN count({c}) > 1 THEN stddev_samp({c}) END" for c in columns
        )
        query = f"""
            FROM (
                SELECT {", ".join(SETTING)}, any_value(pruner), avg(similarity) {averages}
                FROM results WHERE replicate = 0 GROUP BY ALL
            ) ORDER BY model, recipe <> '{DENSE}', {", ".join(SETTING[1:])}
        """
        rows = connection.execute(query).fetchall()
    unbounded = Console(width=10_000)
    while True:
        table = _results_table(rows, figures)
        needed = Measurement.get(unbounded, unbounded.options, table).minimum
        if needed <= width or len(figures) < 2:
            return table
        figures = figures[:-1]


def _results_table(rows: Sequence[tuple[Any, ...]], figures: Sequence[str]) -> Table:
    """The table of rows that the query of `results_table` gave, with the first figures of it."""
    pruner = len(SETTING)
    recipes = {(row[pruner], row[1]) for row in rows}
    shared = {name for name, n in Counter(name for name, _ in recipes).items() if n > 1}
    labels = [_labels(row, row[pruner] not in shared) for row in rows]
    title = "results: mean over draws ± standard deviation"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    varied = [i for i, n in enumerate(SETTING) if n in ("recipe", "dataset") or _varies(labels, i)]
    for i in varied:
        words = [word for label in labels for word in label[i].split()]
        longest = min(max(map(len, words), default=0), MOST_WORD)
        table.add_column(SETTING[i], min_width=longest, overflow="fold")
    for name in ("similarity", *figures):
        table.add_column(Text(_header(name)), justify="right", no_wrap=True)
    for label, row in zip(labels, rows, strict=True):
        near, values = row[pruner + 1], row[pruner + 2 :]
        pairs = zip(values[::2], values[1::2], strict=True)
        scores = [_figure(mean, spread) for mean, spread in pairs][: len(figures)]
        table.add_row(
            *(Text(label[i]) for i in varied), "-" if near is None else f"{near:.4f}", *scores
        )
    return table


def _labels(row: tuple[Any, ...], by_name: bool) -> list[str]:
    """What a row of the results table is about; recipes by base name where that is enough."""
    model, recipe, pattern, sparsity, *drawn, pruner = row[: len(SETTING) + 1]
    known = (model, pruner if by_name else recipe, pattern, f"{sparsity:g}", *drawn)
    return ["-" if value is None else str(value) for value in known]


def _header(name: str) -> str:
    """A column's name on two lines, so that its figures set the width."""
    for part in ("simi", "mean_", "ppl_"):
        name = name.replace(part, part + "\n")
    return name


def _varies(labels: list[list[str]], column: int) -> bool:
    """Does a column tell rows apart? The dense baseline has a sparsity and a pattern of its own."""
    shown = (label for label in labels if column == 0 or label[1] != DENSE)
    return len({label[column] for label in shown} - {"-"}) > 1


def warnings(database: Path) -> list[str]:
    """What a reader of the results should know: dense figures that are off, and of the text."""
    with duckdb.connect(str(database), read_only=True) as connection:
        off = connection.execute(
            "SELECT DISTINCT notes ->> '$.reference' AS off FROM evaluations "
            "WHERE in_grid AND off IS NOT NULL ORDER BY ALL"
        ).fetchall()
        shared = connection.execute(
            "SELECT dataset, task, max(found), max(task_documents) FROM contamination "
            "WHERE found > 0 GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        samples = connection.execute(
            "SELECT dataset, max(units) FROM similarity WHERE measure = 'jaccard' "
            "AND units IS NOT NULL GROUP BY ALL ORDER BY 2, 1"
        ).fetchall()
        same = connection.execute(
            "SELECT DISTINCT dataset, other_dataset, shares_cells FROM same_texts ORDER BY ALL"
        ).fetchall()
    found = [text for (text,) in off]
    for dataset, other, shares_cells in same:
        how = f"it is compared once, as {dataset}" if shares_cells else "they count as two datasets"
        found.append(f"{dataset} and {other} hold the same text: {how}")
    found += [
        f"dataset {dataset} shares 13 words in a row with {n:,} of {total:,} documents of {task}"
        for dataset, task, n, total in shared
    ]
    if len({units for _, units in samples}) > 1:
        listed = ", ".join(f"{dataset} {units:,}" for dataset, units in samples)
        found.append(
            f"similarities rest on different amounts of text ({listed}), and Jaccard grows with "
            f"it: to compare them, set similarity.tokens: {samples[0][1]}"
        )
    return found


def example_query(database: Path) -> str:
    """A query that fits the results of a database, for a reader to start from."""
    with duckdb.connect(str(database), read_only=True) as connection:
        names = [row[0] for row in connection.execute("DESCRIBE results").fetchall()]
        found = connection.execute(
            "SELECT pruner FROM results WHERE dataset IS NOT NULL "
            "GROUP BY ALL ORDER BY count(*) DESC, pruner"
        ).fetchone()
        counts = ", ".join(f"count(DISTINCT {name}) > 1" for name in SETTING)
        several = connection.execute(
            f"SELECT {counts} FROM results WHERE pruner = ? AND dataset IS NOT NULL", found or [""]
        ).fetchall()[0]
    ppl = [n for n in names if n.startswith("ppl_")]
    plain = bool(ppl) and re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", ppl[0]) is not None
    figure = f"avg({ppl[0] if plain else identifier(ppl[0])})" if ppl else "avg(mean_accuracy)"
    if found is None:  # nothing here read calibration text
        return f"SELECT recipe, sparsity, {figure} AS score FROM results GROUP BY ALL ORDER BY ALL"
    always = ("dataset", "sparsity")
    more = "".join(f", {n}" for n, s in zip(SETTING, several, strict=True) if s and n not in always)
    return (
        f"SELECT dataset, sparsity{more}, avg(similarity) AS similarity, {figure} AS score "
        f"FROM results WHERE pruner = '{found[0]}' GROUP BY ALL ORDER BY sparsity{more}, score"
    )


def _figures(names: list[str]) -> list[str]:
    """The columns of `results` that are scores; the mean accuracy where there is a task."""
    scores = names[names.index("mean_accuracy") : names.index("gpu_seconds")]
    return scores if any(not n.startswith("ppl_") for n in scores[1:]) else scores[1:]


def _figure(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return "-"
    digits = 3 if abs(mean) < 10 else 1
    return f"{mean:.{digits}f}" + ("" if spread is None else f"±{spread:.{digits}f}")


def failures(run: RunFolder, state: State, console: Console) -> None:
    """Print the cells that failed, equal causes together, with one log each."""
    latest = {key: found[-1] for key in state.failed if (found := run.failures(key))}
    counts = Counter(f["signature"] for f in latest.values())
    for signature, count in counts.most_common():
        example = next(f for f in latest.values() if f["signature"] == signature)
        log = run.path / example["log"] if example["log"] else "no log"
        console.print(Text.assemble((f"{count} failed", "red"), f": {example['cause']}"))
        console.print(f"    log: {log}", highlight=False, soft_wrap=True)
    if said := old_failures(run, state.failed):
        console.print(said, highlight=False, soft_wrap=True)
