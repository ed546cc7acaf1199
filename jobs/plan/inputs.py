"""What a grid's names stand for: folders, files, and the identities that enter the keys."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from calib import sources
from calib.selectors import SELECTORS
from calib.spec import DatasetSpec, GenerateSpec, Strict
from cluster.container import outermost
from cluster.yamlfile import Problem
from jobs.evaluate.task_inputs import TaskInput
from jobs.evaluate.tasks import Text
from jobs.files import sha256_of, stamp_of
from jobs.plan.cells import digest

MOST_FILES = 32
"""Files of one folder that are named one by one in the command line of a container."""


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
        hashed: of each file that was hashed, its size and time of change then, and the hash.
        problems: what is wrong. unresolved: hub ids that are not on this machine.
    """

    models: dict[str, ModelInput] = {}
    datasets: dict[str, DatasetInput] = {}
    texts: dict[str, TextInput] = {}
    tasks: dict[str, TaskInput] = {}
    reference: dict[str, str | None] = {}
    mirror: Path | None = None
    demo: Path | None = None
    hashed: dict[str, tuple[str, str]] = {}
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

    def changed(self, within: Iterable[Path]) -> list[str]:
        """The hashed files that are, or lie in, one of these and are not any more what they were.

        A file that was only touched, or copied there again, is what it was.
        """
        roots = {str(path) for path in within}
        found = []
        for name, (stamp, sha256) in self.hashed.items():
            path = Path(name)
            if name in roots or not roots.isdisjoint(map(str, path.parents)):
                now = stamp_of(path) if path.is_file() else None
                if now != stamp and (now is None or sha256_of(path) != sha256):
                    found.append(name)
        return found

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
