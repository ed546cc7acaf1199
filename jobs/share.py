"""Build what several cells are made from: `python -m jobs.share RUN KEY...`.

A launch starts these jobs first, so that no cell waits while another one does the work of both.
They only save time: a cell computes by itself whatever is missing when it comes to it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from calib.shards import SHARD_DOCUMENTS
from calib.similarity import EXACT_UNITS
from jobs.plan.cells import Cell, digest
from jobs.plan.plan import Plan
from jobs.run import RunFolder

MOST_JOBS = 64
"""Jobs that sketch one corpus together."""

LARGE_BYTES = 50_000_000
"""Text of this size takes so long to read and compare that it is worth a process of its own."""


@dataclass(frozen=True)
class Shared:
    """The text of one dataset for one model: its pool, tokens and similarity.

    Attributes:
        model, dataset: as in the grid.
        seqlen: of the cells; generated text depends on it.
        samplers: those that its tokens are made for.
    """

    model: str
    dataset: str
    seqlen: int
    samplers: tuple[str, ...]

    def key(self, plan: Plan) -> str:
        """The identity of what is built; of no use outside the artefacts folder."""
        reference = plan.reference[self.model]
        names = [self.dataset, *([reference] if reference else [])]
        pools = [plan.inputs.pool(n, self.model, plan.dtype, self.seqlen) for n in names]
        content = plan.inputs.models[self.model].content
        settings = plan.similarity.model_dump()
        return digest({"pools": pools, "model": content, "similarity": settings, **asdict(self)})

    def done(self, run: RunFolder, plan: Plan) -> Path:
        """A folder that is there once all is built."""
        return run.artefacts / "shared" / self.key(plan)

    def jobs(self, plan: Plan) -> int:
        """How many jobs build it together: of a corpus that is sketched, one a shard."""
        reference = plan.reference[self.model]
        if reference is None or plan.similarity.tokens <= EXACT_UNITS:
            return 1
        specs = [plan.inputs.datasets[name].spec for name in (self.dataset, reference)]
        documents = sum(spec.max_documents for spec in specs)
        return min(MOST_JOBS, -(-documents // SHARD_DOCUMENTS))

    def is_heavy(self, plan: Plan) -> bool:
        """Does it take so long that others should do something else meanwhile?"""
        if self.jobs(plan) > 1:
            return True
        names, size = [self.dataset], 0
        for name in names:
            entry = plan.inputs.datasets[name]
            if entry.spec.generate is not None:
                return True
            names += entry.spec.parents
            files = entry.source.files if entry.source else ()
            size += sum(path.stat().st_size for path in files if path.is_file())
        return size > LARGE_BYTES


def shared_by(plan: Plan, cells: Iterable[Cell]) -> dict[str, Shared]:
    """What cells are made from, by key."""
    samplers: dict[tuple[str, str, int], set[str]] = {}
    for cell in cells:
        if cell.draw is not None:
            text = (cell.model, cell.draw.dataset, cell.draw.seqlen)
            samplers.setdefault(text, set()).add(cell.draw.sampler)
    parts = [Shared(*text, tuple(sorted(found))) for text, found in samplers.items()]
    return {part.key(plan): part for part in parts}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from jobs.cell import quiet_libraries, stopping

    parser = argparse.ArgumentParser(prog="python -m jobs.share", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("key", nargs="+", help="what to build, as jobs.launch names it")
    options = parser.parse_args(arguments)
    run = RunFolder(options.run)
    plan = run.read_plan()
    parts = shared_by(plan, map(plan.cell, plan.cells))
    quiet_libraries(plan, run)
    with stopping(run):
        for key in options.key:
            if key in parts and run.read_stop() is None:
                build(run, plan, parts[key])
    return 0


def build(run: RunFolder, plan: Plan, part: Shared) -> None:
    """Build one part unless it is there."""
    from calib.pool import SEPARATOR
    from jobs.built import build_once
    from jobs.heartbeat import Heartbeat
    from jobs.stages.calibration import Stages, free_memory
    from jobs.stages.similarity import pool_figures

    name = f"shared-{part.dataset}-{os.getpid()}"
    beat = Heartbeat(run.heartbeat(name), f"text of {part.dataset}")
    stages = Stages(run, plan, beat)

    def make(_: Path) -> None:
        for sampler in part.samplers:
            separator = SEPARATOR if sampler == "stream" else ""
            stages.tokens(part.dataset, part.model, part.seqlen, separator)
        pool_figures(stages, part.dataset, part.model, part.seqlen)
        free_memory()

    print(f"text of {part.dataset} for {part.model}", flush=True)
    try:
        if part.jobs(plan) > 1:  # together, before one of them puts the rest on top
            pool_figures(stages, part.dataset, part.model, part.seqlen)
        build_once(part.done(run, plan), make)
    finally:
        beat.remove()


if __name__ == "__main__":
    sys.exit(main())
