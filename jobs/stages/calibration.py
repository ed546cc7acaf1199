"""The stages before pruning: text, tokens and draws, each computed once.

Every product is an artefact that cells and runs share, identified by what it is made from.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from calib.draw import CalibrationSet, draw
from calib.pool import SEPARATOR, Pool, Tokens
from jobs.built import build_once, is_whole
from jobs.files import read_json
from jobs.plan.cells import Draw, digest
from jobs.plan.plan import Plan
from jobs.run import RunFolder
from jobs.stages import generate
from jobs.stages.dataset import document_figures
from jobs.stages.pool import build_pool
from prune.model.load import load_model, load_tokenizer


class Progress(Protocol):
    """Called with a stage, how far it is, and a note for people."""

    def __call__(self, stage: str, done: int = 0, total: int = 0, note: str = "") -> None:
        """Say so."""


HELDOUT_WINDOWS, HELDOUT_SEED = 32, -1
"""The windows of the reference that errors are measured on; seeds of grids are not negative."""

READABLE_WINDOWS, READABLE_CHARACTERS = 3, 4000
"""What a manifest keeps of a calibration set as text, for people to read."""


class Stages:
    """The stages of one run, in one process."""

    def __init__(self, run: RunFolder, plan: Plan, progress: Progress) -> None:
        self.run = run
        self.plan = plan
        self.progress = progress

    # -- models

    def folder(self, model: str) -> Path:
        """The files of a model.

        Raises:
            FileNotFoundError: it was not fetched before the run was planned.
        """
        folder = self.plan.inputs.models[model].folder
        if folder is None:
            raise FileNotFoundError(f"model {model} is not on this machine; launch the grid again")
        return folder

    @cache  # noqa: B019  (one Stages a process, for its whole life)
    def tokenizer(self, model: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a model."""
        tokenizer = load_tokenizer(self.folder(model))
        self.check([self.folder(model)])
        return tokenizer

    def load(self, model: str) -> PreTrainedModel:
        """The dense model, freshly read."""
        self.progress("load", 0, 0)
        dense = load_model(self.folder(model), self.plan.dtype)
        self.check([self.folder(model)])
        return dense

    def check(self, read: Iterable[Path]) -> None:
        """Make sure that what was just read is what the run was planned with.

        What is computed is known by the content of what it is made from, as it was then.

        Args:
            read: files, and folders.

        Raises:
            RuntimeError: some of it changed.
        """
        if changed := self.plan.inputs.changed(read):
            raise RuntimeError(
                f"{', '.join(changed)} changed since the run was planned; launch the grid again"
            )

    def tokenize(self, model: str) -> Callable[[list[str]], list[list[int]]]:
        """Texts to token ids, without special tokens."""
        tokenizer = self.tokenizer(model)
        return lambda texts: tokenizer(texts, add_special_tokens=False).input_ids

    def artefact(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """A shared artefact, built here unless it is there or another process builds it."""
        path = self.run.artefacts / kind / key
        return build_once(path, build, waiting=lambda: self.progress(f"wait: {kind}", 0, 0))

    # -- text

    def pool_folder(self, dataset: str, model: str, seqlen: int) -> Path:
        """The documents that a dataset offers to a model, as a folder."""
        identity = self.plan.inputs.pool(dataset, model, self.plan.dtype, seqlen)
        if identity is None:
            raise FileNotFoundError(f"dataset {dataset} is not on this machine; launch again")
        spec = self.plan.inputs.datasets[dataset].spec
        if spec.generate is not None and not is_whole(self.run.artefacts / "pools" / identity):
            # before the pool is claimed, so that those who need it write batches, too
            generate.write_batches(self, dataset, model, seqlen)
            free_memory()

        def build(folder: Path) -> None:
            build_pool(self, dataset, model, seqlen, folder)

        return self.artefact("pools", identity, build)

    def pool(self, dataset: str, model: str, seqlen: int) -> Pool:
        """The documents that a dataset offers to a model."""
        return Pool.load(self.pool_folder(dataset, model, seqlen))

    def tokens(self, dataset: str, model: str, seqlen: int, separator: str) -> Tokens:
        """The tokens of a pool; `separator` stands before every document."""
        folder = self.pool_folder(dataset, model, seqlen)
        if (folder / "tokens.safetensors").is_file():  # of text that is made of tokens
            return Tokens.load(folder, Pool.load(folder).ids)
        science = [folder.name, self.plan.inputs.models[model].content, separator]

        def build(target: Path) -> None:
            self.progress("tokenize", 0, 0)
            Tokens.of(Pool.load(folder), self.tokenize(model), separator).save(target)

        built = self.artefact("tokens", digest(science), build)
        return Tokens.load(built, Pool.load(folder).ids)

    # -- draws

    def calibration(self, draw_: Draw, model: str) -> tuple[str, CalibrationSet]:
        """Key and content of the calibration set of a cell, kept in the run."""
        key = self.plan.calibration_key(draw_, model)

        def build(folder: Path) -> None:
            self.progress("draw", 0, 0)
            separator = SEPARATOR if draw_.sampler == "stream" else ""
            tokens = self.tokens(draw_.dataset, model, draw_.seqlen, separator)
            if draw_.fold is not None:
                tokens = tokens.fold(*draw_.fold)
            drawn = draw(tokens, draw_.sampler, draw_.size, draw_.seqlen, draw_.seed)  # type: ignore[arg-type]
            spec = self.plan.inputs.datasets[draw_.dataset].spec
            pool = self.pool_folder(draw_.dataset, model, draw_.seqlen)
            written = {} if spec.generate is None else read_json(pool / "manifest.json")
            manifest = vars(draw_) | {
                "pool": pool.name,
                "tokenizer": self.plan.inputs.models[model].content,
                "separator": separator,
                "generate": None if spec.generate is None else spec.generate.model_dump(),
                "written": written or None,
                "texts": self._readable(drawn.input_ids[:READABLE_WINDOWS].tolist(), model),
                "documents": document_figures(
                    self.pool(draw_.dataset, model, draw_.seqlen), drawn.windows
                ),
            }
            CalibrationSet(drawn.input_ids, drawn.windows, manifest).save(folder)

        return key, CalibrationSet.load(build_once(self.run.calibration(key), build))

    def _readable(self, windows: list[list[int]], model: str) -> list[str]:
        """The beginnings of windows as text, special tokens spelled out: what the model sees."""
        texts = self.tokenizer(model).batch_decode(windows, skip_special_tokens=False)
        return [text[:READABLE_CHARACTERS] for text in texts]

    def heldout(self, model: str) -> torch.Tensor | None:
        """Windows of the reference on which errors are measured; None without a reference.

        They are the same for all cells of a model, and no cell calibrates on their seed.
        """
        reference = self.plan.reference[model]
        if reference is None:
            return None
        tokens = self.tokens(reference, model, self.plan.seqlen, SEPARATOR)
        size = min(HELDOUT_WINDOWS, len(tokens.ids) // self.plan.seqlen)
        if not size:
            return None
        drawn = draw(tokens, "stream", size, self.plan.seqlen, HELDOUT_SEED)
        return torch.from_numpy(drawn.input_ids).long()


def free_memory() -> None:
    """Give back what a model that is no longer needed held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
