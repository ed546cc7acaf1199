"""The views of the results database.

`results` has one row a cell, `scores` one row a figure, `draws` one row a draw and figure, and
`same_texts` one row two datasets that are one text.
"""

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

DRAWN = (
    *("cell", "model", "recipe", "pattern", "sparsity", "size", "seqlen", "sampler", "dataset"),
    "seed",
)
DRAWS = {
    **{name: FIXED[name] for name in DRAWN},
    "generated": TABLES["cells"][1]["generated"][1],
    "similarity": FIXED["similarity"],
    "quality": "of the windows drawn, or of the dataset where it was measured as a whole",
    **{name: text for name, text in SCORES.items() if name != "cell"},
    "samplers": "of what it is compared with: its own, or all where every dataset has but one",
}
"""The columns of `draws`."""

TAKEN = frozenset({*FIXED, *SCORES})
"""What no figure may be called: queries join the two views."""


def create_views(tasks: Sequence[tuple[str, str]], texts: Sequence[tuple[str, str]]) -> list[str]:
    """The statements that create the views, with comments.

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
        CREATE_DRAWS,
        "COMMENT ON VIEW draws IS 'The figures of cells that were calibrated, one row a draw and "
        "figure: without repetitions, and without second names of one text'",
        *comments("draws", DRAWS),
        CREATE_SAME_TEXTS,
        "COMMENT ON VIEW same_texts IS 'One row two datasets of the grid that are one text'",
        *comments("same_texts", SAME_TEXTS),
    ]


SAME_TEXTS = {
    "model": "model, as the grid names it",
    "dataset": "a dataset",
    "other_dataset": "another",
    "shares_cells": "is it known of the files, so that one set of cells stands for both? Else the "
    "same documents were found in different files",
}
"""The columns of `same_texts`."""

CREATE_SAME_TEXTS = """
CREATE OR REPLACE VIEW same_texts AS
SELECT DISTINCT c.model, c.dataset, o.dataset AS other_dataset, true AS shares_cells
FROM other_names o JOIN cells c USING (cell)
WHERE c.in_grid AND o.dataset <> c.dataset
UNION ALL
SELECT DISTINCT a.model, least(a.dataset, b.dataset), greatest(a.dataset, b.dataset), false
FROM text_overlaps t
JOIN pools a ON a.pool = t.key
JOIN pools b ON b.pool = t.other_key AND b.model = a.model
WHERE t.kind = 'pools' AND a.dataset <> b.dataset
    AND t.shared_documents = t.documents AND t.shared_documents = t.other_documents
ORDER BY ALL
"""


CREATE_DRAWS = f"""
CREATE OR REPLACE VIEW draws AS
WITH known AS (
    SELECT {", ".join("r." + name for name in DRAWN)},
        c.generated, r.similarity, coalesce(r.quality, q.value) AS quality,
        s.number, s.score, s.lower_is_better, s.value
    FROM results r
    JOIN cells c ON c.cell = r.cell AND c.model = r.model AND c.dataset = r.dataset
    JOIN scores s ON s.cell = r.cell
    LEFT JOIN similarity q ON q.cell = r.cell AND q.measure = 'quality'
    WHERE r.dataset IS NOT NULL AND r.replicate = 0 AND s.value IS NOT NULL
)
SELECT *,
    if(count(DISTINCT (dataset, sampler)) OVER setting > count(DISTINCT dataset) OVER setting,
        sampler, list_sort(list(DISTINCT sampler) OVER setting).array_to_string(', ')) AS samplers
FROM known
WINDOW setting AS (PARTITION BY model, recipe, pattern, sparsity, size, seqlen, score)
"""


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
