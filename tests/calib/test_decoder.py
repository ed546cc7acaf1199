"""The fast path writes what the plain one writes, and stands aside where it does not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf

from calib import fast_decoder
from calib.decoder import PlainDecoder
from calib.fast_decoder import FastDecoder
from calib.llama_shape import NotFastError
from calib.sampling import uniform_numbers
from calib.spec import GenerateSpec
from calib.writer import Writer
from prune.model.openlm import OpenLMConfig, OpenLMForCausalLM
from tests.prune.tiny_models import CONFIGS, VOCABULARY, WIDTH, build

FAST = {"llama-mha", "llama-gqa", "qwen2", "qwen3"}
PREFIX, NEW, BATCH = 3, 24, 4
SPEC = GenerateSpec.model_validate({"from": "farms", "top_k": 20, "batch": BATCH})


def openlm(**more: Any) -> Any:
    torch.manual_seed(0)
    config = OpenLMConfig(dim=32, n_layers=2, n_heads=4, vocab_size=VOCABULARY, **more)
    return OpenLMForCausalLM(config).eval().requires_grad_(False)


MODELS: dict[str, Callable[[], Any]] = {
    **{name: (lambda name=name: build(name)) for name in CONFIGS},
    "openlm": openlm,
    "openlm-plain": lambda: openlm(apply_qk_norm=False, positional_embedding_type="head_rotary"),
}


def starts() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(3, VOCABULARY, (BATCH, PREFIX), generator=generator)


def without_cache(model: Any, eos: int | None) -> list[list[int]]:
    """The texts with the model's whole forward at every step."""
    writer = Writer(model, SPEC, PREFIX, NEW, eos)
    sampler = writer.sampler
    sampler.start(starts(), uniform_numbers(0, range(BATCH), NEW))
    for length in range(PREFIX, PREFIX + NEW):
        with torch.no_grad():
            ids = sampler.history[:, :length]
            sampler.step(model(input_ids=ids, use_cache=False).logits[:, -1])
    return sampler.history.tolist()


@pytest.mark.parametrize("name", MODELS)
def test_keys_and_values_that_are_kept_change_nothing(name: str) -> None:
    writer = Writer(MODELS[name](), SPEC, PREFIX, NEW, None)
    assert writer.path.partition(":")[0] == (
        "fast" if name in FAST or name.startswith("openlm") else "plain"
    )
    wanted = without_cache(MODELS[name](), None)
    for _ in range(2):  # the second batch finds the first one's keys and values there
        assert writer.write(starts(), range(BATCH)) == wanted


WHOLE: dict[str, Callable[[], Any]] = {
    "mamba": lambda: hf.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, state_size=8
    ),
    "openai-gpt": lambda: hf.OpenAIGPTConfig(
        vocab_size=VOCABULARY, n_positions=64, n_embd=WIDTH, n_layer=2, n_head=4
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["mamba", "openai-gpt"])
def test_models_with_a_state_elsewhere_read_the_whole_text(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(WHOLE[name]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model = model.to(dtype).eval().requires_grad_(False)
    writer = Writer(model, SPEC, PREFIX, NEW, None)
    assert writer.path.startswith("whole: the model's steps differ from whole forwards by")
    wanted = without_cache(model, None)
    for _ in range(2):
        assert writer.write(starts(), range(BATCH)) == wanted


def test_steps_that_raise_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any) -> Any:
        raise IndexError("list index out of range")

    model = build("gpt2")
    monkeypatch.setattr(PlainDecoder, "step", step)
    writer = Writer(model, SPEC, PREFIX, NEW, None)
    assert writer.path == "whole: the model's steps fail: IndexError: list index out of range"
    assert writer.write(starts(), range(BATCH)) == without_cache(model, None)


def test_one_prefix_token_is_enough() -> None:
    model = build("llama-gqa")
    fast, plain = (Writer(model, SPEC, 1, NEW, None) for _ in range(2))
    plain.decoder = PlainDecoder(model, 1 + NEW)
    first = starts()[:, :1]
    assert fast.write(first, range(BATCH)) == plain.write(first, range(BATCH))


def test_the_model_itself_is_left_as_it_was() -> None:
    model, untouched = build("qwen2"), build("qwen2")
    Writer(model, SPEC, PREFIX, NEW, None)
    for (name, one), other in zip(model.named_parameters(), untouched.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_model_of_the_shape_with_other_arithmetic_is_not_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast_decoder, "gate", lambda hidden: hidden.chunk(2, -1)[0])
    with pytest.raises(NotFastError, match="logits differ by"):
        FastDecoder(build("llama-mha"), BATCH, PREFIX + NEW)


def test_more_ties_than_columns_write_the_batch_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama-mha").to(torch.bfloat16)
    wide = Writer(model, SPEC, PREFIX, NEW, None)
    wanted = wide.write(starts(), range(BATCH))
    monkeypatch.setattr("calib.sampling.SPARE", 0)
    narrow = Writer(model, SPEC, PREFIX, NEW, None)
    assert narrow.write(starts(), range(BATCH)) == wanted
    assert narrow.sampler.columns != SPEC.top_k  # the last place always has one more holder
