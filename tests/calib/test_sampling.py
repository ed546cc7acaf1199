"""Tokens are sampled as transformers' processors would have it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from calib import sampling
from calib.sampling import Sampler, uniform_numbers
from calib.spec import GenerateSpec

CPU = torch.device("cpu")


def spec(**more: Any) -> GenerateSpec:
    return GenerateSpec.model_validate({"from": "farms", **more})


def transformers_steps(settings: GenerateSpec, temperature: float) -> LogitsProcessorList:
    steps: list[Any] = [
        RepetitionPenaltyLogitsProcessor(settings.repetition_penalty),
        TemperatureLogitsWarper(temperature),
    ]
    steps += [TopKLogitsWarper(settings.top_k)] if settings.top_k else []
    return LogitsProcessorList([*steps, TopPLogitsWarper(settings.top_p)])


def plainly(chances: Tensor, uniform: np.ndarray) -> list[int]:
    """The tokens at which the distribution functions pass the uniform numbers."""
    cumulative = chances.double().cumsum(-1).numpy()
    return [int(np.argmax(c > u * c[-1])) for c, u in zip(cumulative, uniform, strict=True)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"top_k": 5},
        {"top_k": 0},
        {"top_k": 1000},
        {"top_p": 0.3},
        {"top_p": 1.0},
        {"temperature": 2.0, "repetition_penalty": 1.0},
        {"temperature": {"start": 3.0, "end": 0.5, "tokens": 2}},
    ],
    ids=str,
)
def test_steps_choose_what_transformers_leaves(changes: dict[str, Any]) -> None:
    settings, rows, steps = spec(**changes), 64, 4
    torch.manual_seed(0)
    starts = torch.randint(0, 200, (rows, 7))
    uniform = uniform_numbers(3, range(rows), steps)
    sampler = Sampler(settings, rows, 7, steps, None, CPU)
    sampler.start(starts, uniform)
    ids = starts
    for position, temperature in enumerate(settings.temperatures(steps)):
        logits = 3 * torch.randn(rows, 200)
        left = transformers_steps(settings, temperature)(ids, logits).softmax(-1)
        wanted = plainly(left, uniform[position])
        sampler.step(logits)
        assert sampler.tokens.tolist() == wanted
        ids = torch.cat([ids, torch.tensor(wanted)[:, None]], 1)
    assert torch.equal(sampler.history, ids)
    assert not bool(sampler.overflow)


def test_samples_have_the_chances_of_their_scores() -> None:
    chances, rows = torch.tensor([0.5, 0.0, 0.2, 0.3]), 20_000
    settings = spec(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
    sampler = Sampler(settings, rows, 1, 1, None, CPU)
    uniform = np.random.default_rng(0).random((1, rows))
    sampler.start(torch.ones(rows, 1, dtype=torch.int64), uniform)
    sampler.step(chances.log().expand(rows, 4))
    counts = torch.bincount(sampler.tokens, minlength=4) / rows
    assert counts[1] == 0
    torch.testing.assert_close(counts, chances, atol=0.012, rtol=0)


def test_tokens_tied_for_the_last_place_all_stay() -> None:
    settings = spec(temperature=1.0, top_k=2, top_p=1.0, repetition_penalty=1.0)
    scores, rows = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0]), 1000
    sampler = Sampler(settings, rows, 1, 1, None, CPU)
    sampler.start(torch.zeros(rows, 1, dtype=torch.int64), uniform_numbers(0, range(rows), 1))
    sampler.step(scores.expand(rows, 6))
    assert set(sampler.tokens.tolist()) == {1, 2, 3, 4}


def test_more_ties_than_there_are_columns_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SPARE", 1)
    settings = spec(top_k=2, top_p=1.0, repetition_penalty=1.0)
    sampler = Sampler(settings, 1, 1, 1, None, CPU)
    for columns in (3, 12):
        assert sampler.columns == columns
        sampler.start(torch.zeros(1, 1, dtype=torch.int64), uniform_numbers(0, [0], 1))
        sampler.step(torch.zeros(1, 40))
        assert sampler.widen()
    sampler.start(torch.zeros(1, 1, dtype=torch.int64), uniform_numbers(0, [0], 1))
    sampler.step(torch.zeros(1, 40))
    assert not sampler.widen()  # the whole vocabulary


def test_numbers_depend_on_seed_text_and_position_alone() -> None:
    whole = uniform_numbers(7, range(6), 10)
    assert np.array_equal(uniform_numbers(7, [4, 2], 5), whole[:5, [4, 2]])
    assert not (whole == uniform_numbers(8, range(6), 10)).any()


def test_a_temperature_cools_in_equal_steps() -> None:
    cooling = {"start": 2.0, "end": 1.0, "tokens": 4}
    assert spec(temperature=cooling).temperatures(6) == [2.0, 1.75, 1.5, 1.25, 1.0, 1.0]
    assert spec(temperature=0.6).temperatures(2) == [0.6, 0.6]
