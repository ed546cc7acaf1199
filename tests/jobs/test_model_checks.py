"""What a grid asks of a model that its files show to be impossible: refused with the plan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cluster.yamlfile import InputError
from jobs.plan.planning import plan_grid

Write = Callable[..., Path]


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        plan_grid(path, list(overrides), path.parent / "out")
    return "\n".join(error.value.lines)


def accepted(path: Path, *overrides: str) -> bool:
    return bool(plan_grid(path, list(overrides), path.parent / "out").cells)


@pytest.fixture
def openlm(tiny_model: Path, tmp_path: Path) -> Path:
    """A folder with the configuration and the weights' names of an OpenLM model."""
    folder = tmp_path / "openlm"
    shutil.copytree(tiny_model, folder)
    config = {"model_type": "openlm", "seq_len": 128}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    rows = {"attention.in_proj": 96, "attention.out_proj": 32, "feed_forward.w12": 96}
    rows |= {"feed_forward.w3": 32}
    weights = {f"model.layers.0.{n}.weight": torch.zeros(r, 32) for n, r in rows.items()}
    embedding = {"model.tok_embeddings.weight": torch.zeros(400, 32)}
    save_file(weights | embedding, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("skip", "said"),
    [
        ("[self_attn.q_prj]", ["'self_attn.q_prj'", "'self_attn.q_proj'", "mlp.down_proj"]),
        ("['mlp.*', lm_head]", ["skip.1", "'lm_head'", "no projection of a block"]),
        ("['*']", ["leaves nothing", "self_attn.q_proj"]),
        ("['mlp.*', 'self_attn.*']", ["leaves nothing", "mlp.up_proj"]),
    ],
)
def test_what_skip_cannot_mean_is_refused(write_grid: Write, skip: str, said: list[str]) -> None:
    path = write_grid({"keep: none": f"pruning: {{skip: {skip}}}"})
    message = refusal(path)
    assert all(word in message for word in said), message


@pytest.mark.parametrize("skip", ["mlp.down_proj", "*.down_proj", "self_attn.?_proj", "*[qk]_proj"])
def test_patterns_that_match_are_accepted(write_grid: Write, skip: str) -> None:
    assert accepted(write_grid({"keep: none": f"pruning: {{skip: ['{skip}']}}"}))


@pytest.mark.parametrize(
    ("skip", "fused", "fits"),
    [
        ("*.in_proj[q]", "split", True),
        ("attention.in_proj", "split", True),
        ("attention.in_proj", "whole", True),
        ("*.in_proj[q]", "whole", False),
        ("*.in_proj[x]", "split", False),
    ],
)
def test_parts_of_fused_projections_have_names(
    write_grid: Write, tiny_model: Path, openlm: Path, skip: str, fused: str, fits: bool
) -> None:
    pruning = f"pruning: {{skip: ['{skip}'], fused: {fused}}}"
    path = write_grid({"keep: none": pruning, str(tiny_model): str(openlm)})
    if fits:
        assert accepted(path)
    else:
        assert "attention.in_proj" in refusal(path)


def test_experts_that_the_files_name_otherwise_are_left_to_the_run(
    write_grid: Write, tiny_model: Path, openlm: Path
) -> None:
    weights = {f"model.layers.0.moe.experts.{i}.w1.weight": torch.zeros(8, 32) for i in range(2)}
    save_file(weights, openlm / "model.safetensors")
    skip = "pruning: {skip: ['mlp.experts.*']}"
    assert accepted(write_grid({"keep: none": skip, str(tiny_model): str(openlm)}))
