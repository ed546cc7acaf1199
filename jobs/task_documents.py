"""The documents of lm-eval tasks: read once from their data sets, then from an artefact.

`datasets` reads them with a cache of its own that is thrown away; no job touches a cache that
others use, or its locks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import pyarrow
import pyarrow.parquet
from lm_eval.api.task import ConfigurableTask, Task

from jobs.files import read_json, write_json

Loaded = dict[str, Any]
"""What `load_dataset` gave, by what it was asked for."""


def _asked(path: str, name: str | None, options: Mapping[str, Any]) -> str:
    kept = {k: v for k, v in options.items() if v is not None and k != "cache_dir"}
    return json.dumps([path, name, kept], sort_keys=True, default=str)


@contextmanager
def loading(
    sources: Mapping[str, Path], demo: Path | None, task_folders: Sequence[str], cache: str
) -> Iterator[Loaded]:
    """Let lm-eval load data sets from their folders, and note what it loaded."""
    original = datasets.load_dataset
    used: Loaded = {}

    def file(name: str) -> str:
        if name.startswith("demo:"):
            assert demo is not None
            return str(demo / name.removeprefix("demo:"))
        found = [Path(f) / name for f in task_folders if (Path(f) / name).is_file()]
        return str(found[0]) if found else name

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        asked = _asked(path, name, options)
        if "data_files" in options:
            options["data_files"] = _mapped(options["data_files"], file)
        if path in sources:
            folder = str(sources[path])
        elif Path(path).exists() or "/" not in path:
            folder = path
        else:
            raise FileNotFoundError(
                f"evaluation dataset {path} is not on this machine; `python -m jobs.prefetch GRID "
                "--mirror DIR` fetches it, and `mirror: DIR` reads it from there"
            )
        used[asked] = original(folder, name, **options | {"cache_dir": cache})
        return used[asked]

    with mock.patch.object(datasets, "load_dataset", load_dataset):
        yield used


def _mapped(files: Any, change: Any) -> Any:
    if isinstance(files, dict):
        return {split: _mapped(value, change) for split, value in files.items()}
    return change(files) if isinstance(files, str) else [change(name) for name in files]


def save_documents(folder: Path, used: Loaded, tasks: Sequence[Task]) -> None:
    """Write what was loaded: the splits that are scored, and one row of the others.

    Task files look at a document of every split they name; prompts are made already.
    """
    scored = {split for task in tasks for split in _scored_splits(task)}
    names = []
    for number, (asked, loaded) in enumerate(used.items()):
        splits = loaded if isinstance(loaded, dict) else {"": loaded}
        for split, rows in splits.items():
            whole = not split or not scored or split in scored
            kept = rows if whole else rows.select(range(min(1, len(rows))))
            path = folder / "documents" / f"{number}-{split}.parquet"
            path.parent.mkdir(exist_ok=True)
            kept.to_parquet(path)
        names.append({"asked": asked, "splits": list(splits)})
    write_json(folder / "documents.json", names)


def _scored_splits(task: Task) -> list[str]:
    """The split that a task's documents come from; [] where its class does not say."""
    if not isinstance(task, ConfigurableTask):
        return []
    config = task.config
    return [config.test_split or config.validation_split]


@contextmanager
def stored(folder: Path) -> Iterator[None]:
    """Let lm-eval load data sets from an artefact, in memory."""
    known = {
        entry["asked"]: (n, entry["splits"])
        for n, entry in enumerate(read_json(folder / "documents.json"))
    }

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        number, splits = known[_asked(path, name, options)]
        read = {
            split: datasets.Dataset(
                pyarrow.parquet.read_table(folder / "documents" / f"{number}-{split}.parquet")
            )
            for split in splits
        }
        return read[""] if splits == [""] else datasets.DatasetDict(read)

    with mock.patch.object(datasets, "load_dataset", load_dataset):
        yield
