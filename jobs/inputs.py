"""What a grid's names stand for: folders, files, and the identities that enter the keys.

Nothing here imports torch or fetches anything, except `fetch_missing`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from calib import sources
from calib.readers import read_pool
from calib.selectors import SELECTORS
from calib.spec import LOADERS, DatasetSpec, GenerateSpec, Strict
from cluster.container import outermost
from cluster.yamlfile import Place, Problem
from jobs import modelfiles
from jobs.cells import Cell, digest
from jobs.claims import build_once
from jobs.demo.text import find as find_demo
from jobs.files import Fingerprints, combined, read_json
from jobs.grid import Grid
from jobs.mirror import check
from jobs.task_inputs import TaskInput, find_task
from jobs.taskfiles import DEMO, TaskFiles, task_index
from jobs.tasks import Task, Text, perplexity_texts
from prune.model import files as models
from prune.model import hub
from prune.model.manifest import Manifest
from prune.pattern import Pattern


class ModelInput(Strict):
    """A model of the grid: its folder and content hash, None where it is not fetched yet.

    `tokenizer` is the content hash of its tokenizer's files alone.
    """

    folder: Path | None = None
    content: str | None = None
    tokenizer: str | None = None


class DatasetInput(Strict):
    """A dataset of the grid.

    Attributes:
        spec: what the grid, or the built-in table, says of it.
        source: its files, where it has any and they are on this machine.
        identity: of its pool, None where something is not fetched yet. For generated text it
            depends on the model, and is made by `Inputs.pool`.
    """

    spec: DatasetSpec
    source: sources.Source | None = None
    identity: str | None = None


class TextInput(DatasetInput):
    """A perplexity text of the grid."""

    spec: Text


class Inputs(BaseModel):
    """Everything a grid names, looked up.

    Attributes:
        models, datasets, texts, tasks: by name.
        reference: the reference of each model, by name, or None.
        mirror: folder that hub ids resolve in. demo: the demo's collected text.
        problems: what is wrong. unresolved: hub ids that are not on this machine.
    """

    models: dict[str, ModelInput] = {}
    datasets: dict[str, DatasetInput] = {}
    texts: dict[str, TextInput] = {}
    tasks: dict[str, TaskInput] = {}
    reference: dict[str, str | None] = {}
    mirror: Path | None = None
    demo: Path | None = None
    problems: list[Problem] = Field(default=[], exclude=True)
    unresolved: list[str] = Field(default=[], exclude=True)

    def pool(self, dataset: str, model: str, dtype: str, seqlen: int | None) -> str | None:
        """The identity of a dataset's pool for a model, None where it is not known yet."""
        entry = self.datasets[dataset]
        spec = entry.spec
        if spec.generate is not None:
            batches = self.batches(dataset, model, dtype, seqlen)
            if batches is None:
                return None
            taken = spec.generate.model_dump(include={"texts", "drop_top_perplexity"})
            return digest(taken | {"batches": batches, "version": 2})
        if spec.mixture is not None:
            parts = {n: self.pool(n, model, dtype, seqlen) for n in spec.mixture}
            if None in parts.values():
                return None
            weights = sorted((str(parts[n]), weight) for n, weight in spec.mixture.items())
            return digest({"mixture": weights, "max_documents": spec.max_documents, "version": 2})
        if spec.control is not None:
            content = self.models[model].content
            made = {"control": spec.control, "model": content, "seqlen": seqlen, "version": 1}
            return None if content is None else digest(made)
        if spec.select is not None:
            return self._selection(spec, model, dtype, seqlen)
        return entry.identity

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """The folders and files that jobs read, and where links among them lead."""
        paths = [p for p in (self.mirror, self.demo) if p is not None]
        for task in self.tasks.values():
            paths += task.reads
        for model in self.models.values():
            if model.folder is not None:
                paths += [model.folder, *{p.resolve().parent for p in model.folder.iterdir()}]
        files: dict[Path, list[Path]] = {}
        for entry in [*self.datasets.values(), *self.texts.values()]:
            for file in entry.source.files if entry.source is not None else ():
                files.setdefault(file.parent, []).append(file)
        for folder, members in files.items():  # a few files do not open a whole folder
            many = len(set(members)) > MOST_FILES
            paths += [folder, *{p.resolve().parent for p in members}] if many else members
        return tuple(str(p) for p in outermost(paths))

    def _selection(
        self, spec: DatasetSpec, model: str, dtype: str, seqlen: int | None
    ) -> str | None:
        """The identity of documents that a selector chooses."""
        assert spec.select is not None
        made: dict[str, Any] = {
            "from": self.pool(spec.select.source, model, dtype, seqlen),
            "by": spec.select.by,
            "documents": spec.select.documents,
            "version": 1,
        }
        needs = SELECTORS[spec.select.by]
        if needs.model:
            made |= {"model": self.models[model].content, "dtype": dtype, "seqlen": seqlen}
        if needs.reference:
            made["reference"] = self.pool(str(self.reference[model]), model, dtype, seqlen)
        return None if None in made.values() else digest(made)

    def generate_spec(self, dataset: str) -> GenerateSpec:
        """How a dataset of generated text is written.

        Raises:
            ValueError: it is none.
        """
        spec = self.datasets[dataset].spec.generate
        if spec is None:
            raise ValueError(f"dataset {dataset} is not written by the model")
        return spec

    def batches(self, dataset: str, model: str, dtype: str, seqlen: int | None) -> str | None:
        """The identity of the batches that a generated pool is taken from, None likewise.

        Pools that differ in how many texts they take or drop share them.
        """
        spec = self.generate_spec(dataset)
        content = self.models[model].content
        source = None
        if spec.source is not None:
            source = self.pool(spec.source, model, dtype, seqlen)
        if content is None or (source is None and spec.source is not None):
            return None
        settings = spec.model_dump(exclude={"texts", "drop_top_perplexity"})
        settings |= {"source": source, "model": content, "dtype": dtype, "version": 1}
        return digest(settings | {"max_tokens": spec.max_tokens or seqlen})


def pool_identity(spec: DatasetSpec, source: sources.Source, content: str) -> str:
    """The identity of the pool of a dataset that has files.

    Args:
        spec: the dataset. source: its files. content: one hash of all their contents.
    """
    identity: dict[str, Any] = {
        "files": content,
        "loader": source.loader,
        "column": source.rows.column,
        "max_documents": spec.max_documents,
        "version": 1,
    }
    if source.rows.templates:
        identity["templates"] = source.rows.templates
    if spec.questions is not None:
        identity["examples"] = spec.questions.examples
    if source.most is not None:
        identity["max_rows"] = source.most
    return digest(identity)


MOST_FILES = 32
"""Files of one folder that are named one by one in the command line of a container."""


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
        inputs.models[name] = finder.model(name, place)
    for name in sorted(used_datasets(grid)):
        spec = grid.dataset_spec(name)
        if spec is not None:  # `name_problems` reports what is unknown
            inputs.datasets[name] = finder.dataset(name, spec, ("datasets", name))
    for name in grid.evaluate.perplexity:
        if name in perplexity_texts():
            spec = perplexity_texts()[name]
            found = finder.dataset(name, spec, ("evaluate", "perplexity"))
            inputs.texts[name] = TextInput(spec=spec, source=found.source, identity=found.identity)
    if grid.evaluate.tasks:
        index = task_index(out / ".fingerprints")
        for i, task in enumerate(grid.evaluate.tasks):
            finder.task(task, ("evaluate", "tasks", i), index)
    fingerprints.save()
    return inputs


@dataclass
class _Finder:
    """Looks names up and notes what is wrong or missing in `inputs`."""

    base: Path
    inputs: Inputs
    fingerprints: Fingerprints
    manifest: Manifest
    pools: Path

    def model(self, name: str, place: Place) -> ModelInput:
        """A model folder, its content hashed."""
        try:
            folder = (
                demo_model_folder()
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
        return identity if (self.pools / identity).is_dir() else None

    def verify(self, kind: hub.Kind, name: str, files: Sequence[Path] | None, place: Place) -> None:
        """Note what a mirror's manifest says against files of it; None = all that were fetched."""
        if self.inputs.mirror is not None:
            wrong = check(self.inputs.mirror, kind, name, files, self.fingerprints)
            self.inputs.problems += [Problem(place, message) for message in wrong]

    def task(self, task: Task, place: Place, index: Mapping[str, TaskFiles]) -> None:
        """The files and data of an lm-eval task."""
        find = partial(hub.find, kind="dataset", mirror=self.inputs.mirror, base=self.base)
        found = find_task(task, index, self.base, find, self.fingerprints)
        self.inputs.tasks[task.name] = found.task
        self.inputs.unresolved += [f"dataset {name}" for name in found.task.missing]
        known = task.path is None and task.name in index and found.task.folders != [DEMO]
        filled_by_hand = not self.manifest.repositories
        if known and not filled_by_hand and task.name not in self.manifest.tasks:
            message = f"task {task.name}: its datasets are not in the mirror; {hub.prefetch_hint}"
            self.inputs.problems.append(Problem(place, message))
        else:
            self.inputs.problems += [Problem((*place, *at), text) for at, text in found.problems]


def used_datasets(grid: Grid) -> set[str]:
    """The datasets that the grid's cells, reference or perplexities read, and their parents."""
    used = {v for block in grid.cells for d in block.dataset or [] for v in grid.variants(d)}
    used |= {r for m in grid.model if (r := grid.reference_of(m)) is not None}
    used |= {t for t in grid.evaluate.perplexity if t not in perplexity_texts()}
    queue = list(used)
    while queue:
        spec = grid.dataset_spec(queue.pop())
        fresh = [p for p in (spec.parents if spec else []) if p not in used]
        used.update(fresh)
        queue += fresh
    return used


def hub_datasets(grid: Grid, base: Path) -> list[tuple[str, DatasetSpec]]:
    """The hub ids, with revisions, of the datasets and texts that a grid reads, and their specs."""
    specs = [grid.dataset_spec(name) for name in sorted(used_datasets(grid))]
    specs += [perplexity_texts().get(name) for name in grid.evaluate.perplexity]
    return [
        (sources.hub_name(spec), spec)
        for spec in specs
        if spec is not None and spec.path is not None and spec.path not in LOADERS
        if hub.is_hub_id(spec.path, base)
    ]


def demo_model_folder() -> Path:
    """The model that ships with the demo."""
    return Path(__file__).parent / "demo" / "model"


def uses_demo(grid: Grid) -> bool:
    """Does the grid read the demo's text, which the launcher has to collect first?"""
    specs = [grid.dataset_spec(n) for n in used_datasets(grid)]
    specs += [perplexity_texts().get(n) for n in grid.evaluate.perplexity]
    files = [f for spec in specs if spec is not None for f in spec.data_files or []]
    return any(f.startswith("demo:") for f in files) or any(
        task.name.startswith("demo_") for task in grid.evaluate.tasks
    )


def fetch_missing(grid: Grid, inputs: Inputs, pools: Path, say: Callable[[str], None]) -> None:
    """Download the models and datasets that are not on this machine to the hub cache."""
    for name, model in inputs.models.items():
        if model.folder is None:
            say(f"fetching model {name}")
            repository = hub.resolve(name, "model")
            wanted = models.wanted_files(list(repository.files))
            if models.pickled(wanted):
                raise ValueError(
                    f"model {name} has pickled weights only; `python -m jobs.prefetch GRID "
                    "--mirror DIR` converts them"
                )
            hub.fetch(repository, hub.split_revision(name)[1], wanted)
    for entry in [*inputs.datasets.values(), *inputs.texts.values()]:
        if entry.spec.path is not None and entry.identity is None:
            say(f"{'streaming' if entry.spec.streaming else 'fetching'} dataset {entry.spec.path}")
            sources.fetch(entry.spec)
            found = sources.streamed(entry.spec) if entry.spec.streaming else None
            if found is not None:
                _keep_pool(entry.spec, found, pools)
    for name in sorted({n for task in inputs.tasks.values() for n in task.missing}):
        say(f"fetching dataset {name}")
        repository = hub.resolve(name, "dataset")
        hub.fetch(repository, hub.split_revision(name)[1], list(repository.files))


POSITIONS = ("max_position_embeddings", "n_positions", "seq_len", "max_seq_len")
"""How configurations call the number of positions a model has."""


def positions(folder: Path) -> int | None:
    """Tokens that a model has positions for, None where its configuration does not say."""
    config = read_json(folder / "config.json")
    return next((int(config[k]) for k in POSITIONS if config.get(k)), None)


def length_problems(grid: Grid, cells: Iterable[Cell], inputs: Inputs) -> Iterator[Problem]:
    """Windows and requests longer than the model has positions for."""
    drawn = {(c.model, c.draw.seqlen) for c in cells if c.draw is not None}
    wanted: list[tuple[Place, str, int | None]] = [
        *((("calibration", "seqlen"), model, seqlen) for model, seqlen in sorted(drawn)),
        *((("evaluate", "seqlen"), model, grid.evaluate.seqlen) for model in grid.model),
        *((("evaluate", "max_length"), model, grid.evaluate.max_length) for model in grid.model),
    ]
    for place, model, length in wanted:
        folder = inputs.models[model].folder
        most = None if folder is None else positions(folder)
        if length is not None and most is not None and length > most:
            yield Problem(
                place,
                f"{length} tokens, and model {model} has {most} positions; use {most} or less",
            )


def bos_problems(grid: Grid, inputs: Inputs) -> Iterator[Problem]:
    """Models whose tokenizers have no BOS token, where the grid wants one."""
    for name, model in inputs.models.items():
        if grid.evaluate.bos == "add" and model.folder is not None and not has_bos(model.folder):
            yield Problem(
                ("evaluate", "bos"),
                f"'add' is not allowed; the tokenizer of {name} has no BOS token: write none",
            )


def has_bos(folder: Path) -> bool:
    """Does a model's tokenizer have a BOS token?"""
    paths = [folder / name for name in ("tokenizer_config.json", "special_tokens_map.json")]
    return any(path.is_file() and read_json(path).get("bos_token") for path in paths)


TRANSPOSED = ("gpt2", "openai-gpt")
"""Model types that store their linears as [inputs, outputs]."""


def width_problems(grid: Grid, cells: Iterable[Cell], inputs: Inputs) -> Iterator[Problem]:
    """N:M patterns whose M does not divide the inputs of every linear that is to be pruned."""
    wanted = {(c.model, c.pattern) for c in cells if c.pattern != "unstructured"}
    for model, pattern in sorted(wanted):
        folder, m = inputs.models[model].folder, Pattern.parse(pattern).m
        widths = _matrix_widths(folder, grid.pruning.skip) if folder is not None else {}
        wrong = {name: width for name, width in widths.items() if width % m}
        if wrong:
            listed = ", ".join(f"{n} ({w})" for n, w in sorted(wrong.items())[:6])
            yield Problem(
                ("cells",),
                f"pattern {pattern} needs linears with a number of inputs that {m} divides; in "
                f"{model} it does not divide: {listed}; choose another pattern, or `pruning.skip`",
            )


def _matrix_widths(folder: Path, skip: Iterable[str]) -> dict[str, int]:
    """Inputs of every weight matrix inside a block, by its name there, from the file headers."""
    inputs = 0 if read_json(folder / "config.json").get("model_type") in TRANSPOSED else 1
    widths: dict[str, int] = {}
    for path in folder.glob("*.safetensors"):
        for name, entry in modelfiles.header(path).items():
            inside = re.search(r"\.\d+\.(.+)\.weight$", name)  # after the number of the block
            if inside and len(entry["shape"]) == 2:
                widths[inside[1]] = entry["shape"][inputs]
    return {n: w for n, w in widths.items() if not any(fnmatch(n, s) for s in skip)}


def _keep_pool(spec: DatasetSpec, found: sources.Streamed, pools: Path) -> None:
    """Make the pool of a streamed dataset, as a job would make it of downloaded files."""
    identity = pool_identity(spec, found.source, combined(found.hashes))
    build_once(pools / identity, lambda f: read_pool(found.source, spec, found.open).save(f))
