"""The questions of a study, each answered in a sentence, with the verdict of the statistics."""

from __future__ import annotations

from collections.abc import Callable

from analysis.report import datasets, others
from analysis.report.findings import Findings
from analysis.report.words import Answer
from analysis.results import Results

QUESTIONS: tuple[Callable[[Results, Findings], Answer | None], ...] = (
    datasets.does_it_matter,
    datasets.where_does_it_matter,
    datasets.which_is_best,
    others.does_similarity_tell,
    others.data_or_pruner,
    others.how_much_data,
    datasets.own_text,
    others.worse_than_magnitude,
)


def answer_all(results: Results, findings: list[Findings]) -> dict[str, list[Answer]]:
    """By score, the answers that the run's cells allow, the central question first."""
    return {f.score.name: _answers(results, f) for f in findings}


def _answers(results: Results, f: Findings) -> list[Answer]:
    answers = [a for ask in QUESTIONS if (a := ask(results, f)) is not None]
    asked = any(a.question == datasets.MATTER for a in answers)
    return answers if asked else [_not_yet(results), *answers]


def _not_yet(results: Results) -> Answer:
    if len({r["dataset"] for r in results.rows} - {None}) < 2:
        return Answer(
            datasets.MATTER,
            "not asked",
            "The grid has no two calibration datasets.",
            "What it compares otherwise is in the table of comparisons.",
            "pairs",
        )
    done = sum(r["status"] == "done" for r in results.rows)
    return Answer(
        datasets.MATTER,
        "no answer yet",
        "No two calibration datasets have finished cells that differ in nothing else.",
        f"{done} of {len(results.rows)} cells are done.",
        "cells",
    )
