"""Fetching the datasets of lm-eval's tasks into a mirror, by loading the tasks once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from calib import datafiles
from cluster.yamlfile import InputError
from jobs.evaluate import nltkdata
from jobs.evaluate.taskfiles import task_folder
from jobs.mirror.fetching import Fetcher
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
    os.environ["NLTK_DATA"] = str(fetcher.mirror / nltkdata.NLTK_FOLDER)
    with tempfile.TemporaryDirectory(prefix="calgrid-") as scratch:
        for task, names in folders.items():
            _fetch_words(fetcher, task, [*map(task_folder, names)], grid)
            own = Path(names[0])
            key = str(own / task) if own.is_absolute() else task  # one may be called as lm-eval's
            known = fetcher.manifest.tasks.get(key)
            if known is not None and all(fetcher.is_whole("dataset", repo) for repo in known):
                continue
            fetcher.console.print(f"task {task}")
            try:
                asked = _load(fetcher, task, [*map(task_folder, names)], scratch)
            except hub.BrokenTransferError:
                raise
            except Exception as error:  # whatever a task's own code says, the user must know
                cause = " ".join(f"{type(error).__name__}: {error}".split())
                raise InputError([f"{grid}: task {task}: {cause}"]) from error
            fetcher.manifest.tasks[key] = asked
            fetcher.manifest.harness = version("lm-eval")
            fetcher.manifest.write(fetcher.mirror)


def _fetch_words(fetcher: Fetcher, task: str, folders: Sequence[str], grid: Path) -> None:
    for name in nltkdata.wanted(folders):
        try:
            nltkdata.fetch(name, fetcher.mirror)
        except OSError as error:
            raise InputError([f"{grid}: task {task}: {error}"]) from error


def _load(fetcher: Fetcher, task: str, folders: Sequence[str], scratch: str) -> list[str]:
    """Load a task, and fetch what it asks for; the hub ids of that."""
    from lm_eval.tasks import TaskManager

    from jobs.evaluate.task_documents import answering, load_for_real, with_files_of

    asked: list[str] = []

    def answer(path: str, name: str | None, options: dict[str, Any]) -> Any:
        options["cache_dir"] = scratch
        if not hub.is_hub_id(path, Path()):
            return load_for_real(path, name, **with_files_of(folders, None, options))
        asked.append(path)
        _fetch(fetcher, path, name, options)
        options.pop("revision", None)
        return load_for_real(str(fetcher.mirror / path), name, **options)

    with answering(answer):
        TaskManager(include_defaults=False, include_path=list(folders)).load([task])
    return sorted(set(asked))


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
