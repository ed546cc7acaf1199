"""The gate: a dense model's figures against what the literature agrees on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from ruamel.yaml import YAML

from jobs.evaluate.scores import Metric
from jobs.plan.plan import Evaluation
from prune.model.hub import split_revision


class ReferenceValueError(ValueError):
    """A dense model misses a figure that is known of it."""


@cache
def _table() -> dict[str, Any]:
    text = (files("jobs.evaluate") / "reference_values.yaml").read_text("utf-8")
    table: dict[str, Any] = YAML(typ="safe").load(text)
    return table


def deviation(model: str, evaluation: Evaluation, metrics: Sequence[Metric]) -> str | None:
    """What is wrong with a dense model's figure; None where it is right or nothing is known.

    Args:
        model: its name in the grid, a hub id or a folder that ends in one.
        evaluation: the evaluation. metrics: what came of it.
    """
    if evaluation.settings["limit"] is not None:
        return None
    name = "/".join(split_revision(model)[0].rstrip("/").split("/")[-2:]).lower()
    for known in _table()["values"]:
        if (known["model"].lower(), known["text"]) != (name, evaluation.name):
            continue
        if known["seqlen"] != evaluation.settings.get("seqlen"):
            continue
        value = next(m.value for m in metrics if m.metric == "perplexity")
        expected, tolerance = known["perplexity"], _table()["tolerance"]
        if abs(value / expected - 1) > tolerance:
            return (
                f"dense {known['model']} has perplexity {value:.2f} on {evaluation.name} with "
                f"windows of {known['seqlen']} tokens, and {expected} is known (within "
                f"{tolerance:.0%}): another split, checkpoint or tokenizer, or a broken environment"
            )
    return None
