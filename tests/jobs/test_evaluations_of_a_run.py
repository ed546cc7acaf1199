"""Evaluations as a run has them: local tasks, two models, shared baselines, no network, a kill."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs import cell, launch
from jobs.plan.planning import plan_grid
from jobs.run import RunFolder
from tests.conftest import sentences

ROOT = Path(__file__).parents[2]

TASK = """\
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
custom_dataset: !function utils.read
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""
UTILS = """\
from pathlib import Path
from datasets import load_dataset

def read(**_):
    file = Path(__file__).parent / "questions.jsonl"
    return load_dataset("json", None, None, {"test": str(file)})
"""
"""What it reads, it reads by a name of its own."""

KILLED = """\
import os, signal, sys
import jobs.store.records as records
from jobs.cell import main

whole = records._publish

def publish(folder, run, key, evaluation, notes):
    whole(folder, run, key, evaluation, notes)
    if evaluation.name == "first":
        os.kill(os.getpid(), signal.SIGKILL)

records._publish = publish
sys.exit(main())
"""
"""A cell as it is, killed once its first task is recorded."""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two local tasks whose data is read by code of their own."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "utils.py").write_text(UTILS, "utf-8")
    for name in ("first", "second"):
        (folder / f"{name}.yaml").write_text(TASK.replace("NAME", name), "utf-8")
    rows = []
    for i, text in enumerate(sentences("farm", 12, 5)):
        words = text.split()
        choices = [" " + " ".join(words[k : k + 2]) for k in (6, 9, 12)]
        rows.append({"question": " ".join(words[:5]), "choices": choices, "answer": i % 3})
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "questions.jsonl").write_text("".join(lines), "utf-8")
    return folder


@pytest.fixture
def other_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with other weights."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    changed = {n: w.flip(0).contiguous() if w.dim() == 2 else w for n, w in weights.items()}
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    return folder


def expected(model: Path, folder: Path) -> dict[tuple[int, int], float]:
    """The log-likelihood of every choice, by lm-eval's own HF model."""
    lm = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(model),
        tokenizer=AutoTokenizer.from_pretrained(model),
        batch_size=4,
    )
    lines = (folder / "questions.jsonl").read_text("utf-8").splitlines()[:6]  # the limit
    pairs = {
        (d, n): (row["question"], " " + choice)
        for d, row in enumerate(map(json.loads, lines))
        for n, choice in enumerate(row["choices"])
    }
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs.values()]
    found = lm.loglikelihood(requests, disable_tqdm=True)
    return {key: value for key, (value, _) in zip(pairs, found, strict=True)}


def query(run: RunFolder, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(run.database), read_only=True) as connection:
        return connection.execute(sql).fetchall()


LIKELIHOODS = """
    SELECT c.model, o.doc_id, TRY_CAST(o.metric[15:] AS INT), o.value FROM outcomes o
    JOIN cells c USING (cell) JOIN evaluations e USING (cell, evaluation)
    WHERE c.pruner = 'dense' AND e.name = 'first' AND o.metric LIKE 'loglikelihood_%'
"""


@pytest.mark.usefixtures("here")
def test_two_models_in_one_process_and_one_cache_do_not_mix(
    write_grid: Callable[..., Path],
    tiny_model: Path,
    other_model: Path,
    tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    changes = {
        f"model: {tiny_model}": f"model: [{tiny_model}, {other_model}]",
        "dataset: [farm, city]": "dataset: farm",
        "perplexity: [farm]": f"perplexity: [farm]\n  tasks: [{tasks}/first.yaml]",
        "seed: [0, 1]": "seed: 0",
    }
    run = RunFolder(tmp_path / "tiny")
    grid = write_grid(changes)
    assert launch.main([str(grid), "--out", str(tmp_path)]) == 0
    found = {row[:3]: row[3] for row in query(run, LIKELIHOODS)}
    wanted = {
        (str(m), *key): value
        for m in (tiny_model, other_model)
        for key, value in expected(m, tasks).items()
    }
    assert found == pytest.approx(wanted, rel=1e-4)

    baselines = {p: p.stat().st_mtime_ns for p in (run.artefacts / "baselines").glob("*/[!.]*")}
    assert len(baselines) == 8  # two models, a task and a text, two files each
    again = write_grid(changes | {"name: tiny": "name: again", "sparsity: 0.5": "sparsity: 0.6"})
    assert launch.main([str(again), "--out", str(tmp_path)]) == 0
    assert {
        p: p.stat().st_mtime_ns for p in (run.artefacts / "baselines").glob("*/[!.]*")
    } == baselines


def test_a_killed_cell_keeps_the_tasks_it_has_done(
    write_grid: Callable[..., Path], tasks: Path, tmp_path: Path
) -> None:
    listed = f"[{tasks}/first.yaml, {tasks}/second.yaml]"
    grid = write_grid({"perplexity: [farm]": f"perplexity: [farm]\n  tasks: {listed}"})
    plan = plan_grid(grid, [], tmp_path).plan
    (key,) = (k for k, c in plan.cells.items() if c["recipe"]["name"] == "dense")
    run = RunFolder(tmp_path / "tiny")
    run.write_plan(plan)
    command = [sys.executable, "-c", KILLED, str(run.path), key]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    (first,) = run.path.glob(f"evaluations/{key}/*.json")
    assert json.loads(first.read_text("utf-8"))["name"] == "first"
    stamp = first.stat().st_mtime_ns
    assert cell.main([str(run.path), key]) == 0
    assert first.stat().st_mtime_ns == stamp
    assert run.is_done(plan, key)


@pytest.mark.usefixtures("here")
def test_a_dense_figure_that_is_off_is_told_by_the_launcher(
    write_grid: Callable[..., Path],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "/".join(tiny_model.parts[-2:])
    known = {"model": name, "text": "farm", "seqlen": 32, "perplexity": 5.0}
    monkeypatch.setattr("jobs.evaluate.gate._table", lambda: {"tolerance": 0.02, "values": [known]})
    changes = {"pruner: [magnitude, wanda]": "pruner: magnitude", "limit: 6": "limit: null"}
    assert launch.main([str(write_grid(changes)), "--out", str(tmp_path)]) == 0
    assert f"warning: dense {name} has perplexity" in capsys.readouterr().out
    changes |= {"name: tiny": "name: strict", "limit: 6": "limit: null\n  gate: refuse"}
    assert launch.main([str(write_grid(changes)), "--out", str(tmp_path)]) == 1
    assert f"1 failed: ReferenceValueError: dense {name} has" in capsys.readouterr().out
