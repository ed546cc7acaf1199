"""Corpora that are sketched in shards: several processes together make what one makes whole."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from calib import shards, sketch
from calib.minhash import Sketch
from calib.pool import Pool
from calib.samples import sides
from calib.shingles import word_hashes
from calib.similarity import compare
from jobs import share
from jobs.plan.plan import Plan
from jobs.plan.planning import plan_grid
from jobs.run import RunFolder
from jobs.work import jobs_for

pytestmark = pytest.mark.usefixtures("here")

SHARD, UNITS, PERMUTATIONS = 7, 500, 256


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corpora are large from 100 words on, and shards small; forked processes see it so, too."""
    for module in ("calib.similarity", "jobs.share"):
        monkeypatch.setattr(f"{module}.EXACT_UNITS", 100)
    for module in ("calib.shards", "jobs.share"):
        monkeypatch.setattr(f"{module}.SHARD_DOCUMENTS", SHARD)


@pytest.fixture
def planned(write_grid: Callable[..., Path], tmp_path: Path) -> tuple[RunFolder, Plan]:
    grid = write_grid({"dataset: [farm, city]": "dataset: [city]", "seed: [0, 1]": "seed: [0]"})
    settings = f"similarity.tokens={UNITS}", f"similarity.num_perm={PERMUTATIONS}"
    plan = plan_grid(grid, [*settings, "similarity.measures=[jaccard]"], tmp_path).plan
    run = RunFolder(tmp_path / plan.name)
    run.write_plan(plan)
    return run, plan


@pytest.mark.usefixtures("small")
def test_processes_sketch_a_corpus_together(planned: tuple[RunFolder, Plan]) -> None:
    run, plan = planned
    (key,) = share.shared_by(plan, map(plan.cell, plan.cells))
    together = [
        multiprocessing.get_context("fork").Process(target=share.main, args=([str(run.path), key],))
        for _ in range(3)
    ]
    for process in together:
        process.start()
    for process in together:
        process.join()
    assert [process.exitcode for process in together] == [0, 0, 0]
    kept = sorted((run.artefacts / "sketches").iterdir())
    (figures,) = (run.artefacts / "similarity").glob("*/neighbours.json")
    found = json.loads(figures.with_name("similarity.json").read_text())["jaccard"]
    pools = [
        Pool.load(run.artefacts / "pools" / str(plan.inputs.pool(name, "model", plan.dtype, 32)))
        for name in ("city", "farm")
    ]
    texts = [
        [pool.texts[i] for i in indices]
        for pool, indices in zip(pools, sides(*(pool.ids for pool in pools)), strict=True)
    ]
    one, other = (sketch.sketch(t, 3, PERMUTATIONS, 1, most=UNITS) for t in texts)
    assert found["value"] == one.jaccard(other)
    assert found["units"] == UNITS == one.units == other.units
    exact = compare(*pools, 3, UNITS)
    assert abs(found["value"] - exact.common / exact.union) < 3 * found["stderr"]
    needed = 0
    for side in texts:
        counts = word_hashes(side)[1]
        ends = [int(counts[:i].sum()) for i in range(SHARD, len(side) + SHARD, SHARD)]
        needed += 1 + sum(end < UNITS for end in ends)
    assert needed <= len(kept) <= needed + 2 + 2 * len(together)  # the cut ones, and those begun
    assert all(Sketch.load(path / "sketch.safetensors").grams for path in kept)


@pytest.mark.usefixtures("small")
def test_a_large_corpus_is_an_array_of_jobs(planned: tuple[RunFolder, Plan]) -> None:
    run, plan = planned
    cells = {key: plan.cell(key) for key in plan.cells}
    named = [job.name for job in jobs_for(run, plan, cells, None) if "shared" in job.name]
    documents = sum(plan.inputs.datasets[name].spec.max_documents for name in ("farm", "city"))
    assert len(named) == len(set(named)) == min(share.MOST_JOBS, -(-documents // SHARD))


def test_others_are_one_job(planned: tuple[RunFolder, Plan]) -> None:
    run, plan = planned
    cells = {key: plan.cell(key) for key in plan.cells}
    assert len([job for job in jobs_for(run, plan, cells, None) if "shared" in job.name]) == 1
    assert shards.SHARD_DOCUMENTS > SHARD
