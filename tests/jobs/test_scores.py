"""The fast scorer against lm-eval's own HF model, and perplexities against plain computations."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from jobs.evaluate.forward import CPU_TOKENS, Forward
from jobs.evaluate.loglikelihood import LogLikelihoods, window_losses
from jobs.evaluate.perplexity import corpus_perplexity, row_perplexity
from jobs.evaluate.rows import cut_request
from jobs.evaluate.scorer import Request, Scorer
from jobs.evaluate.texts import TextTokens
from prune.model.openlm import OpenLMForCausalLM
from prune.model.openlm_config import OpenLMConfig

VOCABULARY = 300


def model(kind: str) -> PreTrainedModel:
    torch.manual_seed(1)
    if kind == "openlm":
        shape = {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4}
        return OpenLMForCausalLM(OpenLMConfig(**shape, initializer_range=0.3)).eval()
    if kind in ("gpt2", "own_positions"):
        shape = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4}
        net = GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.3)).eval()
        if kind == "own_positions":
            net.base_model.register_forward_pre_hook(without_positions, with_kwargs=True)
        return net
    types = {"sliding": "mistral", "scaled": "cohere", "capped": "gemma3_text"}
    own: dict[str, dict[str, Any]] = {
        "sliding": {"sliding_window": 6},
        "gemma2": {"head_dim": 8},
        "capped": {"head_dim": 8, "final_logit_softcapping": 30.0},
        "lfm2": {"layer_types": ["conv", "full_attention"]},
        "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8},
        "llama4_text": {"moe_layers": [], "head_dim": 8},
    }
    config = AutoConfig.for_model(
        types.get(kind, kind),
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4 if kind == "gpt_neox" else 2,
        intermediate_size=48,
        initializer_range=0.3,
        **own.get(kind, {}),
    )
    return AutoModelForCausalLM.from_config(config).eval()


def without_positions(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    return args, {**kwargs, "position_ids": None}


def requests() -> list[Request]:
    """Shared contexts with unequal continuations, single tokens, repeats, and one too long."""
    number = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [number.randrange(VOCABULARY) for _ in range(count)]

    contexts = [tokens(n) for n in (1, 9, 20, 40, 60)]
    found = [(("", ""), c, tokens(n)) for c in contexts for n in (1, 1, 3, 7)]
    many = [(("", ""), contexts[0], tokens(12)) for _ in range(30)]
    return [*found, *many, found[0], (("", ""), contexts[4], tokens(5))]


@pytest.mark.parametrize(
    ("kind", "fallback"),
    [
        ("llama", None),
        ("gpt2", None),
        ("gpt_neox", None),
        ("openlm", None),
        ("sliding", "attention sees 6 tokens, and the longest request has 62"),
        ("scaled", "logits are more than the output projection"),
        ("nanochat", "logits are more than the output projection"),
        ("capped", "logits are more than the output projection"),
        ("lfm2", "tokens see others outside attention"),
        ("falcon_h1", "tokens see others outside attention"),
        ("own_positions", "hidden states of rows and of separate sequences differ by"),
        ("llama4_text", "rows fail: RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        ("gemma2", "attention is eager, which does not take rows"),
    ],
)
def test_loglikelihoods_equal_those_of_lm_eval(
    tiny_model: Path, kind: str, fallback: str | None
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    options = {"pretrained": model(kind), "tokenizer": tokenizer, "max_length": 62}
    ours = Scorer(**options, batch_size=1)
    found = ours._loglikelihood_tokens(requests())
    wanted = HFLM(**options, batch_size=4)._loglikelihood_tokens(requests(), disable_tqdm=True)
    assert ours.likelihoods.notes["shared_context"] is (fallback is None)
    assert str(ours.likelihoods.notes["fallback"]).startswith(str(fallback))
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    for (value, _), (reference, _) in zip(found, wanted, strict=True):
        assert value == pytest.approx(reference, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kind", "fallback"),
    [
        *((kind, None) for kind in ("llama", "gpt2", "gpt_neox", "qwen2", "qwen3", "olmo2")),
        *((kind, "logits are more") for kind in ("nanochat", "capped")),
        *((kind, "tokens see others") for kind in ("lfm2", "falcon_h1")),
    ],
)
def test_short_types_hide_no_fault(kind: str, fallback: str | None, dtype: torch.dtype) -> None:
    net = model(kind).to(dtype)
    cut = [cut_request(context, wanted, 62) for _, context, wanted in requests()]
    scorer = LogLikelihoods(net)
    found = scorer(cut)
    assert str(scorer.notes["fallback"]).startswith(str(fallback))
    for request, (value, _) in zip(cut, found, strict=True):
        with torch.no_grad():
            logits = net(input_ids=torch.tensor([request.tokens.tolist()])).logits[0].float()
        own = logits.log_softmax(-1)[-len(request.wanted) :][
            range(len(request.wanted)), request.wanted
        ]
        assert value == pytest.approx(float(own.sum()), abs=0.1 * len(request.wanted))


def plain_loss(net: PreTrainedModel, window: list[int]) -> float:
    with torch.no_grad():
        logits = net.double()(input_ids=torch.tensor([window])).logits[0, :-1]
    net.float()
    return -float(logits.log_softmax(-1)[range(len(window) - 1), window[1:]].sum())


def tokens_of(count: int) -> TextTokens:
    number = random.Random(2)
    ids = np.asarray([number.randrange(VOCABULARY) for _ in range(count)], np.int32)
    return TextTokens(ids, np.full(count, 4, np.int32))


def test_perplexities_equal_plain_computations() -> None:
    net = model("llama")
    windows = tokens_of(75).windows(16, None, None)
    assert [len(w.ids) for w in windows] == [16, 16, 16, 16, 11]
    assert [w.bytes for w in windows] == [60, 60, 60, 60, 40]
    losses = [plain_loss(net, w.ids.tolist()) for w in windows]
    assert window_losses(net, [w.ids.tolist() for w in windows]) == pytest.approx(losses, rel=1e-5)
    scores = corpus_perplexity(net, "t", windows)
    corpus = {m.metric: m for m in scores.metrics}
    tokens = sum(len(w.ids) - 1 for w in windows)
    assert corpus["perplexity"].value == pytest.approx(math.exp(sum(losses) / tokens), rel=1e-5)
    assert corpus["perplexity"].n == scores.notes["tokens"] == tokens == 70
    bits = sum(losses) / math.log(2) / (4 * tokens)
    assert corpus["bits_per_byte"].value == pytest.approx(bits, rel=1e-5)
    scores = row_perplexity(net, "t", windows)
    rows = {m.metric: m.value for m in scores.metrics}
    each = [math.exp(x / (len(w.ids) - 1)) for x, w in zip(losses, windows, strict=True)]
    assert rows["perplexity"] == pytest.approx(sum(each) / len(each), rel=1e-5)
    assert rows["corpus_perplexity"] == pytest.approx(math.exp(sum(losses) / tokens), rel=1e-5)
    assert rows["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert all(m.stderr is not None for m in scores.metrics)


def test_windows_with_bos_have_no_more_tokens() -> None:
    windows = tokens_of(9).windows(4, 7, None)
    assert [len(w.ids) for w in windows] == [4, 4, 4]
    assert all(w.ids[0] == 7 for w in windows)
    assert [w.bytes for w in windows] == [12, 12, 12]
    assert [len(w.ids) for w in tokens_of(5).windows(2, None, None)] == [2, 2]  # 1 is no window
    assert len(tokens_of(9).windows(3, None, 2)) == 2


def test_bytes_of_tokens_add_up_to_the_text(tiny_model: Path) -> None:
    text = "Ünïcode – the farmer 🐴 walks"
    tokens = TextTokens.of([text, " beside"], AutoTokenizer.from_pretrained(tiny_model))
    assert tokens.bytes.sum() == len((text + " beside").encode())
    assert len(tokens.ids) == len(tokens.bytes)
    assert min(tokens.bytes) >= 0


def test_a_memory_error_halves_the_batch_and_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model("llama")
    scorer = LogLikelihoods(net)
    cut = [cut_request(context, wanted, 62) for _, context, wanted in requests()]
    expected = scorer(cut)
    assert scorer.notes["batch_tokens"] == CPU_TOKENS
    original = Forward.hidden

    def small(self: Forward, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(ids) > 300:
            raise torch.OutOfMemoryError("as a GPU would say")
        return original(self, ids, *rest)

    monkeypatch.setattr(Forward, "hidden", small)
    assert [x[0] for x in scorer(cut)] == pytest.approx([x[0] for x in expected], rel=1e-5)
    assert scorer.notes["batch_tokens"] == CPU_TOKENS // 8


def test_a_long_common_prefix_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model("llama")
    number = random.Random(3)

    def tokens(count: int) -> list[int]:
        return [number.randrange(VOCABULARY) for _ in range(count)]

    examples = tokens(300)
    pairs = [(examples + tokens(number.randint(10, 40)), tokens(1)) for _ in range(150)]
    pairs += [(context, tokens(1)) for context, _ in pairs] + [(tokens(30), tokens(5))]
    cut = [cut_request(*pair, 512) for pair in pairs]
    seen = 0
    original = Forward.hidden

    def counting(self: Forward, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        nonlocal seen
        seen += len(ids)
        return original(self, ids, *rest)

    monkeypatch.setattr(Forward, "hidden", counting)
    scorer = LogLikelihoods(net)
    found = scorer(cut)
    assert scorer.notes["shared_prefixes"] == 1
    assert seen < 8000  # and 49,000 without sharing
    for request, (value, _) in zip(cut, found, strict=True):
        whole = [*request.tokens.tolist(), int(request.wanted[-1])]
        with torch.no_grad():
            logits = net(input_ids=torch.tensor([whole[:-1]])).logits[0].double().log_softmax(-1)
        own = logits[-len(request.wanted) :][range(len(request.wanted)), request.wanted]
        assert value == pytest.approx(float(own.sum()), rel=1e-4)


def test_two_models_in_turn_do_not_mix() -> None:
    cut = [cut_request(context, wanted, 62) for _, context, wanted in requests()]
    first, second = model("llama"), model("llama")
    second.model.layers[0].mlp.down_proj.weight.data.zero_()
    alone = [LogLikelihoods(net)(cut) for net in (first, second)]
    scorers = [LogLikelihoods(net) for net in (first, second)]
    assert [scorer(cut) for scorer in scorers] == alone
    assert alone[0] != alone[1]
