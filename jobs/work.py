"""From cells to jobs: which cells share a process, and what has to be built before them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from cluster.backend import Job
from cluster.code import import_path
from jobs.built import is_whole
from jobs.failures import memory_gb
from jobs.plan.cells import Cell
from jobs.plan.plan import Plan
from jobs.run import RunFolder
from jobs.share import Shared, shared_by

COLLECT_MEMORY_GB, COLLECT_MINUTES = 4, 60


def jobs_for(
    run: RunFolder, plan: Plan, cells: dict[str, Cell], slots: int | None, live: Sequence[Job] = ()
) -> list[Job]:
    """The jobs that run some cells, what several of them are made from first.

    Args:
        run, plan: the run.
        cells: the cells to run, by key, in order.
        slots: how many jobs run at once, None where that is not known.
        live: jobs that are queued or running already.
    """
    shared = _shared(run, plan, cells.values(), every=slots is None)
    running = {key for job in live if job.command[1] == "jobs.share" for key in job.command[3:]}
    first = [
        _job(
            run,
            plan,
            f"shared-{key}" + (f"-{i}" if i else ""),
            ("jobs.share", key),
            plan.resources.mem_gb,
        )
        for key, part in shared.items()
        if key not in running
        for i in range(part.jobs(plan))
    ]
    groups: dict[tuple[str, int, tuple[str, ...]], list[str]] = {}
    for key, cell in cells.items():
        memory = memory_gb(run, key, plan.resources.mem_gb)
        groups.setdefault((cell.model, memory, _needs(cell, shared)), []).append(key)
    batches = [
        _job(run, plan, batch[0], ("jobs.cell", *batch), memory, needs)
        for (_, memory, needs), keys in groups.items()
        for batch in batches_of(keys, plan.resources.cells_per_job, slots)
    ]
    place = {key: i for i, key in enumerate(cells)}
    return [*first, *sorted(batches, key=lambda job: (bool(job.after), place[job.name]))]


def batches_of(keys: Sequence[str], most: int, slots: int | None) -> list[Sequence[str]]:
    """Cut cells into batches of at most `most`, even ones where `slots` of them run at once."""
    size = most
    if slots is not None:
        rounds = -(-len(keys) // (slots * most))
        size = -(-len(keys) // (slots * rounds))
    return [keys[i : i + size] for i in range(0, len(keys), size)]


def collect_job(run: RunFolder, plan: Plan) -> Job:
    """The job that settles and collects a run when its cells are over."""
    memory = min(COLLECT_MEMORY_GB, plan.resources.mem_gb)
    return _job(run, plan, "collect", ("jobs.settle",), memory, gpus=0)


def cells_of(job: Job) -> list[str]:
    """The cells that a job runs."""
    return list(job.command[3:]) if job.command[1] == "jobs.cell" else []


def _shared(run: RunFolder, plan: Plan, cells: Iterable[Cell], every: bool) -> dict[str, Shared]:
    """What to build first: all that is not there yet, or only what takes long."""
    return {
        key: part
        for key, part in shared_by(plan, cells).items()
        if (every or part.is_heavy(plan)) and not is_whole(part.done(run, plan))
    }


def _needs(cell: Cell, shared: dict[str, Shared]) -> tuple[str, ...]:
    """The names of the jobs that build what a cell is made from."""
    draw = cell.draw
    return tuple(
        f"shared-{key}"
        for key, part in shared.items()
        if draw is not None
        and (part.model, part.dataset, part.seqlen) == (cell.model, draw.dataset, draw.seqlen)
    )


def _job(
    run: RunFolder,
    plan: Plan,
    name: str,
    command: Sequence[str],
    mem_gb: int,
    after: Sequence[str] = (),
    gpus: int | None = None,
) -> Job:
    module, *keys = command
    log = run.log(name)
    env = {
        "CALGRID_JOB": f"{name}.{os.urandom(4).hex()}",
        "CALGRID_LOG": str(log.relative_to(run.path)),
        "PYTHONPATH": import_path(os.environ),
        "PYTHONUNBUFFERED": "1",
    }
    return Job(
        name=name,
        command=("-m", module, str(run.path), *keys),
        log=log,
        env=env,
        after=after,
        reads=plan.inputs.reads,
        writes=(str(run.path.parent),),
        gpus=plan.resources.gpus if gpus is None else gpus,
        mem_gb=mem_gb,
        timeout_min=COLLECT_MINUTES if module == "jobs.settle" else plan.resources.timeout_min,
        bare=module == "jobs.settle",
    )
