"""Looking up what a grid names: folders, files and their contents, without fetching anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from calib import sources
from calib.spec import LOADERS, DatasetSpec
from cluster.yamlfile import Place, Problem
from jobs.built import is_whole
from jobs.demo.text import find as find_demo
from jobs.evaluate.task_inputs import find_task
from jobs.evaluate.taskfiles import DEMO, TaskFiles, task_index
from jobs.evaluate.tasks import Task, perplexity_texts
from jobs.files import Fingerprints, combined, disk_error
from jobs.mirror.check import check
from jobs.plan import modelfiles
from jobs.plan.cells import digest
from jobs.plan.grid import Grid
from jobs.plan.inputs import DatasetInput, Inputs, ModelInput, TextInput, pool_identity
from jobs.plan.used import used_datasets, uses_demo
from prune.model import files as models
from prune.model import hub
from prune.model.manifest import Manifest

DEMO_MODEL = Path(__file__).parents[1] / "demo" / "model"
"""The model that ships with the demo."""


def look_up(grid: Grid, base: Path, out: Path) -> Inputs:
    """Find everything that a grid names, without fetching; collects problems instead of raising.

    Args:
        grid: the grid.
        base: the folder of the grid file.
        out: the folder of runs and artefacts.
    """
    mirror = None if grid.mirror is None else base / Path(grid.mirror).expanduser()
    if mirror is not None and not mirror.is_dir():
        return Inputs(problems=[Problem(("mirror",), f"no folder {mirror}; make it, or use null")])
    fingerprints = Fingerprints(out / ".fingerprints")
    demo = find_demo(out / "artefacts") if uses_demo(grid) else None
    inputs = Inputs(
        reference={m: grid.reference_of(m) for m in grid.model},
        mirror=None if mirror is None else mirror.resolve(),
        demo=demo,
    )
    try:
        manifest = Manifest() if mirror is None else Manifest.read(mirror)
    except ValueError as error:
        return Inputs(problems=[Problem(("mirror",), str(error))])
    finder = _Finder(base, inputs, fingerprints, manifest, out / "artefacts" / "pools")
    for i, name in enumerate(grid.model):
        place: Place = ("model", i) if len(grid.model) > 1 else ("model",)
        with finder.readable(place):
            inputs.models[name] = finder.model(name, place)
    for name in sorted(used_datasets(grid)):
        spec = grid.dataset_spec(name)
        if spec is not None:  # `name_problems` reports what is unknown
            with finder.readable(("datasets", name)):
                inputs.datasets[name] = finder.dataset(name, spec, ("datasets", name))
    for name in grid.evaluate.perplexity:
        if name in perplexity_texts():
            spec = perplexity_texts()[name]
            with finder.readable(("evaluate", "perplexity")):
                found = finder.dataset(name, spec, ("evaluate", "perplexity"))
                inputs.texts[name] = TextInput(
                    spec=spec, source=found.source, identity=found.identity
                )
    if grid.evaluate.tasks:
        index = task_index(out / ".fingerprints")
        for i, task in enumerate(grid.evaluate.tasks):
            with finder.readable(("evaluate", "tasks", i)):
                finder.task(task, ("evaluate", "tasks", i), index)
    fingerprints.save()
    inputs.hashed = fingerprints.asked
    return inputs


@dataclass
class _Finder:
    """Looks names up and notes what is wrong or missing in `inputs`."""

    base: Path
    inputs: Inputs
    fingerprints: Fingerprints
    manifest: Manifest
    pools: Path

    @contextmanager
    def readable(self, place: Place) -> Iterator[None]:
        """Within, what the system does not let us read is a problem of `place`."""
        try:
            yield
        except OSError as error:
            remedy = "make it readable to you, or name another"
            self.inputs.problems.append(Problem(place, f"{disk_error(error)}; {remedy}"))

    def model(self, name: str, place: Place) -> ModelInput:
        """A model folder, its content hashed."""
        try:
            folder = (
                DEMO_MODEL
                if name == "demo"
                else hub.find(name, "model", self.inputs.mirror, self.base)
            )
        except hub.NotFetchedError:
            self.inputs.unresolved.append(f"model {name}")
            return ModelInput()
        except FileNotFoundError as error:
            self.inputs.problems.append(Problem(place, str(error)))
            return ModelInput()
        from_hub = name != "demo" and hub.is_hub_id(name, self.base)
        missing = models.missing_files(folder)
        if from_hub and self.inputs.mirror is None and missing:
            self.inputs.unresolved.append(f"model {name}")  # somebody needed a part of it
            return ModelInput()
        wrong = modelfiles.defect(folder)
        if wrong is None and missing:
            wrong = f"{folder} is not whole: it lacks {', '.join(missing)}"
        if wrong is not None:
            self.inputs.problems.append(Problem(place, wrong))
            return ModelInput()
        if from_hub:
            self.verify("model", name, None, place)
        paths = sorted({p for pattern in models.SCIENCE_FILES for p in folder.glob(pattern)})
        hashes = [(p.name, self.fingerprints.of(p)) for p in paths]
        weights = ("config.json", "*.safetensors")
        tokenizer = [h for h in hashes if not any(fnmatch(h[0], f) for f in weights)]
        return ModelInput(folder=folder, content=digest(hashes), tokenizer=digest(tokenizer))

    def dataset(self, name: str, spec: DatasetSpec, place: Place) -> DatasetInput:
        """The files of a dataset, their contents hashed; nothing for one made from others."""
        if spec.path is None:
            return DatasetInput(spec=spec)
        if self.inputs.demo is None and any(f.startswith("demo:") for f in spec.data_files or []):
            self.inputs.unresolved.append(f"dataset {name}")
            return DatasetInput(spec=spec)
        try:
            source = sources.locate(spec, self.base, self.inputs.mirror, self.inputs.demo)
        except hub.NotFetchedError:
            kept = self.streamed(spec)
            if kept is None:
                self.inputs.unresolved.append(f"dataset {spec.path}")
            return DatasetInput(spec=spec, identity=kept)
        except FileNotFoundError as error:
            self.inputs.problems.append(Problem(place, f"{name}: {error}"))
            return DatasetInput(spec=spec)
        if spec.path not in LOADERS and hub.is_hub_id(spec.path, self.base):
            self.verify("dataset", spec.path, source.files, place)
        identity = pool_identity(spec, source, self.fingerprints.of_all(source.files))
        return DatasetInput(spec=spec, source=source, identity=identity)

    def streamed(self, spec: DatasetSpec) -> str | None:
        """The identity of a pool that was streamed from the hub; None where it is not kept here."""
        found = sources.streamed(spec) if spec.streaming else None
        if found is None:
            return None
        identity = pool_identity(spec, found.source, combined(found.hashes))
        return identity if is_whole(self.pools / identity) else None

    def verify(self, kind: hub.Kind, name: str, files: Sequence[Path] | None, place: Place) -> None:
        """Note what a mirror's manifest says against files of it; None = all that were fetched."""
        if self.inputs.mirror is not None:
            wrong = check(self.inputs.mirror, kind, name, files, self.fingerprints)
            self.inputs.problems += [Problem(place, message) for message in wrong]

    def task(self, task: Task, place: Place, index: Mapping[str, TaskFiles]) -> None:
        """The files and data of an lm-eval task."""
        find = partial(hub.find, kind="dataset", mirror=self.inputs.mirror, base=self.base)
        mirror = self.inputs.mirror
        found = find_task(task, index, self.base, find, mirror, self.fingerprints)
        self.inputs.tasks[task.name] = found.task
        self.inputs.unresolved += [f"dataset {name}" for name in found.task.missing]
        known = task.path is None and task.name in index and found.task.folders != [DEMO]
        filled_by_hand = not self.manifest.repositories
        if known and not filled_by_hand and task.name not in self.manifest.tasks:
            message = f"task {task.name}: its datasets are not in the mirror; {hub.prefetch_hint}"
            self.inputs.problems.append(Problem(place, message))
        else:
            self.inputs.problems += [Problem((*place, *at), text) for at, text in found.problems]
