"""Writing generated text, batch by batch: processes share the work, and what is written stays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calib import generation
from calib.generation import Generator
from calib.spec import GenerateSpec
from jobs.claims import take
from jobs.files import read_json, write_json

if TYPE_CHECKING:
    from jobs.stages.calibration import Stages

SAMPLE = 120
"""Characters of the text being written that a heartbeat carries."""


def write_batches(stages: Stages, dataset: str, model: str, seqlen: int) -> list[Path]:
    """The files of a pool's batches, those that are missing written here or by other processes.

    A batch is claimed, written beside its name and renamed into place. So a killed process loses
    the batch it was at, another takes that up once the claim is dead, and any number of processes
    make the same files.
    """
    spec = stages.plan.inputs.generate_spec(dataset)
    key = stages.plan.inputs.batches(dataset, model, stages.plan.dtype, seqlen)
    assert key is not None, f"dataset {dataset} is not on this machine; launch again"
    folder = stages.run.artefacts / "generated" / key
    paths = [folder / f"{n:05}.json" for n in range(-(-spec.texts // spec.batch))]
    writing = _Writing(stages, dataset, model, seqlen, paths)
    while missing := [n for n, path in enumerate(paths) if not path.is_file()]:
        if not any(writing.attempt(n, key) for n in missing):
            stages.progress("wait: generate", len(paths) - len(missing), len(paths))
            time.sleep(1.0)
    return paths


def assemble(paths: Sequence[Path], spec: GenerateSpec, folder: Path) -> None:
    """Make a pool of its batches."""
    batches = [read_json(path) for path in paths]
    texts = (generation.from_json(text) for batch in batches for text in batch["texts"])
    generation.save(generation.pooled(texts, spec), folder, [batch["decoder"] for batch in batches])


class _Writing:
    """Writes batches of a pool in this process; the model is loaded for the first of them."""

    def __init__(
        self, stages: Stages, dataset: str, model: str, seqlen: int, paths: Sequence[Path]
    ) -> None:
        self.stages, self.dataset, self.model, self.seqlen = stages, dataset, model, seqlen
        self.paths = paths
        self.spec = stages.plan.inputs.generate_spec(dataset)
        self.generator: Generator | None = None
        self.since, self.written = 0.0, 0

    def attempt(self, number: int, key: str) -> bool:
        """Write a batch unless another process does; says whether it is there now."""
        claim = take(self.stages.run.artefacts / "claims" / f"generated-{key}-{number:05}")
        if claim is None:
            return False
        with claim:
            path = self.paths[number]
            if not path.is_file():
                generator = self._ready()
                texts = generator.batch(number, self._say)
                self.written += sum(text.tokens - generator.prefix for text in texts)
                made = [generation.to_json(text) for text in texts]
                write_json(path, {"decoder": generator.writer.path, "texts": made})
        return True

    def _ready(self) -> Generator:
        if self.generator is None:
            stages = self.stages
            source = None
            if self.spec.source is not None:
                source = stages.tokens(self.spec.source, self.model, self.seqlen, "")
            self.generator = Generator(
                stages.load(self.model),
                stages.tokenizer(self.model),
                source,
                self.spec,
                self.spec.max_tokens or self.seqlen,
            )
            path, _, reason = self.generator.writer.path.partition(": ")
            if path == "whole":
                print(f"{self.dataset}: a pass over the whole text for each token, since {reason}")
            self.since = time.monotonic()
        return self.generator

    def _say(self, written: int, sample: str) -> None:
        """Texts done by all processes, this one's tokens a second, and the end of a text."""
        assert self.generator is not None
        done = sum(path.is_file() for path in self.paths) * self.spec.batch
        done += self.spec.batch * written // self.generator.writer.new
        speed = (self.written + written * self.spec.batch) / (time.monotonic() - self.since)
        note = f"{speed:,.0f} tokens/s: {' '.join(sample[-SAMPLE:].split())}"
        self.stages.progress("generate", min(done, self.spec.texts), self.spec.texts, note)
