"""The documents of lm-eval tasks: read once from their data sets, then from an artefact.

`datasets` reads them with a cache of its own that is thrown away; no job touches a cache that
others use, or its locks.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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

Answer = Callable[[str, str | None, dict[str, Any]], Any]
"""Takes the path, name and other options that `load_dataset` was called with."""

load_for_real = datasets.load_dataset
_SIGNATURE = inspect.signature(load_for_real)
_answers: list[Answer] = []


def _load_dataset(*arguments: Any, **keywords: Any) -> Any:
    """Stands for `datasets.load_dataset`, also in the modules of task files that imported it."""
    if not _answers:
        return load_for_real(*arguments, **keywords)
    options = dict(_SIGNATURE.bind(*arguments, **keywords).arguments)
    options |= options.pop("config_kwargs", {})
    return _answers[-1](options.pop("path"), options.pop("name", None), options)


@contextmanager
def answering(answer: Answer) -> Iterator[None]:
    """Let `answer` give what code asks of `datasets.load_dataset`.

    lm-eval keeps the modules of task files. One that imports the function by name keeps that, too:
    so it is always the same function, which asks whoever answers at the time.
    """
    _answers.append(answer)
    try:
        with mock.patch.object(datasets, "load_dataset", _load_dataset):
            yield
    finally:
        _answers.pop()


def _asked(path: str, name: str | None, options: Mapping[str, Any]) -> str:
    kept = {k: v for k, v in options.items() if v is not None and k != "cache_dir"}
    return json.dumps([path, name, kept], sort_keys=True, default=str)


@contextmanager
def loading(
    sources: Mapping[str, Path], demo: Path | None, task_folders: Sequence[str], cache: str
) -> Iterator[Loaded]:
    """Let lm-eval load data sets from their folders, and note what it loaded."""
    used: Loaded = {}

    def answer(path: str, name: str | None, options: dict[str, Any]) -> Any:
        if path in sources:
            folder = str(sources[path])
        elif Path(path).exists() or "/" not in path:
            folder = path
        else:
            raise FileNotFoundError(
                f"evaluation dataset {path} is not on this machine; `python -m jobs.prefetch GRID "
                "--mirror DIR` fetches it, and `mirror: DIR` reads it from there"
            )
        found = with_files_of(task_folders, demo, options) | {"cache_dir": cache}
        loaded = used[_asked(path, name, options)] = load_for_real(folder, name, **found)
        return loaded

    with answering(answer):
        yield used


def with_files_of(
    task_folders: Sequence[str], demo: Path | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of `load_dataset` whose data files are found beside the task files, or the demo's."""

    def place(name: str) -> str:
        if name.startswith("demo:"):
            assert demo is not None
            return str(demo / name.removeprefix("demo:"))
        found = [Path(f) / name for f in task_folders if (Path(f) / name).is_file()]
        return str(found[0]) if found else name

    def placed(files: Any) -> Any:
        if isinstance(files, Mapping):
            return {split: placed(value) for split, value in files.items()}
        return place(files) if isinstance(files, str) else [place(name) for name in files]

    files = options.get("data_files")
    return dict(options) if files is None else {**options, "data_files": placed(files)}


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

    def answer(path: str, name: str | None, options: dict[str, Any]) -> Any:
        asked = _asked(path, name, options)
        if asked not in known:
            raise LookupError(f"{folder} has no documents of {asked}, which its task now asks for")
        number, splits = known[asked]
        read = {
            split: datasets.Dataset(
                pyarrow.parquet.read_table(folder / "documents" / f"{number}-{split}.parquet")
            )
            for split in splits
        }
        return read[""] if splits == [""] else datasets.DatasetDict(read)

    with answering(answer):
        yield
