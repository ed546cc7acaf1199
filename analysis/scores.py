"""Scores of cells from a results database: by cell, and by document on the scale of comparisons.

Accuracies are compared in percentage points. Perplexities are compared on the scale of
100 log(perplexity), whose differences are printed as percent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from analysis.blocks import Array, Documents
from jobs.store import schema

TOLERANCE = 1e-6
"""Between a figure and the mean of its outcomes, relative: more says that it is no mean."""

PLAIN_MEANS = ("acc", "acc_norm", "exact_match")
"""Metrics that are the mean of their outcomes, whatever else is stored."""

LARGEST_LOG = 700
"""Beyond, the exponential is no number; intervals of two draws get there."""


class DatabaseError(ValueError):
    """A file that is no results database of this version."""


@contextmanager
def opened(database: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A results database, read-only.

    Raises:
        DatabaseError: it is missing, no database, or of another version; the message says so.
    """
    if not database.is_file():
        raise DatabaseError(f"no database {database}; python -m jobs.collect RUN makes it")
    try:
        connection = duckdb.connect(str(database), read_only=True)
    except duckdb.Error as error:
        raise DatabaseError(f"{database} cannot be read: {error}") from error
    with connection:
        try:
            found = connection.execute("SELECT schema_version FROM runs").fetchall()
        except duckdb.Error:
            found = None
        if found != [(schema.VERSION,)]:
            raise DatabaseError(
                f"{database} is no results database of version {schema.VERSION}; "
                f"python -m jobs.collect {database.parent} builds it anew"
            )
        yield connection


@dataclass(frozen=True)
class Score:
    """A column of `results` that is compared.

    Attributes:
        name: the column.
        lower_is_better: is it a perplexity?
        delta: the difference that matters, on the scale of comparisons.
        parts: (task or text, metric of its outcomes) that it is made of, each counting the same.
    """

    name: str
    lower_is_better: bool
    delta: float
    parts: tuple[tuple[str, str], ...]

    def scale(self, value: float) -> float:
        """A score on the scale of comparisons."""
        return 100 * math.log(value) if self.lower_is_better else 100 * value

    def shown(self, difference: float) -> float:
        """A difference on that scale as it is printed: points, or percent of a perplexity."""
        if not self.lower_is_better:
            return difference
        return 100 * math.expm1(min(difference / 100, LARGEST_LOG))

    @property
    def unit(self) -> str:
        """What differences are printed in."""
        return "%" if self.lower_is_better else "points"


def scores(connection: duckdb.DuckDBPyConnection) -> dict[str, Score]:
    """Every score that the database has a value of, the grid's primary one first."""
    rows = connection.execute(
        "SELECT score, any_value(lower_is_better) FROM scores WHERE value IS NOT NULL "
        "GROUP BY score ORDER BY min(number)"
    ).fetchall()
    wanted = connection.execute(
        "SELECT name, any_value(headline), any_value(kind) FROM evaluations "
        "WHERE in_grid GROUP BY name ORDER BY name"
    ).fetchall()
    primary, delta = connection.execute("SELECT primary_metric, delta FROM runs").fetchall()[0]
    tasks = tuple((name, headline) for name, headline, kind in wanted if kind == "task")
    texts = {name for name, _, kind in wanted if kind == "text"}
    found = {}
    for name, lower in rows:
        if name == "mean_accuracy":
            parts = tasks
        elif name.startswith("ppl_") and name.removeprefix("ppl_") in texts:
            parts = ((name.removeprefix("ppl_"), "loss"),)
        else:  # one task; or a figure of a text that is no mean over its windows: by cell only
            parts = tuple(t for t in tasks if t[0] == name)
        matters = 100 * math.log1p(delta / 100) if lower else delta
        found[name] = Score(name, lower, matters, parts)
    if len(tasks) == 1 and primary == "mean_accuracy":
        found.pop("mean_accuracy", None)  # the same figures as the one task's
        primary = tasks[0][0]
    return dict(sorted(found.items(), key=lambda item: item[0] != primary))


def told_scores(connection: duckdb.DuckDBPyConnection) -> list[Score]:
    """The scores that are told of without being asked for: the primary, the means, the texts."""
    return [
        score
        for number, score in enumerate(scores(connection).values())
        if not number or score.lower_is_better or score.name == "mean_accuracy"
    ]


@dataclass(frozen=True)
class Cell:
    """A cell that is done, with one of its scores.

    Attributes:
        cell ... seed: columns of `results`. value: the score, on the scale of comparisons.
        raw: the score as `results` has it.
        commit, image, gpu: what it was made with; the GPUs of pruning and of evaluation.
        damped: was a Hessian damped more than asked?
        text: equal for datasets that hold the same documents; None where nothing says so.
    """

    cell: str
    model: str
    dataset: str | None
    pruner: str
    recipe: str
    sparsity: float
    pattern: str
    size: int | None
    seed: int | None
    seqlen: int | None
    sampler: str | None
    replicate: int
    value: float
    raw: float
    commit: str | None
    image: str | None
    gpu: str | None
    damped: bool
    text: str | None = None


def cells(connection: duckdb.DuckDBPyConnection, score: Score) -> list[Cell]:
    """The cells of the grid that have a score, once where two names stand for one text or model."""
    rows = connection.execute(
        """
        SELECT r.cell, r.model, r.dataset, r.pruner, r.recipe, r.sparsity, r.pattern, r.size,
            r.seed, r.seqlen, r.sampler, c.replicate, s.value,
            c.provenance ->> '$.commit', c.provenance ->> '$.image',
            concat_ws(', ', c.provenance ->> '$.gpu', g.gpus), r.cell IN (
                SELECT cell FROM linears WHERE notes ->> '$.dampening' IS NOT NULL
            ), t.text
        FROM results r
        JOIN cells c ON c.cell = r.cell AND c.model = r.model
            AND c.dataset IS NOT DISTINCT FROM r.dataset
        JOIN scores s ON s.cell = r.cell
        LEFT JOIN (
            SELECT model, name, min(dataset) AS text
            FROM same_texts, unnest([dataset, other_dataset]) AS names(name)
            WHERE NOT shares_cells GROUP BY ALL
        ) t ON t.model = c.model AND t.name = c.dataset
        LEFT JOIN (
            SELECT cell, string_agg(DISTINCT gpu, ', ' ORDER BY gpu) AS gpus
            FROM evaluations WHERE in_grid GROUP BY cell
        ) g ON g.cell = r.cell
        WHERE s.score = ? AND s.value IS NOT NULL AND isfinite(s.value)
            AND (s.value > 0 OR NOT s.lower_is_better)
        ORDER BY r.model, r.recipe, r.pattern, r.sparsity, r.size, r.seqlen, r.dataset, r.sampler,
            r.seed, c.replicate
        """,
        [score.name],
    ).fetchall()
    return [Cell(*(*row[:12], score.scale(row[12]), *row[12:])) for row in rows]


@dataclass(frozen=True)
class Outcomes:
    """What several cells scored on the documents that they share.

    Attributes:
        documents: the documents.
        values: [cells, documents] on the scale of comparisons; a cell's weighted mean is its score.
        row: of `values`, by cell.
    """

    documents: Documents
    values: Array
    row: dict[str, int]

    def of(self, cell: str) -> Array | None:
        """[documents] of one cell; None where its outcomes are not known."""
        return self.values[self.row[cell]] if cell in self.row else None


def outcomes(
    connection: duckdb.DuckDBPyConnection, score: Score, of: Sequence[Cell]
) -> Outcomes | None:
    """Outcomes by document of some cells, None where the score is no mean over documents."""
    blocks: list[Array] = []
    known = {c.cell: c for c in of}
    names = list(known)
    for name, metric in score.parts:
        matrix = _matrix(connection, name, metric, names)
        if matrix is None:
            return None
        kept = np.flatnonzero(np.isfinite(matrix).any(1))
        names = [names[i] for i in kept]
        blocks = [b[kept] for b in blocks]
        blocks.append(matrix[kept])
        if not names:
            return None
    if not blocks:
        return None
    parts = []
    for (name, metric), block in zip(score.parts, blocks, strict=True):
        shared = np.isfinite(block).all(0)
        part = _contributions(connection, score, (name, metric), names, block[:, shared])
        if part is None or part.shape[1] < 2:
            return None
        parts.append(part)
    stratum = np.repeat(np.arange(len(parts)), [p.shape[1] for p in parts])
    answers = np.array([100.0 * bool(np.isin(p, (0, 100)).all()) for p in parts])
    documents = Documents(stratum, np.full(len(parts), 1 / len(parts)), answers)
    return Outcomes(documents, np.concatenate(parts, 1), {n: i for i, n in enumerate(names)})


def _matrix(
    connection: duckdb.DuckDBPyConnection, name: str, metric: str, names: Sequence[str]
) -> Array | None:
    """[cells, documents] outcomes of a task or text, NaN where one is not known."""
    found = connection.sql(
        """
        WITH wanted AS (SELECT unnest($names) AS cell, unnest(range(len($names))) AS row)
        SELECT w.row, hash(o.task) AS task, o.doc_id AS document, o.value AS value
        FROM outcomes o JOIN evaluations e USING (evaluation) JOIN wanted w ON w.cell = o.cell
        WHERE e.in_grid AND e.name = $name AND o.metric = $metric
        """,
        params={"names": list(names), "name": name, "metric": metric},
    ).to_arrow_table()
    if not len(found):
        return None
    row, task, document, value = (found[c].to_numpy() for c in found.column_names)
    _, tasks = np.unique(task, return_inverse=True)
    _, column = np.unique(tasks * (document.max() + 1) + document, return_inverse=True)
    matrix = np.full((len(names), int(column.max()) + 1), np.nan)
    matrix[row, column] = value
    return matrix


def _contributions(
    connection: duckdb.DuckDBPyConnection,
    score: Score,
    part: tuple[str, str],
    names: Sequence[str],
    values: Array,
) -> Array | None:
    """[cells, documents] whose mean over documents is each cell's figure of this part."""
    name, metric = part
    figure = _figures(connection, name, names)
    if not score.lower_is_better:
        mean = metric in PLAIN_MEANS or np.allclose(
            values.mean(1), figure, rtol=TOLERANCE, atol=TOLERANCE
        )
        return 100 * values if mean else None  # for example an F score is no mean
    if metric != "loss":
        values = -values  # of a task, lm-eval keeps log-likelihoods
    logs = 100 * np.log(figure)[:, None]
    each = np.exp(values)
    corpus, by_row = np.exp(values.mean(1)), each.mean(1)
    if np.abs(corpus - figure).sum() <= np.abs(by_row - figure).sum():
        return logs + 100 * (values - values.mean(1, keepdims=True))
    return logs + 100 * (each / by_row[:, None] - 1)  # of the logarithm of a mean, linearised


def _figures(connection: duckdb.DuckDBPyConnection, name: str, names: Sequence[str]) -> Array:
    """[cells] the headline figure of a task or text."""
    rows = connection.execute(
        """
        SELECT m.cell, m.value FROM metrics m JOIN evaluations e USING (evaluation)
        WHERE e.in_grid AND e.name = ? AND m.task = ? AND m.metric = e.headline
        """,
        [name, name],
    ).fetchall()
    found = dict(rows)
    return np.array([found.get(n, np.nan) for n in names], dtype=np.float64)
