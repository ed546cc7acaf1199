"""Fetching the datasets of lm-eval's tasks into a mirror, by loading the tasks once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

from calib import datafiles
from cluster.yamlfile import InputError
from jobs.fetching import Fetcher
from jobs.taskfiles import task_folder
from prune.model import hub


def fetch_tasks(fetcher: Fetcher, folders: Mapping[str, Sequence[str]], grid: Path) -> None:
    """Fetch every dataset that tasks load, and load them from the mirror: then nothing is missing.

    What a task loads is what it asks of `datasets.load_dataset`; so that is what is answered here,
    with the network off for everything but the fetching.

    Args:
        fetcher: of the mirror. grid: for messages.
        folders: by task, those of its files, as `task_folder` takes them.

    Raises:
        InputError: a dataset cannot be had. hub.BrokenTransferError: the network broke.
    """
    import datasets
    from lm_eval.tasks import TaskManager

    original = datasets.load_dataset
    asked: list[str] = []

    def load_dataset(path: str, name: str | None = None, *args: Any, **keywords: Any) -> Any:
        if not hub.is_hub_id(path, Path()):
            return original(path, name, *args, **keywords)
        asked.append(path)
        _fetch(fetcher, path, name, keywords)
        keywords.pop("revision", None)
        return original(str(fetcher.mirror / path), name, *args, cache_dir=scratch, **keywords)

    with (
        tempfile.TemporaryDirectory(prefix="calgrid-") as scratch,
        mock.patch.object(datasets, "load_dataset", load_dataset),
    ):
        for task, names in folders.items():
            own = Path(names[0])
            key = str(own / task) if own.is_absolute() else task  # one may be called as lm-eval's
            known = fetcher.manifest.tasks.get(key)
            if known is not None and all(fetcher.is_whole("dataset", repo) for repo in known):
                continue
            fetcher.console.print(f"task {task}")
            asked.clear()
            manager = TaskManager(include_defaults=False, include_path=[*map(task_folder, names)])
            try:
                manager.load([task])
            except hub.BrokenTransferError:
                raise
            except Exception as error:  # whatever a task's own code says, the user must know
                cause = " ".join(f"{type(error).__name__}: {error}".split())
                raise InputError([f"{grid}: task {task}: {cause}"]) from error
            fetcher.manifest.tasks[key] = sorted(set(asked))
            fetcher.manifest.harness = version("lm-eval")
            fetcher.manifest.write(fetcher.mirror)


def _fetch(fetcher: Fetcher, path: str, name: str | None, keywords: Mapping[str, Any]) -> None:
    """Fetch the files of one configuration of a repository, all its splits."""
    revision = keywords.get("revision")
    repository = fetcher.open("dataset", f"{path}@{revision}" if revision else path)
    data_files = keywords.get("data_files")
    patterns = None
    if data_files is not None:
        parts = data_files.values() if isinstance(data_files, Mapping) else [data_files]
        patterns = [p for part in parts for p in ([part] if isinstance(part, str) else part)]
    card = fetcher.card(path)
    names = datafiles.every_split(list(repository.files), card, name, patterns)
    fetcher.download(repository, names)
