"""The fast scorer against lm-eval's own HF model, and perplexities against plain computations."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from jobs.evaluation import corpus_perplexity, row_perplexity
from jobs.scorer import Request, Scorer, window_losses
from jobs.stages import cut

VOCABULARY = 300


def model(kind: str) -> PreTrainedModel:
    torch.manual_seed(1)
    small = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    if kind == "llama":
        config = LlamaConfig(**small, **heads, initializer_range=0.3)
        return LlamaForCausalLM(config).eval()
    if kind == "sliding":
        config = MistralConfig(**small, **heads, sliding_window=6, initializer_range=0.3)
        return MistralForCausalLM(config).eval()
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3
    )
    return GPT2LMHeadModel(config).eval()


def requests() -> list[Request]:
    """Shared contexts with unequal continuations, single tokens, repeats, and one too long."""
    number = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [number.randrange(VOCABULARY) for _ in range(count)]

    contexts = [tokens(n) for n in (1, 9, 20, 40, 60)]
    found = [(("", ""), c, tokens(n)) for c in contexts for n in (1, 1, 3, 7)]
    many = [(("", ""), contexts[0], tokens(12)) for _ in range(30)]
    return [*found, *many, found[0], (("", ""), contexts[4], tokens(5))]


@pytest.mark.parametrize(("kind", "fast"), [("llama", True), ("gpt2", True), ("sliding", False)])
def test_loglikelihoods_equal_those_of_lm_eval(tiny_model: Path, kind: str, fast: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    options = {"pretrained": model(kind), "tokenizer": tokenizer, "max_length": 62}
    ours = Scorer(**options, batch_size=1)
    found = ours._loglikelihood_tokens(requests())
    wanted = HFLM(**options, batch_size=4)._loglikelihood_tokens(requests(), disable_tqdm=True)
    assert ours.fast is fast
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    for (value, _), (reference, _) in zip(found, wanted, strict=True):
        assert value == pytest.approx(reference, rel=1e-4)


def plain_loss(net: PreTrainedModel, window: list[int]) -> float:
    with torch.no_grad():
        logits = net.double()(input_ids=torch.tensor([window])).logits[0, :-1]
    net.float()
    return -float(logits.log_softmax(-1)[range(len(window) - 1), window[1:]].sum())


def test_perplexities_equal_plain_computations() -> None:
    net = model("llama")
    number = random.Random(2)
    windows = cut([number.randrange(VOCABULARY) for _ in range(75)], 16, None)
    assert [len(w) for w in windows] == [16, 16, 16, 16, 11]
    losses = [plain_loss(net, w) for w in windows]
    assert window_losses(net, windows) == pytest.approx(losses, rel=1e-5)
    corpus = {m.metric: m for m in corpus_perplexity(net, "t", windows, 500).metrics}
    tokens = sum(len(w) - 1 for w in windows)
    assert corpus["perplexity"].value == pytest.approx(math.exp(sum(losses) / tokens), rel=1e-5)
    assert corpus["bits_per_byte"].value == pytest.approx(sum(losses) / math.log(2) / 500, rel=1e-5)
    rows = {m.metric: m.value for m in row_perplexity(net, "t", windows).metrics}
    each = [math.exp(x / (len(w) - 1)) for x, w in zip(losses, windows, strict=True)]
    assert rows["perplexity"] == pytest.approx(sum(each) / len(each), rel=1e-5)
    assert rows["corpus_perplexity"] == pytest.approx(math.exp(sum(losses) / tokens), rel=1e-5)


def test_windows_of_one_token_and_the_limit() -> None:
    assert cut([1, 2, 3, 4, 5], 2, None) == [[1, 2], [3, 4]]
    assert cut(list(range(9)), 3, 2) == [[0, 1, 2], [3, 4, 5]]
