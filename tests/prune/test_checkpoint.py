"""A pruning that was stopped ends as if it had not been."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import build, windows

from prune import checkpoint
from prune.block_loop import PruningOptions
from prune.loop import prune_model
from prune.pattern import Pattern
from prune.recipe import parse
from prune.report import PruneReport

HALF = Fraction(1, 2)
RECONSTRUCT = {"name": "wanda", "refine": {"name": "reconstruct", "epochs": 1}}


class StoppedError(Exception):
    pass


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LEAST_SECONDS", 0.0)


def prune(
    folder: Path | None,
    recipe: Any = "wanda",
    stop: int = 99,
    propagate: Any = "pruned",
    error: type[BaseException] = StoppedError,
) -> tuple[Any, PruneReport]:
    """Prune a model of three blocks; stop before block `stop`."""

    def progress(block: int, _: int) -> None:
        if block == stop:
            raise error

    model = build("llama-gqa")
    report = prune_model(
        model,
        parse(recipe),
        HALF,
        Pattern(),
        windows(5, 13),
        options=PruningOptions(propagate=propagate),
        progress=progress,
        heldout_ids=windows(3, 13, seed=4),
        checkpoints=folder,
    )
    return model, report


def stop_before(folder: Path, block: int, *arguments: Any) -> None:
    """Stop there, with at least one block stored by a thread of its own."""
    with pytest.raises(StoppedError):
        prune(folder, arguments[0], block, *arguments[1:])
    deadline = time.monotonic() + 10
    while not list(folder.glob("*.safetensors")):
        assert time.monotonic() < deadline, "nothing is stored"
        time.sleep(0.01)


def tensors(model: Any) -> Iterator[torch.Tensor]:
    return iter(model.state_dict().values())


@pytest.mark.parametrize("propagate", ["pruned", "dense"])
@pytest.mark.parametrize(
    "recipe", ["wanda", "sparsegpt", "owl", "random", RECONSTRUCT], ids=lambda x: str(x)[:12]
)
def test_stopped_twice_it_ends_the_same(tmp_path: Path, recipe: Any, propagate: str) -> None:
    whole, expected = prune(None, recipe, propagate=propagate)
    for block in (1, 2):
        stop_before(tmp_path, block, recipe, propagate)
    model, report = prune(tmp_path, recipe, propagate=propagate)
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole), tensors(model), strict=True))
    assert report == expected


def test_what_is_all_there_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, expected = prune(tmp_path)
    monkeypatch.setattr("prune.block_loop.Stream", None)  # nothing goes through the blocks
    model, report = prune(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole), tensors(model), strict=True))
    assert report.linears == expected.linears
    assert report.error_tokens == expected.error_tokens > 0
    assert report.block_error_tokens == expected.block_error_tokens > 0


@pytest.mark.parametrize("damage", ["cut", "garbage", "partial", "elsewhere"])
def test_what_cannot_be_used_is_done_again(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, expected = prune(None)
    stop_before(tmp_path, 2, "wanda")
    path = min(tmp_path.glob("*.safetensors"))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "garbage":
        path.write_bytes(b"\xff" * 100)
    elif damage == "partial":
        path.rename(path.with_suffix(".1.partial"))
    else:
        monkeypatch.setattr(checkpoint, "_setting", lambda: {"torch": "0.1", "gpu": "another"})
    assert checkpoint.Checkpoint(tmp_path, masks_alone=True).done == 0
    model, report = prune(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole), tensors(model), strict=True))
    assert report == expected
    assert list(tmp_path.glob("*.partial")) == []


def test_masks_take_one_bit_a_weight(tmp_path: Path) -> None:
    stop_before(tmp_path / "masks", 1, "wanda")
    stop_before(tmp_path / "weights", 1, "sparsegpt")
    masks, weights = (
        sum(x.nbytes for x in checkpoint.header(path)[1].values())
        for path in sorted(tmp_path.glob("*/*.safetensors"))
    )
    assert masks * 32 == weights


def test_short_work_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LEAST_SECONDS", 60.0)
    prune(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_is_asked_to_stop_stores_all_that_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "LEAST_SECONDS", 60.0)
    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path, stop=2, error=KeyboardInterrupt)
    assert checkpoint.Checkpoint(tmp_path, masks_alone=True).done == 2


def test_minus_zero_is_no_pruned_weight() -> None:
    weight = torch.tensor([0.0, -0.0, 1.0])
    assert checkpoint._is_zero(weight).tolist() == [True, False, False]
