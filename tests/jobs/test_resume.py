"""A cell that is killed while it prunes goes on from its last finished block, bit for bit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from jobs import launch
from jobs.run import RunFolder

ROOT = Path(__file__).parents[2]
BLOCKS = 4

# the cell as it is, with a checkpoint after every block, killed once block `sys.argv[1]` is stored
CELL = """\
import os, signal, sys
import prune.checkpoint as checkpoint
from jobs.cell import main

last = int(sys.argv.pop(1))
checkpoint.LEAST_SECONDS = 0.0
add = checkpoint.Checkpoint.add

def add_and_die(self, index, *rest):
    add(self, index, *rest)
    self._writing.result()
    if index == last:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.Checkpoint.add = add_and_die
sys.exit(main())
"""


@pytest.fixture
def deeper_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model's tokenizer, and a random Llama of four blocks."""
    folder = tmp_path / "deeper"
    folder.mkdir()
    for path in tiny_model.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    config = AutoModelForCausalLM.from_pretrained(tiny_model).config
    plain = {**config.to_diff_dict(), "num_hidden_layers": BLOCKS, "initializer_range": 0.2}
    LlamaForCausalLM(LlamaConfig(**plain)).save_pretrained(folder)
    return folder


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("pruner", ["wanda", "sparsegpt"])
def test_killed_three_times_the_kept_model_is_the_same(
    write_grid: Callable[..., Path],
    tiny_model: Path,
    deeper_model: Path,
    tmp_path: Path,
    pruner: str,
) -> None:
    grid = write_grid(
        {
            str(tiny_model): str(deeper_model),
            "pruner: [magnitude, wanda]": f"pruner: [{pruner}]",
            "dataset: [farm, city]": "dataset: farm",
            "seed: [0, 1]": "seed: 0",
            "keep: none": "keep: models",
        }
    )
    assert launch.main([str(grid), "--out", str(tmp_path / "whole")]) == 0
    whole = RunFolder(tmp_path / "whole" / "tiny")
    (key,) = (p.name for p in (whole.path / "models").iterdir())

    run = RunFolder(tmp_path / "killed" / "tiny")
    run.write_plan(whole.read_plan())
    for last in (0, 2, 1, BLOCKS + 9):  # the third finds more than it would have stored
        command = [sys.executable, "-c", CELL, str(last), str(run.path), key]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        stored = len(list(run.checkpoints(key).glob("*.safetensors")))
        if last == 1:
            assert ended.returncode == 0, ended.stderr
            break
        assert ended.returncode == -9, ended.stderr
        assert stored == last + 1
    assert "went on after block 3 of 4" in ended.stdout
    assert not run.checkpoints(key).exists()
    assert digest(run.model(key)) == digest(whole.model(key))
    records = [json.loads(r.record(key).read_text()) for r in (whole, run)]
    for name in ("block_errors", "block_heldout_errors", "achieved_sparsity", "model_sparsity"):
        assert records[0][name] == records[1][name], name
