"""lm-eval's task files, read without importing it: which there are, and what they say.

Importing lm-eval and indexing its 15,000 files takes seconds; a dry run must not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.nodes import ScalarNode

from jobs.files import remembered, write_json

INDEX_VERSION = 2
"""Raised when the index holds something else than before."""

DEFAULT_METRICS = {
    "loglikelihood": ["perplexity", "acc"],
    "loglikelihood_rolling": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
    "multiple_choice": ["acc", "acc_norm"],
    "generate_until": ["exact_match"],
}
"""What lm-eval computes where a task file lists no metrics, by `output_type`."""


GENERATED_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
GENERATED_TOKENS = 256
"""How task files say how much a model may write, in lm-eval's order; and what it takes else."""


@dataclass(frozen=True)
class TaskFiles:
    """Where a task, group or tag is defined.

    Attributes:
        folders: the folders that lm-eval has to look through for it and its members, as
            `task_folder` takes them.
        files: the files of its leaves, the tasks that documents belong to.
    """

    folders: list[str]
    files: list[str]


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
"""Stands for the folder of the demo's own task files."""


def task_folder(name: str) -> str:
    """Where a folder of task files lies here; on another machine it lies elsewhere."""
    return str(demo_tasks_folder() if name == DEMO else tasks_folder() / name)


def task_index(cache_folder: Path) -> dict[str, TaskFiles]:
    """The files of every task, group and tag of lm-eval and of the demo, by name.

    lm-eval's own are indexed once per version, and kept in `cache_folder`.
    """
    path = cache_folder / f"lm-eval-{version('lm-eval')}-{INDEX_VERSION}.json"
    root = tasks_folder()
    relative = remembered(path)
    if relative is None:
        relative = {name: asdict(found) for name, found in index_folder(root).items()}
        write_json(path, relative)
    index = {
        name: TaskFiles(entry["folders"], [str(root / file) for file in entry["files"]])
        for name, entry in relative.items()
    }
    own = demo_tasks_folder().glob("*.yaml")
    return index | {p.stem: TaskFiles([DEMO], [str(p)]) for p in own}


def index_folder(folder: Path) -> dict[str, TaskFiles]:
    """What the task files of a folder define, with paths relative to it."""
    defined: dict[str, set[tuple[Path, bool]]] = {}  # files, and whether they are leaves
    members: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        text = path.read_text("utf-8", "replace")
        group = _scalar(text, "group")
        name = group or _scalar(text, "task")
        if name is None:
            continue
        defined.setdefault(name, set()).add((path.relative_to(folder), not group))
        for tag in _items(text, "tag"):
            members.setdefault(tag, set()).add(name)
        if group:
            members.setdefault(name, set()).update(_items(text, "task"))
    known = {*defined, *members}

    def paths(name: str, seen: frozenset[str]) -> set[tuple[Path, bool]]:
        found = set(defined.get(name, ()))
        for member in members.get(name, ()):
            if member in known and member not in seen:
                found |= paths(member, seen | {member})
        return found

    index = {}
    for name in sorted(known):
        found = paths(name, frozenset({name}))
        folders = sorted({str(path.parent) for path, _ in found})
        index[name] = TaskFiles(folders, sorted(str(path) for path, leaf in found if leaf))
    return index


def _scalar(text: str, key: str) -> str | None:
    match = re.search(rf"""^["']?{key}["']?:[ \t]*["']?([^\s"'#\[\]{{}}]+)["']?""", text, re.M)
    return match[1] if match else None


def _items(text: str, key: str) -> list[str]:
    """The names under a key: one name, or the items of a list (`- name`, `- task: name`)."""
    single = _scalar(text, key)
    if single:
        return [single]
    inline = re.search(rf"^{key}:[ \t]*\[([^\]]*)\]", text, re.M)
    if inline:
        return re.findall(r"[\w:.-]+", inline[1])
    block = re.search(rf"^{key}:[ \t]*\n((?:[ \t]*-[^\n]*\n?|[ \t]+[^\n]*\n?)+)", text, re.M)
    if not block:
        return []
    item = r"""^[ \t]*-[ \t]*(?:(?:task|group):[ \t]*)?["']?([\w:.-]+)["']?"""
    return re.findall(item, block[1], re.M)


class _Constructor(SafeConstructor):
    """Reads `!function utils.name` as the text after the tag."""


def _tagged(constructor: _Constructor, suffix: str, node: Any) -> Any:
    return node.value if isinstance(node, ScalarNode) else None


_Constructor.add_multi_constructor("!", _tagged)


@cache
def read_task(path: str, within: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a task file says, with what it includes; `within` are the files that include it.

    Raises:
        OSError, ValueError, ruamel.yaml.error.YAMLError: it, or what it includes, cannot be read.
    """
    if path in within:
        raise ValueError(f"{path} includes itself; break the circle")
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    own = yaml.load(Path(path).read_text("utf-8")) or {}
    if not isinstance(own, dict):
        raise ValueError(f"{path}: a task file is a mapping of keys such as task, output_type")
    included = own.pop("include", None) or []
    names = [included] if isinstance(included, str) else included
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: include: {included!r} is not allowed; write a file name")
    merged: dict[str, Any] = {}
    for name in names:
        merged |= read_task(str(Path(path).parent / name), (*within, path))
    return merged | own


def metrics_of(paths: Iterable[str]) -> list[str]:
    """The metrics that all of some task files compute; [] where a file does not say.

    Those of the second filter and further ones have its name behind a comma.
    """
    common: list[str] | None = None
    for path in paths:
        task = read_task(path)
        listed = task.get("metric_list")
        if listed is not None:
            names = [str(entry["metric"]).rpartition(".")[2] for entry in listed]
        else:
            names = DEFAULT_METRICS.get(str(task.get("output_type")), [])
        filters = [str(entry["name"]) for entry in task.get("filter_list") or []]
        names = names + [f"{name},{which}" for which in filters[1:] for name in names]
        common = names if common is None else [name for name in common if name in names]
    return common or []


def generated_tokens(paths: Iterable[str]) -> int:
    """Most tokens that task files have a model write in one go; 0 where none does."""
    found = [0]
    for path in paths:
        task = read_task(path)
        if task.get("output_type") == "generate_until":
            options = task.get("generation_kwargs") or {}
            given = (options[name] for name in GENERATED_NAMES if options.get(name) is not None)
            found.append(int(next(given, GENERATED_TOKENS)))
    return max(found)


def datasets_of(paths: Iterable[str]) -> list[tuple[str, str | None]]:
    """The datasets that task files load: (hub id, folder or loader; configuration)."""
    found: dict[tuple[str, str | None], None] = {}
    for path in paths:
        task = read_task(path)
        if task.get("dataset_path"):
            name = task.get("dataset_name")
            found[str(task["dataset_path"]), None if name is None else str(name)] = None
    return list(found)


def local_files(path: str) -> list[Path]:
    """The data files of a task that loads local ones, relative to its own folder where there."""
    task = read_task(path)
    data = (task.get("dataset_kwargs") or {}).get("data_files") or []
    if isinstance(data, dict):
        data = [
            f for value in data.values() for f in ([value] if isinstance(value, str) else value)
        ]
    listed = [data] if isinstance(data, str) else data
    return [Path(path).parent / file for file in listed if not file.startswith("demo:")]
