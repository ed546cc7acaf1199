"""What a grid will cost, said before it runs: GPU-hours, disk, memory, and what cannot fit."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from jobs.plan.cells import Cell
from jobs.plan.costs import (
    CPU_PASS_RATE,
    CPU_PRUNE_RATE,
    GIB,
    OUTCOME_BYTES,
    PASS_RATE,
    PRUNE_RATE,
    RECORD_BYTES,
    WRITE_RATE,
    CellCost,
    Estimator,
)
from jobs.plan.planning import Planned
from jobs.plan.sizes import UNKNOWN_TASK, table

CARDS = {"24 GiB": 24, "48 GiB": 48, "80 GiB (A100, H100)": 79, "141 GB (H200)": 139}
"""Memory of the GPUs in use, as their drivers count it, in GiB."""

CPU_WRITING, MOST_CORE_HOURS = 3.0, 500.0
"""A token written takes a core so many times as long as one read. Core-hours are said up to so
many; nobody runs more on CPUs."""

Costs = list[tuple[Cell, CellCost]]


def lines(planned: Planned, todo: Collection[str], out: Path) -> Iterator[str]:
    """The estimate of the cells of `todo`, for people, line by line."""
    estimator = Estimator(planned)
    cells = [planned.cells[key] for key in todo]
    if not cells:
        return
    costs = [(cell, cost) for cell in cells if (cost := estimator.cost(cell)) is not None]
    strangers = sorted(name for name, known in estimator.shapes.items() if known is None)
    for name in strangers:
        yield f"no estimate for {name}: its size is not known before it is fetched"
    if costs:
        yield from _time(estimator, cells, costs)
    yield from _disk(estimator.disk(cells), out)
    yield from _misfits(estimator, cells, costs)


def _time(estimator: Estimator, cells: Collection[Cell], costs: Costs) -> Iterator[str]:
    parts = {kind: sum(getattr(c, kind) for _, c in costs) for kind in ("prune", "evaluate")}
    parts["load"] = sum(c.load for _, c in costs)
    steps, writing = estimator.generation(cells)
    parts["generate"] = steps + writing
    total = sum(parts.values())
    listed = ", ".join(f"{kind} {_hours(s)}" for kind, s in parts.items() if s)
    slowest = max(c.seconds for _, c in costs)
    yield (
        f"estimate: {_hours(total)} GPU-hours for {len(costs):,} cells to run ({listed}); the "
        f"longest cell {slowest / 60:.1f} min"
    )
    basis = {known.basis for known in estimator.shapes.values() if known}
    yield (
        f"  basis: one H200 in bfloat16, {PRUNE_RATE:.1e} s a parameter and calibration token "
        f"(Wanda; other methods in proportion) and {PASS_RATE:.1e} s a "
        f"parameter and token scored (measured); parameters from {', '.join(basis)}; "
        "an A100 takes about 3 times as long; queueing and waiting not counted"
    )
    work = CPU_PRUNE_RATE / PRUNE_RATE * parts["prune"] + parts["load"]
    work += CPU_PASS_RATE / PASS_RATE * parts["evaluate"]
    work += CPU_WRITING * CPU_PASS_RATE / WRITE_RATE * writing
    if work < MOST_CORE_HOURS * 3600:
        yield f"  without a GPU: about {_hours(work)} core-hours, measured on a small model"
    if estimator.unknown:
        yield (
            f"  not in the table, taken as {UNKNOWN_TASK[0]:,} documents of {UNKNOWN_TASK[1]} "
            f"tokens: {', '.join(sorted(estimator.unknown))}"
        )


def _disk(sizes: dict[str, float], out: Path) -> Iterator[str]:
    total = sum(sizes.values())
    listed = ", ".join(f"{name} {_size(size)}" for name, size in sizes.items())
    yield (
        f"disk: {_size(total)} ({listed}); basis: {RECORD_BYTES // 1000} kB a record, "
        f"{OUTCOME_BYTES} bytes a document scored, 4 bytes a calibration token, 2 a parameter; "
        "the text of datasets and tasks not counted"
    )
    place = next(p for p in (out.resolve(), *out.resolve().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if total > free:
        yield f"does not fit: {_size(total)} on disk; {place} has {_size(free)} free"


def _misfits(estimator: Estimator, cells: Collection[Cell], costs: Costs) -> Iterator[str]:
    if not costs:
        return
    resources = estimator.plan.resources
    need = Counter(_card(cost.gpu_gib) for _, cost in costs)
    known = [f"{need[card]:,} cells on {card}" for card in CARDS if need[card]]
    most = max(cost.gpu_gib for _, cost in costs)
    yield f"GPU memory: at most {most:.0f} GiB; smallest card that fits: " + ", ".join(known)
    large = [(cell, cost) for cell, cost in costs if _card(cost.gpu_gib) is None]
    if large:
        yield f"does not fit one GPU: {len(large):,} cells, {_which(large)}"
    cache = max(cost.cache_gib for _, cost in costs)
    if cache > most / 2:
        yield (
            f"GPU memory: {cache:.0f} GiB of that are the keys and values of texts that the model "
            "writes; a smaller `generate.batch` takes less (and writes other texts)"
        )
    host = max(cost.host_gib for _, cost in costs)
    if host > resources.mem_gb * 1e9 / GIB:
        yield (
            f"does not fit: a cell needs about {host:.0f} GiB of memory beside the GPU's, and "
            f"resources.mem_gb is {resources.mem_gb}; raise it"
        )
    longest = max(cost.seconds for _, cost in costs) * resources.cells_per_job / 60
    if longest > resources.timeout_min:
        yield (
            f"does not fit: a job of {resources.cells_per_job} cells takes up to {longest:.0f} "
            f"min, and resources.timeout_min is {resources.timeout_min}; raise it"
        )
    yield from _short_pools(estimator, cells)


def _short_pools(estimator: Estimator, cells: Collection[Cell]) -> Iterator[str]:
    """Draws that a pool not yet fetched is unlikely to fill."""
    largest: dict[tuple[str, str], int] = defaultdict(int)
    for cell in cells:
        if cell.draw and cell.draw.dataset in table()["datasets"]:
            folds = cell.draw.fold[1] if cell.draw.fold else 1
            tokens = cell.draw.size * cell.draw.seqlen * folds
            key = (cell.draw.dataset, cell.draw.sampler)
            largest[key] = max(largest[key], tokens)
    for (dataset, sampler), wanted in sorted(largest.items()):
        spec = estimator.plan.inputs.datasets[dataset].spec
        length, share = table()["datasets"][dataset]
        documents = spec.max_documents
        held = documents * (length if sampler == "stream" else share * 2048)
        if spec.path is not None and held < wanted:
            yield (
                f"may not fit: {dataset} with sampler {sampler} needs {wanted:,.0f} tokens, and "
                f"its {documents:,} documents hold about {held:,.0f} ({length} tokens a document, "
                f"{100 * share:.0f} % of them reach 2,048); raise max_documents and shards"
            )


def _which(large: Costs) -> str:
    """The cells that are too large, by what makes them so."""
    most: dict[str, float] = defaultdict(float)
    for cell, cost in large:
        data = f" with {cell.draw.size} windows" if cell.draw else ""
        name = f"{cell.model} {cell.recipe.name}{data}"
        most[name] = max(most[name], cost.gpu_gib)
    return "; ".join(f"{name}: {gib:.0f} GiB" for name, gib in most.items())


def _card(gib: float) -> str | None:
    """The smallest GPU that has room for so much."""
    return next((card for card, size in CARDS.items() if gib <= size), None)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 0.1 else f"{hours:.3f}"


def _size(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
