"""The views of the results database: `results`, one row a cell, and `scores`, one row a figure."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.store.schema import TABLES, comments, identifier, quoted

RESULT_COLUMNS = (
    "cell, run, model, dataset, pruner, recipe, sparsity, pattern, size, seed, seqlen, sampler, "
    "dtype, status, achieved_sparsity, model_sparsity"
)

FIXED = {name: TABLES["cells"][1][name][1] for name in RESULT_COLUMNS.split(", ")} | {
    "similarity": "Jaccard of the dataset and the reference",
    "similarity_se": "its standard error",
    "quality": "editorial quality of the windows drawn; see documents",
    "mean_accuracy": "mean of the tasks; NULL where one is missing",
    "gpu_seconds": TABLES["cells"][1]["gpu_seconds"][1],
    "replicate": TABLES["cells"][1]["replicate"][1],
}
"""The columns of `results` that every grid has, with their comments."""

LOWER_IS_BETTER = ("perplexity", "corpus_perplexity", "word_perplexity", "byte_perplexity")
"""Metrics of which less is better; lm-eval's names, and ours."""


SCORES = {
    "cell": "cell",
    "number": "of the column in results, from 0",
    "score": "column of results",
    "lower_is_better": "is it a perplexity?",
    "value": "its value",
}

TAKEN = frozenset({*FIXED, *SCORES})
"""What no figure may be called: queries join the two views."""


def create_views(tasks: Sequence[tuple[str, str]], texts: Sequence[tuple[str, str]]) -> list[str]:
    """The statements that create the views `results` and `scores`, with comments.

    Args:
        tasks: task and headline metric, in the order of the grid.
        texts: perplexity text and metric.
    """
    figures = [("mean_accuracy", "acc"), *tasks]
    figures += [(_perplexity_column(name, metric), metric) for name, metric in texts]
    listed = " UNION ".join(  # a cell of two names has its figures once
        f"SELECT cell, {i} AS number, {quoted(name)} AS score, "
        f"{metric in LOWER_IS_BETTER} AS lower_is_better, {identifier(name)} AS value FROM results"
        for i, (name, metric) in enumerate(figures)
    )
    known = FIXED | {name: f"{metric}, see metrics" for name, metric in figures[1:]}
    return [
        _create_results(tasks, texts),
        "COMMENT ON VIEW results IS 'One row a cell of the latest grid, and name of it'",
        *comments("results", known),
        f"CREATE OR REPLACE VIEW scores AS {listed}",
        "COMMENT ON VIEW scores IS 'The figures of results, one row a cell and figure'",
        *comments("scores", SCORES),
    ]


def _create_results(tasks: Sequence[tuple[str, str]], texts: Sequence[tuple[str, str]]) -> str:
    def figure(name: str, metric: str) -> str:
        return (
            f"max(m.value) FILTER (WHERE e.name = {quoted(name)} AND m.task = {quoted(name)} "
            f"AND m.metric = {quoted(metric)})"
        )

    named = [(name, figure(name, metric)) for name, metric in tasks]
    named += [(_perplexity_column(name, metric), figure(name, metric)) for name, metric in texts]
    figures = ", ".join(["c.cell", *(f"{value} AS {identifier(name)}" for name, value in named)])
    accuracies = [f"s.{identifier(name)}" for name, metric in tasks if _is_accuracy(metric)]
    mean = f"({' + '.join(accuracies)}) / {len(accuracies)}" if accuracies else "NULL::DOUBLE"
    shown = "".join(f", s.{identifier(name)}" for name, _ in named)
    return f"""
CREATE OR REPLACE VIEW results AS
WITH figures AS (
    SELECT {figures}
    FROM cells c
    LEFT JOIN evaluations e ON e.cell = c.cell AND e.in_grid
    LEFT JOIN metrics m ON m.cell = e.cell AND m.evaluation = e.evaluation
    GROUP BY c.cell
),
qualities AS (
    SELECT calibration, sum(quality * tokens) / sum(tokens) AS quality
    FROM documents GROUP BY calibration
),
named AS (
    SELECT * FROM cells
    UNION ALL
    SELECT c.* REPLACE (o.model AS model, o.dataset AS dataset)
    FROM cells c JOIN other_names o USING (cell)
)
SELECT {", ".join("c." + column.strip() for column in RESULT_COLUMNS.split(","))},
    j.value AS similarity, j.stderr AS similarity_se, q.quality,
    {mean} AS mean_accuracy{shown}, c.gpu_seconds, c.replicate
FROM named c
JOIN figures s USING (cell)
LEFT JOIN qualities q ON q.calibration = c.calibration
LEFT JOIN similarity j ON j.cell = c.cell AND j.measure = 'jaccard'
WHERE c.in_grid
ORDER BY c.model, c.pruner <> 'dense', c.recipe, c.pattern, c.sparsity, c.dataset, c.size, c.seed,
    c.replicate
"""


def _is_accuracy(metric: str) -> bool:
    """Is a metric a fraction of what is right, which a mean accuracy is made of?"""
    return "perplexity" not in metric and metric not in ("bits_per_byte", "brier_score")


def perplexity_columns(text: str) -> tuple[str, str]:
    """The columns of `results` that a text may have: its perplexity, and over its whole corpus."""
    return f"ppl_{text}", f"ppl_{text}_corpus"


def _perplexity_column(text: str, metric: str) -> str:
    return perplexity_columns(text)[metric != "perplexity"]
