"""What a task of a grid stands for: its files, its data, its headline metric and its identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel
from ruamel.yaml.error import YAMLError

from calib.spec import LOADERS
from cluster.yamlfile import choices
from jobs.evaluate import nltkdata
from jobs.evaluate.own_tasks import own_problems
from jobs.evaluate.taskfiles import (
    TaskFiles,
    datasets_of,
    generated_tokens,
    index_folder,
    local_files,
    metrics_of,
    read_task,
    task_folder,
)
from jobs.evaluate.tasks import PRESETS, Task
from jobs.files import Fingerprints, disk_error
from jobs.plan.cells import digest
from prune.model import hub

DEFAULT_METRIC = "acc"


class TaskInput(BaseModel):
    """A task of the grid, looked up.

    Attributes:
        folders: what lm-eval has to look through for its files; its own and the demo's by name,
            since they lie elsewhere inside a container.
        metric: the headline metric.
        generates: most tokens that the model writes in one go. words: folders of NLTK's data.
        datasets: folders by the hub id that its files name. missing: ids not on this machine.
        identity: of its data, and of its files where they are the user's own (lm-eval's are
            told by its version); None where something is missing.
    """

    folders: list[str] = []
    metric: str = DEFAULT_METRIC
    generates: int = 0
    words: list[Path] = []
    datasets: dict[str, Path] = {}
    missing: list[str] = []
    identity: str | None = None

    @property
    def paths(self) -> list[str]:
        """The folders where this process has them."""
        return [task_folder(name) for name in self.folders]

    @property
    def reads(self) -> set[Path]:
        """The folders outside of lm-eval that a job reads, and where links among them lead."""
        found = {Path(folder) for folder in self.folders if Path(folder).is_absolute()}
        for folder in self.datasets.values():
            links = {p.resolve().parent for p in folder.rglob("*") if p.is_symlink()}
            found |= {folder, *links}
        return found | set(self.words)


@dataclass
class Found:
    """A task, and what is wrong with it: (key, message) inside its entry in the grid."""

    task: TaskInput = field(default_factory=TaskInput)
    problems: list[tuple[tuple[str, ...], str]] = field(default_factory=list)


def find_task(
    task: Task,
    index: Mapping[str, TaskFiles],
    base: Path,
    find_dataset: Callable[[str], Path],
    mirror: Path | None,
    fingerprints: Fingerprints,
) -> Found:
    """Look up a task without importing lm-eval or fetching anything.

    Args:
        task: as the grid names it.
        index: lm-eval's tasks.
        base: the folder of the grid file.
        find_dataset: the folder of a hub id; raises as `hub.find` does.
        mirror: where NLTK's data must lie; None = where NLTK looks.
        fingerprints: of files.
    """
    found = Found()
    if task.path is not None:
        files = _own(task, hub.under(base, task.path), found)
    else:
        files = index.get(task.name)
        if files is None:
            message = f"unknown task {task.name!r}; {choices(task.name, list(index))}"
            found.problems.append(((), f"{message}; presets: {', '.join(sorted(PRESETS))}"))
    if files is None:
        return found
    found.task.folders = files.folders
    try:
        _choose_metric(task, files, found)
        found.task.generates = generated_tokens(files.files)
        _find_words(task, mirror, found)
        _find_data(task, files, find_dataset, fingerprints, found)
    except (OSError, ValueError, YAMLError) as error:
        found.problems.append(((), f"{task.name}: {_said(error)}"))
    return found


def _said(error: Exception) -> str:
    text = disk_error(error) if isinstance(error, OSError) else str(error)
    return " ".join(text.split())


def _own(task: Task, path: Path, found: Found) -> TaskFiles | None:
    """The files of a task that the user wrote."""
    if not path.is_file():
        found.problems.append((("path",), f"no file {path}"))
        return None
    try:
        defined = read_task(str(path))
    except (OSError, ValueError, YAMLError) as error:
        message = _said(error)
        named = message if str(path) in message else f"{path}: {message}"
        found.problems.append((("path",), named))
        return None
    name = defined.get("group") or defined.get("task")
    if name != task.name:
        what = f"it defines {name!r}" if isinstance(name, str) else "it has no `task:`"
        message = f"{path} does not define task {task.name!r}; {what}"
        if isinstance(name, str):
            message += f"; write {{name: {name}, path: {task.path}}}"
        found.problems.append((("path",), message))
        return None
    folder = path.resolve().parent
    indexed = index_folder(folder).get(task.name)
    leaves = [path.resolve()] if indexed is None else [folder / f for f in indexed.files]
    try:
        wrong = [f"{leaf}: {message}" for leaf in leaves for message in own_problems(leaf)]
    except (OSError, ValueError, YAMLError) as error:
        wrong = [_said(error)]
    found.problems += [(("path",), message) for message in wrong]
    return None if wrong else TaskFiles([str(folder)], [str(leaf) for leaf in leaves])


def _choose_metric(task: Task, files: TaskFiles, found: Found) -> None:
    metrics = metrics_of(files.files)
    if task.metric is not None:
        found.task.metric = task.metric
        if metrics and task.metric not in metrics:
            message = f"{task.name} has no metric {task.metric!r}; {choices(task.metric, metrics)}"
            found.problems.append((("metric",), message))
    elif metrics and DEFAULT_METRIC not in metrics:
        found.task.metric = metrics[0]


def _find_words(task: Task, mirror: Path | None, found: Found) -> None:
    for name in nltkdata.wanted(found.task.paths):
        folder = nltkdata.find(name, mirror)
        if folder is None:
            where = "on this machine" if mirror is None else f"in the mirror {mirror}"
            remedy = nltkdata.remedy(name)
            found.problems.append(((), f"{task.name}: NLTK's {name} is not {where}; {remedy}"))
        elif folder not in found.task.words:
            found.task.words.append(folder)


def _find_data(
    task: Task,
    files: TaskFiles,
    find_dataset: Callable[[str], Path],
    fingerprints: Fingerprints,
    found: Found,
) -> None:
    identity: list[tuple[str, str]] = []
    for repository, name in datasets_of(files.files):
        if repository in LOADERS:
            continue
        try:
            folder = find_dataset(repository)
        except hub.NotFetchedError:
            found.task.missing.append(repository)
            continue
        except FileNotFoundError as error:
            found.problems.append(
                (
                    (),
                    f"{task.name}: {error}; `python -m jobs.prefetch GRID --mirror DIR` fetches it",
                )
            )
            continue
        found.task.datasets[repository] = folder
        identity.append((name or "", fingerprints.of_all(_data_files(folder, name))))
    own = [path for file in files.files for path in local_files(file)]
    if task.path is not None:
        folder = Path(files.folders[0])
        own += [p for p in sorted(folder.iterdir()) if p.suffix in (".yaml", ".yml", ".py")]
    missing = [path for path in own if not path.is_file()]
    if missing:
        found.problems.append(((), f"{task.name}: no file {missing[0]}"))
    elif not found.task.missing:
        identity += [("", fingerprints.of_all(own))] if own else []
        found.task.identity = digest(sorted(identity))


def _data_files(folder: Path, configuration: str | None) -> list[Path]:
    """The files of a dataset's configuration: of its own folder where it has one, else all."""
    own = folder / configuration if configuration else folder
    inside = own if own.is_dir() else folder
    paths = [p for p in inside.rglob("*") if p.is_file()]
    return [p for p in paths if not any(part[0] == "." for part in p.relative_to(folder).parts)]
