"""Losses and Min-K%++ equal their formulas, written out token by token in float64."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from calib import membership


@pytest.mark.parametrize("at_once", [1, 2**26])
def test_figures_are_their_formulas(
    at_once: int, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "LOGITS_AT_ONCE", at_once)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    windows = torch.randint(2, 300, (3, 21), generator=torch.Generator().manual_seed(0)).tolist()
    found = membership.window_figures(model, windows)
    for window, (loss, score) in zip(windows, found, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([window])).logits[0].double()
        losses, scores = [], []
        for position, token in enumerate(window[1:]):
            p = logits[position].softmax(0)
            log_p = p.log()
            mean = float((p * log_p).sum())
            deviation = math.sqrt(float((p * (log_p - mean) ** 2).sum()))
            losses.append(-float(log_p[token]))
            scores.append((float(log_p[token]) - mean) / deviation)
        assert loss == pytest.approx(sum(losses) / 20, rel=1e-5)
        assert score == pytest.approx(sum(sorted(scores)[:10]) / 10, rel=1e-3)


def test_likely_text_scores_higher(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    start = torch.randint(2, 300, (4, 2), generator=torch.Generator().manual_seed(1))
    likely = model.generate(start, max_new_tokens=30, do_sample=False, pad_token_id=1)
    chance = torch.randint(2, 300, likely.shape, generator=torch.Generator().manual_seed(2))
    scores = [
        membership.min_k([s for _, s in membership.window_figures(model, ids.tolist())]).value
        for ids in (likely, chance)
    ]
    assert scores[0] > scores[1]


def test_perplexity_and_its_error() -> None:
    value = membership.perplexity([1.0, 2.0, 3.0])
    assert value.value == pytest.approx(math.exp(2))
    assert value.stderr == pytest.approx(math.exp(2) / math.sqrt(3))
    assert math.isnan(membership.perplexity([1.0]).stderr)
