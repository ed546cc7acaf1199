"""Estimates: from a model's files, by counting, and only of what is still to run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from jobs.plan import costs, estimates, sizes
from jobs.plan.inputs import ModelInput
from jobs.plan.planning import plan_grid
from prune.recipe import parse


def test_the_shape_of_a_model_comes_from_its_files(tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    stored = sum(p.numel() for p in model.parameters())
    found = sizes.shape("x/y", ModelInput(folder=tiny_model))
    assert found is not None
    assert (found.parameters, found.blocks, found.width, found.widest) == (stored, 2, 32, 48)
    assert found.keys == model.model.layers[0].self_attn.k_proj.out_features


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("apple/DCLM-7B", 6.9),
        ("apple/DCLM-7B@abc", 6.9),
        ("a/some-3b-chat", 3.0),
        ("a/x-70m", 0.07),
    ],
)
def test_the_shape_of_a_model_that_is_not_here(name: str, billions: float) -> None:
    found = sizes.shape(name, ModelInput())
    assert found is not None
    assert found.parameters == pytest.approx(billions * 1e9)


def test_a_model_that_nothing_is_known_of_has_no_estimate() -> None:
    assert sizes.shape("owner/mystery", ModelInput()) is None


def test_only_what_runs_on_calibration_data_takes_time_for_it() -> None:
    assert costs.passes(parse("magnitude")) == 0
    assert costs.passes(parse("wanda")) == 1
    tuned = parse({"name": "wanda", "refine": {"name": "reconstruct", "epochs": 2}})
    assert costs.passes(tuned) > costs.passes(parse("owl")) > costs.passes(parse("wanda"))


def test_an_estimate_counts_what_is_left(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    planned = plan_grid(write_grid(), [], tmp_path / "runs")
    keys = list(planned.cells)
    said = "\n".join(estimates.lines(planned, keys, tmp_path / "runs"))
    assert f"for {len(keys)} cells to run" in said
    assert "for 2 cells to run" in "\n".join(estimates.lines(planned, keys[:2], tmp_path))
    assert list(estimates.lines(planned, [], tmp_path)) == []


def test_twice_the_windows_take_twice_the_memory_of_activations(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    found = []
    for size in (4, 8, 12):
        planned = plan_grid(write_grid({"size: 4": f"size: {size}"}), [], tmp_path)
        estimator = costs.Estimator(planned)
        cell = next(c for c in planned.cells.values() if c.draw)
        cost = estimator.cost(cell)
        assert cost is not None
        found.append(cost)
    steps = [b.gpu_gib - a.gpu_gib for a, b in pairwise(found)]
    assert steps[0] == pytest.approx(steps[1])
    assert steps[0] == pytest.approx(2 * 4 * 32 * 32 * 4 / 2**30)


def test_texts_that_are_written_at_once_take_memory(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    found = []
    for batch in (1000, 3000):
        own = f"datasets.own={{generate: {{from: null, batch: {batch}, texts: 8}}}}"
        mixed = "datasets.mixed={mixture: {own: 1, farm: 1}}"
        grid = write_grid()
        planned = plan_grid(grid, [own, mixed, "cells.dataset=[mixed]"], tmp_path)
        estimator = costs.Estimator(planned)
        cell = next(c for c in planned.cells.values() if c.draw)
        assert cell.draw is not None
        cost, shape = estimator.cost(cell), estimator.shapes[cell.model]
        assert cost is not None
        assert shape is not None
        each = 2 * shape.blocks * shape.keys * cell.draw.seqlen * 4 / costs.GIB
        assert cost.cache_gib == pytest.approx(batch * each)
        assert sum(estimator.generation([cell])) > 0
        found.append(cost)
    assert found[1].gpu_gib - found[0].gpu_gib == pytest.approx(2000 * each)


def test_a_text_is_no_longer_than_its_files(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    planned = plan_grid(write_grid(), ["evaluate.limit=null", "evaluate.tasks=[]"], tmp_path)
    source = planned.plan.inputs.datasets["farm"].source
    assert source is not None
    size = sum(file.stat().st_size for file in source.files)
    ((tokens, _),) = costs.Estimator(planned).evaluated.values()
    assert tokens == pytest.approx(size / sizes.TOKEN_BYTES)
