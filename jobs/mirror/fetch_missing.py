"""Fetching what a grid without a mirror names and this machine lacks, to the hub's cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from calib import sources
from calib.readers import read_pool
from calib.spec import DatasetSpec
from jobs.built import build_once
from jobs.files import combined
from jobs.plan.inputs import Inputs, pool_identity
from prune.model import files as models
from prune.model import hub


def fetch_missing(inputs: Inputs, pools: Path, say: Callable[[str], None]) -> None:
    """Download the models and datasets that are not on this machine.

    Args:
        inputs: of the grid, as they were looked up. pools: where those of streamed datasets go.
        say: is told what is fetched, line by line.
    """
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


def _keep_pool(spec: DatasetSpec, found: sources.Streamed, pools: Path) -> None:
    """Make the pool of a streamed dataset, as a job would make it of downloaded files."""
    identity = pool_identity(spec, found.source, combined(found.hashes))
    build_once(pools / identity, lambda f: read_pool(found.source, spec, found.open).save(f))
