"""What tests of several packages share: a tiny model, small corpora, grids, a finished run."""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

TOPICS = {
    "farm": (
        ["the farmer", "a grey horse", "the old dog", "every hen", "the tired ox"],
        ["walks across", "sleeps beside", "looks over", "waits near", "drinks from"],
        ["the green field", "a wooden barn", "the muddy river", "the stone wall"],
    ),
    "city": (
        ["the driver", "a young clerk", "the night train", "every baker", "the tall guard"],
        ["hurries past", "stops before", "returns to", "rings at", "reads about"],
        ["the crowded station", "a narrow bridge", "the market square", "the glass tower"],
    ),
}
WHEN = ["in the morning", "after the rain", "before winter", "once a week", "without a sound"]

GRID = """\
name: tiny
model: {model}
reference: farm
datasets:
  farm: {{path: json, data_files: "{corpora}/farm.jsonl"}}
  city: {{path: json, data_files: "{corpora}/city.jsonl"}}
cells:
  dataset: [farm, city]
  pruner: [magnitude, wanda]
  sparsity: 0.5
  pattern: unstructured
  size: 4
  seed: [0, 1]
calibration: {{seqlen: 32}}
similarity: {{tokens: 2000, num_perm: 128}}
evaluate:
  perplexity: [farm]
  limit: 6
dtype: float32
keep: none
resources: {{cells_per_job: 9}}
"""
"""Six cells: dense, magnitude (shared by all), and Wanda for two datasets and two seeds."""


def sentences(topic: str, count: int, seed: int) -> list[str]:
    """English-like texts of a few sentences each."""
    who, does, where = TOPICS[topic]
    choose = random.Random(f"{topic} {seed}").choice
    return [
        " ".join(
            f"{choose(who)} {choose(does)} {choose(where)} {choose(WHEN)}.".capitalize()
            for _ in range(4)
        )
        for _ in range(count)
    ]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return path


def train_tokenizer(folder: Path) -> int:
    """A byte-level tokenizer in `folder`; its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([t for topic in TOPICS for t in sentences(topic, 50, 9)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    return len(fast)


@pytest.fixture(scope="session", autouse=True)
def _local() -> Iterator[None]:
    """Launches that name no cluster run here, also on a machine with Slurm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.launch.default_name", lambda: "local")
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama of two blocks with grouped queries, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny"
    vocabulary = train_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `farm.jsonl` and `city.jsonl`, sixty texts each."""
    folder = tmp_path_factory.mktemp("corpora")
    for topic in TOPICS:
        write_jsonl(folder / f"{topic}.jsonl", sentences(topic, 60, 0))
    return folder


@pytest.fixture(scope="session")
def grid_text(tiny_model: Path, corpora: Path) -> str:
    """A whole grid that is right: `GRID` with the tiny model and corpora."""
    return GRID.format(model=tiny_model, corpora=corpora)


@pytest.fixture
def write_grid(grid_text: str, tmp_path: Path) -> Callable[..., Path]:
    """Write the grid with some of its text replaced: `write_grid({old: new, ...})`."""

    def write(changes: dict[str, str] | None = None, name: str = "grid.yaml") -> Path:
        text = grid_text
        for old, new in (changes or {}).items():
            assert text.count(old) == 1, f"{old!r} is not there once"
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Launching sets signal handlers; put the old ones back."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class HereBackend:
    """A backend that runs a job in this process: no start-up time, and tests can patch it."""

    interval = 0.0
    stays = False
    note = ""
    slots = 1

    def __init__(self, *_: Any) -> None:
        self.waiting: list[Any] = []

    def prepare(self, say: Any) -> None:
        pass

    def describe(self) -> str:
        return "this process"

    def submit(self, jobs: Sequence[Any]) -> list[Any]:
        self.waiting += jobs
        return []

    def live(self) -> list[Any]:
        return self.waiting

    def poll(self) -> Iterator[Any]:
        from cluster.backend import Ended

        if self.waiting:
            job = self.waiting.pop(0)
            module = importlib.import_module(job.command[1])
            job.log.parent.mkdir(parents=True, exist_ok=True)
            job.log.touch()
            with pytest.MonkeyPatch.context() as patch:
                for name, value in job.env.items():
                    patch.setenv(name, value)
                code = module.main(list(job.command[2:]))
            yield Ended(job, code)

    def drop(self) -> None:
        self.waiting.clear()

    stop = drop

    def resume(self, anew: bool) -> None:
        pass

    def finish(self) -> None:
        pass

    def at_last(self, job: Any) -> None:
        pass

    def preview(self, jobs: Sequence[Any]) -> Iterator[str]:
        yield from ()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches in this test run their cells in this process."""
    monkeypatch.setattr("cluster.local.LocalBackend", HereBackend)


@pytest.fixture(scope="session")
def finished_run(grid_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the grid with kept models, by processes; tests must not change it."""
    from jobs import launch

    folder = tmp_path_factory.mktemp("finished")
    grid = folder / "grid.yaml"
    grid.write_text(grid_text.replace("keep: none", "keep: models"), "utf-8")
    assert launch.main([str(grid), "--out", str(folder / "runs")]) == 0
    return folder / "runs" / "tiny"
