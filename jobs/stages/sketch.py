"""Two pools beside each other, as the grid compares them; sketches of their shards are artefacts.

A corpus whose n-grams no memory holds is sketched shard by shard, by as many processes as there
are: each takes a shard that no other one has taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.measures import Corpora
from calib.minhash import Sketch
from calib.pool import Pool
from calib.samples import Split
from calib.shards import sides
from calib.shingles import unit_hashes, word_hashes
from jobs.built import attempt, is_sound
from jobs.plan.cells import digest

if TYPE_CHECKING:
    from jobs.stages.calibration import Stages

VERSION = 3
"""Raised when a figure is computed otherwise than before."""


def split_of(stages: Stages, model: str) -> Split:
    """Texts to hashed words, or to hashed tokens of a model, as the grid wants them."""
    if stages.plan.similarity.unit == "word":
        return word_hashes
    tokenize = stages.tokenize(model)

    def split(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        ids = tokenize(list(texts))
        joined = np.array([token for text in ids for token in text], np.int64)
        return unit_hashes(joined), np.array([len(text) for text in ids], np.int64)

    return split


def corpora(
    stages: Stages, candidate: Pool, reference: Pool, model: str, science: dict[str, Any]
) -> Corpora:
    """Two pools beside each other, with the grid's settings; `science` is what they depend on."""
    settings = stages.plan.similarity

    def keep(name: str, make: Callable[[], Sketch]) -> Sketch:
        return _load(stages.artefact("sketches", _key(science, name), _write(make)))

    return Corpora(
        candidate,
        reference,
        n=settings.n,
        units=settings.tokens,
        permutations=settings.num_perm,
        seed=settings.seed,
        documents=settings.documents,
        split=split_of(stages, model),
        keep=keep,
    )


def _key(science: dict[str, Any], name: str) -> str:
    return digest(science | {"measures": [], "shard": name})


def _write(make: Callable[[], Sketch]) -> Callable[[Path], None]:
    return lambda folder: make().save(folder / "sketch.safetensors")


def _load(folder: Path) -> Sketch:
    return Sketch.load(folder / "sketch.safetensors")


def sketch_shards(stages: Stages, both: Corpora, science: dict[str, Any]) -> None:
    """Sketch the shards that no other process sketches, until all that are needed are there."""
    folder = stages.run.artefacts / "sketches"

    def known(name: str) -> Sketch | None:
        path = folder / _key(science, name)
        return _load(path) if is_sound(path) else None

    for side in sides(both):
        while missing := side.missing(known):
            stages.progress("sketches", len(side.shards) - len(missing), len(side.shards))
            if not any(
                attempt(folder / _key(science, side.name(i)), _write(partial(side.make, i)))
                for i in missing
            ):
                time.sleep(1.0)


def science_of(stages: Stages, model: str, pools: Sequence[str]) -> dict[str, Any]:
    """What figures of pools depend on."""
    settings = stages.plan.similarity
    content = stages.plan.inputs.models[model].content if settings.unit == "token" else None
    return settings.model_dump() | {"tokenizer": content, "pools": pools, "version": VERSION}
