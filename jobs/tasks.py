"""Evaluation tasks and perplexity texts by name: presets, and the index of lm-eval's tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field
from ruamel.yaml import YAML

from calib.spec import DatasetSpec, Strict


class Task(Strict):
    """One lm-eval task of a grid.

    Attributes:
        name: lm-eval's name of the task or group.
        num_fewshot: examples in the prompt; None = the task's own default.
        metric: the headline metric, by lm-eval's name.
    """

    name: str
    num_fewshot: int | None = Field(None, ge=0)
    metric: str = "acc"


def _preset(*names: str, **overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "num_fewshot": 0, **overrides.get(name, {})} for name in names]


PRESETS: dict[str, list[dict[str, Any]]] = {
    "ji2025": _preset(
        *("boolq", "winogrande", "piqa", "hellaswag", "arc_easy", "arc_challenge", "mmlu"),
        hellaswag={"metric": "acc_norm"},
        mmlu={"num_fewshot": 5},
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
    table = YAML(typ="safe").load((files("jobs") / "texts.yaml").read_text())
    return {name: Text.model_validate(spec) for name, spec in table.items()}


def tasks_folder() -> Path:
    """lm-eval's folder of task files, found without importing it."""
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("lm_eval is not installed; run: pip install 'lm-eval[hf]'")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def demo_tasks_folder() -> Path:
    """The demo's own task files."""
    return Path(str(files("jobs") / "demo" / "tasks"))


DEMO = "demo:"
"""Stands in the index for the demo's own task files."""


def task_folder(name: str) -> str:
    """Where a folder of the index lies here; on another machine it lies elsewhere."""
    return str(demo_tasks_folder() if name == DEMO else tasks_folder() / name)


def task_index(cache_folder: Path) -> dict[str, list[str]]:
    """Folders of task files, as `task_folder` takes them, by the task, group or tag needing them.

    lm-eval reads its 15,000 task files for seconds; this index is read once per lm-eval version
    and kept in `cache_folder`.
    """
    path = cache_folder / f"lm-eval-{version('lm-eval')}.json"
    if not path.is_file():
        cache_folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(_build_index(tasks_folder())), "utf-8")
        partial.replace(path)
    index: dict[str, list[str]] = json.loads(path.read_text("utf-8"))
    return index | {p.stem: [DEMO] for p in demo_tasks_folder().glob("*.yaml")}


def _build_index(folder: Path) -> dict[str, list[str]]:
    """Names of tasks, groups and tags to the folders that define them and their members."""
    defined: dict[str, set[str]] = {}
    members: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        text = path.read_text("utf-8", "replace")
        name = _scalar(text, "group") or _scalar(text, "task")
        if name is None:
            continue
        defined.setdefault(name, set()).add(str(path.parent.relative_to(folder)))
        for tag in _items(text, "tag"):
            members.setdefault(tag, set()).add(name)
        if _scalar(text, "group"):
            members.setdefault(name, set()).update(_items(text, "task"))
    known = {*defined, *members}

    def folders(name: str, seen: frozenset[str]) -> set[str]:
        found = set(defined.get(name, ()))
        for member in members.get(name, ()):
            if member in known and member not in seen:
                found |= folders(member, seen | {member})
        return found

    return {name: sorted(folders(name, frozenset({name}))) for name in sorted(known)}


def _scalar(text: str, key: str) -> str | None:
    match = re.search(rf"""^["']?{key}["']?:[ \t]*["']?([^\s"'#\[\]{{}}]+)["']?""", text, re.M)
    return match[1] if match else None


def _items(text: str, key: str) -> list[str]:
    """The names under a key: one name, or the items of a list (`- name`, `- task: name`)."""
    single = _scalar(text, key)
    if single:
        return [single]
    block = re.search(rf"^{key}:[ \t]*\n((?:[ \t]*-[^\n]*\n?|[ \t]+[^\n]*\n?)+)", text, re.M)
    if not block:
        return []
    item = r"""^[ \t]*-[ \t]*(?:(?:task|group):[ \t]*)?["']?([\w:.-]+)["']?"""
    return re.findall(item, block[1], re.M)
