"""Evaluation tasks and perplexity texts by name, and presets of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from ruamel.yaml import YAML

from calib.spec import DatasetSpec, Strict


class Task(Strict):
    """One lm-eval task of a grid.

    Attributes:
        name: lm-eval's name of the task, group or tag; of a local task file what it calls itself.
        path: the local task file; None = lm-eval's own.
        num_fewshot: examples in the prompt; None = the task's own default.
        metric: the headline metric, by lm-eval's name; None = acc where the task has it, else its
            first.
    """

    name: str
    path: str | None = None
    num_fewshot: int | None = Field(None, ge=0)
    metric: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """`tasks/mine.yaml` is short for its path; its name is expected to be the file's."""
        if isinstance(value, str):
            value = {"path" if Path(value).suffix in (".yaml", ".yml") else "name": value}
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            return {"name": Path(value["path"]).stem} | value
        return value


def _preset(*names: str, **overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "num_fewshot": 0, **overrides.get(name, {})} for name in names]


# ji2025: arXiv 2410.17711, section 4; its mean of 72 is out of reach with HellaSwag's plain acc.
# wanda2023: arXiv 2306.11695, table 2; all zero-shot, all plain acc.
PRESETS: dict[str, list[dict[str, Any]]] = {
    "ji2025": _preset(
        *("boolq", "winogrande", "piqa", "hellaswag", "arc_easy", "arc_challenge", "mmlu"),
        hellaswag={"metric": "acc_norm"},
        mmlu={"num_fewshot": 5},
    ),
    "wanda2023": _preset(
        *("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
    ),
    "quick": _preset("arc_easy", "sciq", "lambada_openai"),
    "demo": _preset("demo_continuation", "demo_order"),
}


class Text(DatasetSpec):
    """A text that perplexity is measured on: a dataset, and how its rows become windows.

    Attributes:
        join: rows are joined with this and cut into windows; None = every row by itself, and the
            figure is the mean of the rows' perplexities, as the study has it for Alpaca.
    """

    join: str | None = None


@cache
def perplexity_texts() -> dict[str, Text]:
    """The built-in perplexity texts."""
    table = YAML(typ="safe").load((files("jobs.evaluate") / "texts.yaml").read_text())
    return {name: Text.model_validate(spec) for name, spec in table.items()}
