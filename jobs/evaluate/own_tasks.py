"""Is a task file of a grid's author what lm-eval can use? Found out without importing it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.yamlfile import problems_of
from jobs.evaluate.taskfiles import GENERATED_NAMES, read_task

FUNCTION = re.compile(r"!function\s+[\"']?([\w.]+)\.(\w+)")
"""How a task file names a function of a module beside it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Metric(_Part):
    metric: Any


class _Filter(_Part):
    name: str


class _TaskFile(_Part):
    """The keys of a task file whose shape we, and lm-eval, rely on."""

    dataset_path: str | None = None
    dataset_kwargs: dict[str, Any] | None = None
    output_type: (
        Literal["multiple_choice", "generate_until", "loglikelihood", "loglikelihood_rolling"]
        | None
    ) = None
    metric_list: list[_Metric] | None = None
    filter_list: list[_Filter] | None = None
    generation_kwargs: dict[str, Any] | None = None


def own_problems(path: Path) -> Iterator[str]:
    """What is wrong with a task file, `key: message`.

    Raises:
        OSError, ValueError, ruamel.yaml.error.YAMLError: it, or what it includes, cannot be read.
    """
    task = read_task(str(path))
    try:
        _TaskFile.model_validate(task)
    except ValidationError as error:
        for problem in problems_of(error, _TaskFile):
            yield f"{'.'.join(map(str, problem.place))}: {problem.message}"
        return
    for name in GENERATED_NAMES:
        tokens = (task.get("generation_kwargs") or {}).get(name)
        if tokens is not None and (not isinstance(tokens, int) or tokens < 1):
            yield f"generation_kwargs.{name}: {tokens!r} is not allowed; write a number of tokens"
    if "group" in task or isinstance(task.get("task"), list):
        return
    coded = "class" in task or "custom_dataset" in task
    if not coded and task.get("dataset_path") is None:
        yield "dataset_path: missing; write a hub id, or json with dataset_kwargs.data_files"
    if not coded and not (task.get("test_split") or task.get("validation_split")):
        yield "test_split: missing; name the split whose documents are asked (or validation_split)"
    for module, function in FUNCTION.findall(path.read_text("utf-8")):
        code = path.parent / f"{module}.py"
        if not code.is_file():
            yield f"!function {module}.{function}: no file {code}"
        elif not re.search(rf"\b{function}\b", code.read_text("utf-8")):
            yield f"!function {module}.{function}: {code} defines no {function}"
