"""Prefetching against a stand-in of the hub: whole, broken, gated, pickled, resumed, pinned."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
from safetensors.torch import load_file

from calib.pool import Pool
from jobs import launch, prefetch
from jobs.plan.planning import plan_grid
from tests.conftest import sentences
from tests.hub_standin import StandIn

ROOT = Path(__file__).parents[2]

GRID = """\
name: fetched
model: {model}
reference: farm
datasets:
  farm: {{path: owner/farm, shards: {shards}}}
cells: {{dataset: farm, pruner: wanda, sparsity: 0.5, size: 4}}
calibration: {{seqlen: 32}}
similarity: {{tokens: 2000, num_perm: 128}}
evaluate: {{perplexity: [farm], tasks: {tasks}, limit: 4}}
dtype: float32
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A hub with no repository yet, which the hub's library then asks; and an empty hub cache."""
    with StandIn() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        for name, folder in (("HF_HOME", "hf"), ("HF_HUB_CACHE", "hf/hub")):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(tmp_path / folder))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("jobs.mirror.fetching.time.sleep", lambda seconds: None)
        yield hub


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def shards(count: int) -> dict[str, bytes]:
    """Data files of a dataset, twenty texts each."""
    return {
        f"data/train-{i:05}-of-{count:05}.jsonl": "".join(
            json.dumps({"text": text}) + "\n" for text in sentences("farm", 20, i)
        ).encode()
        for i in range(count)
    }


@pytest.fixture
def stocked(hub: StandIn, tiny_model: Path) -> StandIn:
    """The hub with a model and a dataset of three files."""
    hub.add("model", "owner/tiny", contents(tiny_model) | {"onnx/model.safetensors": b"other"})
    hub.add("dataset", "owner/farm", shards(3) | {"README.md": b"# The farm\n"})
    return hub


@pytest.fixture
def grid(tmp_path: Path) -> Callable[..., Path]:
    def write(model: str = "owner/tiny", shards: int = 2, tasks: str = "[]") -> Path:
        path = tmp_path / "grid.yaml"
        path.write_text(GRID.format(model=model, shards=shards, tasks=tasks), "utf-8")
        return path

    return write


def fetch(grid: Path) -> int:
    mirror = grid.parent / "mirror"
    return prefetch.main([str(grid), "--mirror", str(mirror), "--out", str(grid.parent / "runs")])


def manifest(grid: Path) -> dict[str, Any]:
    return json.loads((grid.parent / "mirror" / "manifest.json").read_text())["repositories"]


def test_what_a_grid_needs_is_fetched_once(stocked: StandIn, grid: Callable[..., Path]) -> None:
    path = grid()
    assert fetch(path) == 0
    fetched = stocked.fetched()
    assert len(fetched) == len(set(fetched))
    assert "onnx/model.safetensors" not in fetched
    assert [n for n in fetched if n.endswith(".jsonl")] == sorted(shards(3))[:2]
    entry = manifest(path)["dataset owner/farm"]
    assert entry["commit"] == stocked.repos["dataset", "owner/farm"].branches["main"]
    assert len(entry["listing"]) == 4
    for name, file in entry["files"].items():
        content = (path.parent / "mirror/owner/farm" / name).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    stocked.requests.clear()
    assert fetch(path) == 0
    assert stocked.requests == []  # not even asked: it works where the network is gone by then


def test_datasets_that_others_are_made_of_are_fetched(
    stocked: StandIn, grid: Callable[..., Path]
) -> None:
    names = ("part", "other", "begins", "chosen", "reference", "text")
    for name in names:
        stocked.add("dataset", f"owner/{name}", shards(1))
    own = "".join(f"  {name}: {{path: owner/{name}}}\n" for name in names)
    made = (
        "  mixed: {mixture: {part: 0.5, other: 0.5}}\n"
        "  written: {generate: {from: begins, texts: 8}}\n"
        "  near: {select: {from: chosen, by: zipcal, documents: 8}}\n"
    )
    path = grid()
    text = path.read_text().replace("datasets:\n", f"datasets:\n{own}{made}")
    text = text.replace("dataset: farm,", "dataset: [mixed, written, near],")
    text = text.replace("reference: farm", "reference: reference")
    path.write_text(text.replace("perplexity: [farm]", "perplexity: [text]"))
    assert fetch(path) == 0
    kept = {name for name in manifest(path) if name.startswith("dataset ")}
    assert kept == {f"dataset owner/{name}" for name in names}


@pytest.mark.usefixtures("here")
def test_a_grid_runs_from_the_mirror_without_a_network(
    stocked: StandIn,
    grid: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = grid()
    assert fetch(path) == 0

    def refuse(*_: object) -> None:
        raise OSError("there is no network here")

    monkeypatch.setattr("socket.socket.connect", refuse)
    options = ["--out", str(tmp_path / "runs"), "--set", f"mirror={tmp_path / 'mirror'}"]
    assert launch.main([str(path), *options]) == 0
    with duckdb.connect(str(tmp_path / "runs/fetched/results.duckdb"), read_only=True) as database:
        assert database.sql("SELECT status FROM results").fetchall() == [("done",)] * 2


def test_a_model_is_the_same_from_a_folder_and_a_mirror(
    stocked: StandIn, grid: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    path = grid()
    assert fetch(path) == 0
    mirror = f"mirror={tmp_path / 'mirror'}"
    keys = [
        set(plan_grid(grid(model=model), [mirror], tmp_path / "runs").cells)
        for model in ("owner/tiny", str(tiny_model))
    ]
    assert keys[0] == keys[1]


def test_a_broken_transfer_goes_on_where_it_broke(
    stocked: StandIn, grid: Callable[..., Path], tiny_model: Path
) -> None:
    stocked.breaks["model.safetensors"] = [700, 900]
    path = grid()
    assert fetch(path) == 0
    fetched = path.parent / "mirror/owner/tiny/model.safetensors"
    assert fetched.read_bytes() == (tiny_model / "model.safetensors").read_bytes()


def test_a_transfer_that_stays_broken_is_said_and_goes_on_next_time(
    stocked: StandIn, grid: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stocked.breaks["model.safetensors"] = [700] + [0] * 100
    path = grid()
    assert fetch(path) == 1
    assert "owner/tiny/model.safetensors broke off at 700 of" in capsys.readouterr().err
    assert not (path.parent / "mirror/owner/tiny/model.safetensors").exists()
    (partial,) = (path.parent / "mirror/owner/tiny").glob(".*.partial")
    assert partial.stat().st_size == 700
    stocked.breaks.clear()
    stocked.requests.clear()
    assert fetch(path) == 0
    assert ("model.safetensors", 700) in stocked.ranges
    assert "config.json" not in stocked.fetched()


def test_a_file_that_arrives_damaged_is_refused(
    stocked: StandIn, grid: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stocked.damaged.add("model.safetensors")
    path = grid()
    assert fetch(path) == 1
    assert "owner/tiny/model.safetensors arrived damaged" in capsys.readouterr().err
    stocked.damaged.clear()
    assert fetch(path) == 0


def test_a_gated_model_needs_a_login_which_stays_here(
    stocked: StandIn,
    grid: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stocked.repos["model", "owner/tiny"].gated = True
    path = grid()
    assert fetch(path) == 2
    error = capsys.readouterr().err
    assert "model owner/tiny: it is gated: accept its terms" in error
    assert "hf auth login" in error
    assert "model.safetensors" not in stocked.fetched()
    monkeypatch.setenv("HF_TOKEN", stocked.token)
    assert fetch(path) == 0
    written = [p for p in path.parent.rglob("*") if p.is_file()]
    assert not any(stocked.token.encode() in p.read_bytes() for p in written)


def test_everything_that_cannot_be_had_is_named_before_anything_is_fetched(
    hub: StandIn, grid: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("dataset", "owner/farm", {"notes.pdf": b"no data"})
    assert fetch(grid(model="owner/nothing")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "model owner/nothing: the hub has no such repository" in lines[0]
    assert "dataset owner/farm: owner/farm has no data files for" in lines[1]
    assert hub.fetched() == []


def test_a_revision_that_there_is_not(
    stocked: StandIn, grid: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(grid(model="owner/tiny@v9")) == 2
    assert "no such revision" in capsys.readouterr().err


def test_a_mirror_stays_at_the_commit_it_was_filled_from(
    stocked: StandIn, grid: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first = stocked.repos["dataset", "owner/farm"].branches["main"]
    assert fetch(grid()) == 0
    stocked.add("dataset", "owner/farm", dict.fromkeys(shards(3), b'{"text": "new"}\n'))
    assert fetch(grid(shards=3)) == 0
    entry = manifest(grid())["dataset owner/farm"]
    assert entry["commit"] == first
    assert len([n for n in entry["files"] if n.endswith(".jsonl")]) == 3
    stocked.add("model", "owner/tiny", {"config.json": b"{}"}, branch="v2")
    assert fetch(grid(model="owner/tiny@v2")) == 2
    assert "the mirror has it at main" in capsys.readouterr().err


class TestPickledWeights:
    def pickled(self, model: Path, parts: int, scratch: Path) -> dict[str, bytes]:
        """The files of a model with its weights pickled, whole or in parts."""
        weights = load_file(model / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]  # tied: one memory
        files = {k: v for k, v in contents(model).items() if not k.endswith(".safetensors")}
        names = ["pytorch_model.bin"]
        if parts > 1:
            names = [f"pytorch_model-{i + 1:05}-of-{parts:05}.bin" for i in range(parts)]
            shares = {key: names[i % parts] for i, key in enumerate(weights)}
            index = {"metadata": {}, "weight_map": shares}
            files["pytorch_model.bin.index.json"] = json.dumps(index).encode()
        for i, name in enumerate(names):
            part = {k: v for j, (k, v) in enumerate(weights.items()) if j % parts == i}
            torch.save(part, scratch / name)
            files[name] = (scratch / name).read_bytes()
        return files

    @pytest.mark.parametrize("parts", [1, 2])
    def test_they_are_converted(
        self, hub: StandIn, grid: Callable[..., Path], tiny_model: Path, tmp_path: Path, parts: int
    ) -> None:
        from transformers import AutoModelForCausalLM

        hub.add("model", "owner/old", self.pickled(tiny_model, parts, tmp_path))
        hub.add("dataset", "owner/farm", shards(3))
        path = grid(model="owner/old")
        assert fetch(path) == 0
        folder = tmp_path / "mirror/owner/old"
        assert not list(folder.rglob("*.bin"))
        found, made = (AutoModelForCausalLM.from_pretrained(f) for f in (tiny_model, folder))
        wanted = dict(found.named_parameters())
        wanted["lm_head.weight"] = wanted["model.embed_tokens.weight"]
        assert all(torch.equal(w, wanted[n]) for n, w in made.named_parameters())
        hub.requests.clear()
        assert fetch(path) == 0
        assert hub.fetched() == []

    def test_a_pickle_that_holds_more_is_not_run(
        self,
        hub: StandIn,
        grid: Callable[..., Path],
        tiny_model: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        class Trap:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "sprung"),)

        torch.save({"weight": Trap()}, tmp_path / "bad.bin")
        files = {k: v for k, v in contents(tiny_model).items() if not k.endswith(".safetensors")}
        hub.add(
            "model", "owner/bad", files | {"pytorch_model.bin": (tmp_path / "bad.bin").read_bytes()}
        )
        hub.add("dataset", "owner/farm", shards(3))
        assert fetch(grid(model="owner/bad")) == 2
        assert "pytorch_model.bin holds more than weights" in capsys.readouterr().err
        assert not (tmp_path / "sprung").exists()


class TestLaunchChecksTheManifest:
    def check(self, path: Path, capsys: pytest.CaptureFixture[str]) -> str:
        mirror = path.parent / "mirror"
        runs = path.parent / "runs"
        assert launch.main([str(path), "--out", str(runs), "--set", f"mirror={mirror}"]) == 2
        assert not (runs / "fetched").exists()
        return capsys.readouterr().err

    def test_a_changed_file(
        self, stocked: StandIn, grid: Callable[..., Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = grid()
        assert fetch(path) == 0
        weights = path.parent / "mirror/owner/tiny/model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        assert "model.safetensors: its content is not what was fetched" in self.check(path, capsys)

    def test_a_missing_shard(
        self, stocked: StandIn, grid: Callable[..., Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fetch(grid()) == 0
        error = self.check(grid(shards=3), capsys)
        assert "lacks data/train-00002-of-00003.jsonl" in error
        assert "jobs.prefetch" in error

    def test_a_task_that_was_not_prefetched(
        self, stocked: StandIn, grid: Callable[..., Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fetch(grid()) == 0
        assert "task sciq: its datasets are not in the mirror" in self.check(
            grid(tasks="[sciq]"), capsys
        )


def test_one_fetched_shard_does_not_satisfy_a_grid_that_wants_three(
    stocked: StandIn, grid: Callable[..., Path], tmp_path: Path
) -> None:
    """Without a mirror, where the hub cache has what another grid needed."""
    out = tmp_path / "runs"
    for wanted in (1, 3):
        planned = plan_grid(grid(shards=wanted), [], out)
        assert "dataset owner/farm" in planned.unresolved
        launch._prepare(planned, launch._parser().parse_args([str(grid())]), launch.Console())
        planned = plan_grid(grid(shards=wanted), [], out)
        assert planned.unresolved == []
        source = planned.plan.inputs.datasets["farm"].source
        assert source is not None
        assert len(source.files) == wanted
    stocked.requests.clear()
    assert plan_grid(grid(shards=2), [], out).unresolved == []
    assert stocked.requests == []


SCIQ = [
    {
        "question": f"What is {i}?",
        "support": f"It is thing {i}.",
        "correct_answer": f"thing {i}",
        **{f"distractor{j}": f"thing {i + j}" for j in (1, 2, 3)},
    }
    for i in range(6)
]


MINE = """\
task: mine
dataset_path: owner/quiz
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: [right, wrong]
doc_to_target: 0
"""


def unplugged() -> list[str]:
    """What runs a command without any network, where this system lets users do that."""
    command = ["unshare", "--map-root-user", "--net"]
    works = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if works else []


@pytest.mark.slow
def test_evaluation_sets_are_fetched_as_the_tasks_load_them(
    stocked: StandIn, grid: Callable[..., Path], tmp_path: Path
) -> None:
    """By the commands themselves, with HF_ENDPOINT; then cells score without a network."""
    rows = "".join(json.dumps(row) + "\n" for row in SCIQ).encode()
    splits = {f"data/{s}.jsonl": rows for s in ("train", "validation", "test")}
    stocked.add("dataset", "allenai/sciq", splits | {"README.md": b"# Sciq\n", "other.bin": b"1"})
    stocked.add("dataset", "owner/quiz", {"test.jsonl": rows})
    (tmp_path / "mine.yaml").write_text(MINE)
    path = grid(tasks="[{name: sciq, num_fewshot: 0}, mine.yaml]")
    environment = os.environ | {"HF_ENDPOINT": stocked.address, "HF_HOME": str(tmp_path / "home")}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"}
    mirror = tmp_path / "mirror"

    def run(prefix: list[str], module: str, *options: str, **more: str) -> None:
        command = [sys.executable, "-m", module, str(path), "--out", str(tmp_path / "runs")]
        everything = [*prefix, *command, *options]
        subprocess.run(everything, env=environment | more, check=True, timeout=180)

    run([], "jobs.prefetch", "--mirror", str(mirror))
    assert "other.bin" not in stocked.fetched()
    assert json.loads((mirror / "manifest.json").read_text())["tasks"] == {
        "sciq": ["allenai/sciq"],
        f"{tmp_path}/mine": ["owner/quiz"],
    }
    asked = len(stocked.requests)
    options = ("--cluster", "local", "--set", f"mirror={mirror}")
    run(unplugged(), "jobs.launch", *options, HF_ENDPOINT="http://127.0.0.1:9")
    assert len(stocked.requests) == asked
    with duckdb.connect(str(tmp_path / "runs/fetched/results.duckdb"), read_only=True) as database:
        assert database.sql("SELECT count(sciq), count(mine) FROM results").fetchall() == [(2, 2)]


# -- streaming


def plain_pool(out: Path) -> tuple[str, list[str]]:
    """Identity and ids of the only pool of an output folder."""
    (folder,) = (out / "artefacts" / "pools").iterdir()
    return folder.name, list(Pool.load(folder).ids)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("most", ["null", "25"])
def test_a_streamed_dataset_draws_what_the_downloaded_one_draws(
    stocked: StandIn, grid: Callable[..., Path], tmp_path: Path, most: str
) -> None:
    stocked.breaks = {"data/train-00001-of-00003.jsonl": [700]}
    keys = ("streaming: true, ", "")
    found = []
    for key in keys:
        path = grid(shards=3)
        text = path.read_text().replace("shards: 3", f"shards: 3, {key}max_rows: {most}")
        path.write_text(text)
        out = tmp_path / (key.strip(", ") or "downloaded").replace(": ", "-")
        stocked.requests.clear()
        assert launch.main([str(path), "--out", str(out), "--cluster", "local"]) == 0
        (drawn,) = (out / "fetched" / "calibration").iterdir()
        found.append((plain_pool(out), drawn.name, (drawn / "ids.safetensors").read_bytes()))
        cached = [*(tmp_path / "hf").rglob("*.jsonl")]
        assert bool(cached) is not bool(key)
        if key:
            wanted = 3 if most == "null" else 2
            assert len({n for n in stocked.fetched() if n.endswith(".jsonl")}) == wanted
            stocked.requests.clear()
            assert launch.main([str(path), "--out", str(out), "--cluster", "local"]) == 0
            assert stocked.requests == []  # the pool is kept: no network is needed any more
    assert found[0] == found[1]
    path.write_text(path.read_text().replace("shards: 3", "shards: 3, streaming: true"))
    assert fetch(path) == 0  # and from the mirror
    mirror = f"mirror={json.dumps(str(tmp_path / 'mirror'))}"
    out = tmp_path / "mirrored"
    assert launch.main([str(path), "--out", str(out), "--set", mirror, "--cluster", "local"]) == 0
    assert plain_pool(out) == found[0][0]


def test_a_stream_that_the_hub_refuses_is_told(
    stocked: StandIn, grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = grid()
    path.write_text(path.read_text().replace("shards: 2", "streaming: true, name: nothing"))
    assert launch.main([str(path), "--out", str(tmp_path / "runs"), "--cluster", "local"]) == 2
    assert "has no data files for configuration 'nothing'" in capsys.readouterr().err


def test_too_little_streamed_text_is_told_before_anything_runs(
    stocked: StandIn, grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = grid()
    text = path.read_text().replace("shards: 2", "shards: 1, streaming: true")
    path.write_text(text.replace("size: 4", "size: 400"))
    assert launch.main([str(path), "--out", str(tmp_path / "runs"), "--cluster", "local"]) == 2
    assert "and size 400 x seqlen 32 asks for 12,800" in capsys.readouterr().err


def test_streaming_is_for_the_hub(grid: Callable[..., Path], capsys: Any) -> None:
    path = grid()
    path.write_text(path.read_text().replace("path: owner/farm", "streaming: true, path: json"))
    assert launch.main([str(path), "--dry-run"]) == 2
    assert "streaming is for a `path` that is a hub id" in capsys.readouterr().err
