"""Requests as lm-eval makes them from text, through the fast scorer and through its own model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from jobs.evaluate.scorer import Scorer

QUESTION = "The farmer walks across the"
PAIRS = [
    (QUESTION, " green field"),
    (QUESTION, " muddy river in the morning"),
    (QUESTION, " a"),
    (QUESTION, " green field"),
    ("", "The old dog"),
    ("", "every"),
    (" ".join([QUESTION] * 30), " stone wall"),
    (" ".join([QUESTION] * 30), " crowded station"),
    ("Who sleeps?", " Every hen"),
]


def instances(pairs: list[tuple[str, str]]) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]


def opt() -> PreTrainedModel:
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=320,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
        init_std=0.3,
    )
    return OPTForCausalLM(config).eval()


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_texts_score_as_with_lm_eval(tiny_model: Path, kind: str) -> None:
    options: dict[str, Any] = {
        "pretrained": AutoModelForCausalLM.from_pretrained(tiny_model)
        if kind == "llama"
        else opt(),
        "tokenizer": AutoTokenizer.from_pretrained(tiny_model),
        "max_length": 100,
        "batch_size": 1,
    }
    found = Scorer(**options).loglikelihood(instances(PAIRS))
    wanted = HFLM(**options).loglikelihood(instances(PAIRS), disable_tqdm=True)
    assert [x[0] for x in found] == pytest.approx([x[0] for x in wanted], rel=1e-4)
    assert [x[1] for x in found] == [x[1] for x in wanted]
    assert found[0][0] == pytest.approx(found[3][0], rel=1e-6)


def test_nan_is_no_score(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.model.norm.weight.data[0] = float("nan")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    scorer = Scorer(pretrained=model, tokenizer=tokenizer, batch_size=1)
    with pytest.raises(ValueError, match="NaN"):
        scorer.loglikelihood(instances(PAIRS))


def test_a_response_cache_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    scorer = Scorer(pretrained=model, tokenizer=tokenizer, batch_size=1)
    with pytest.raises(ValueError, match="leave out use_cache"):
        CachingLM(scorer, str(tmp_path / "responses.db"))
