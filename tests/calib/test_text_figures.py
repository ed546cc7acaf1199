"""Perplexity, repetition and language of a text."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from calib import text_figures
from calib.text_figures import language, perplexities, repetition
from prune.model.load import load_model


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> PreTrainedModel:
    return load_model(tiny_model, "float32")


@pytest.mark.parametrize("most", [1, 2**26])
def test_perplexities_are_those_of_a_plain_computation(
    model: PreTrainedModel, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_figures, "MOST_SCORES", most)
    ids = torch.arange(2, 60) * 5 % 300
    rows = [ids[:n].tolist() for n in (7, 58, 1, 2, 58)]
    exact = copy.deepcopy(model).double()
    for row, found in zip(rows, perplexities(model, rows), strict=True):
        if len(row) == 1:
            assert found == math.inf
            continue
        with torch.no_grad():
            chances = exact(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
        mean = chances[:-1].gather(1, torch.tensor(row)[1:, None]).mean()
        assert found == pytest.approx(math.exp(-float(mean)), rel=1e-5)


def test_repetition_counts_grams_that_came_before() -> None:
    assert repetition([1, 2, 3]) == 0
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([7] * 13) == 0.9
    assert repetition([1, 2, 3, 4] * 2) == pytest.approx(1 / 5)


def test_language_is_guessed() -> None:
    assert language("The farmer walks across the green field in the morning.") == "en"
    assert language("Der Bauer geht am Morgen mit seinem Hund über die grüne Wiese.") == "de"
    assert language("12 + 30 = 42") is None
