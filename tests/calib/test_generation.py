"""The model's own text: what it depends on, and that it is sampled as transformers would."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from calib import generation
from calib.generation import GeneratedText, bos_token, drop_highest, generate, prefixes
from calib.pool import Pool, Tokens
from calib.spec import GenerateSpec
from prune.model.load import load_model, load_tokenizer
from tests.prune.tiny_models import CONFIGS

NEW = 24


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> PreTrainedModel:
    return load_model(tiny_model, "float32")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def source(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    pool = Pool.of([f"{i} little farms lie there" for i in range(12)], 12)
    return Tokens.of(pool, lambda texts: tokenizer(texts).input_ids, "")


def spec(**more: Any) -> GenerateSpec:
    return GenerateSpec.model_validate({"from": "farms", "texts": 8, "batch": 2, **more})


@pytest.fixture
def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: Tokens) -> Any:
    return lambda **more: generate(model, tokenizer, source, spec(**more), NEW)


def texts(written: list[GeneratedText]) -> list[str]:
    return [text.text for text in written]


# -- what a text depends on


def test_two_runs_write_the_same_bytes(write: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        generation.save(write(), tmp_path / name)
    for file in ("texts.jsonl", "documents.parquet"):
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one == two


def test_more_texts_change_none_of_the_first(write: Any) -> None:
    small, large = write(texts=6), write(texts=8)
    assert texts(small) == texts(large)[:6]
    assert [t.perplexity for t in small] == [t.perplexity for t in large[:6]]


def test_another_seed_writes_other_texts(write: Any) -> None:
    assert not set(texts(write(seed=0))) & set(texts(write(seed=1)))


def test_texts_are_written_in_batches_of_consecutive_prefixes(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    plain = generation._continue

    def noted(model: Any, tokenizer: Any, starts: Any, first: int, *rest: Any) -> list[list[int]]:
        asked.append((first, len(starts)))
        return plain(model, tokenizer, starts, first, *rest)

    monkeypatch.setattr(generation, "_continue", noted)
    write(texts=8, batch=3)
    assert asked == [(0, 3), (3, 3), (6, 2)]


def test_a_text_begins_with_the_prefix_of_its_document(
    write: Any, source: Tokens, tokenizer: PreTrainedTokenizerBase
) -> None:
    for text, document in zip(write(prefix_tokens=3), source.documents, strict=False):
        start = ([0, *source.ends])[list(source.documents).index(document)]
        assert text.source == document
        assert text.text.startswith(tokenizer.decode(source.ids[start : start + 3]))


def test_documents_too_short_for_a_prefix_are_passed_over() -> None:
    ids = np.arange(10, 20, dtype=np.int32)
    source = Tokens(ids, np.array([0, 1, 4, 4, 6, 10]), ["a", "b", "c", "d", "e", "f"])
    documents, starts = prefixes(source, spec(texts=3), bos=1)
    assert documents == ["c", "e", "f"]
    assert starts.tolist() == [[1, 11, 12], [1, 14, 15], [1, 16, 17]]


def test_too_few_documents_are_refused_with_numbers(source: Tokens) -> None:
    with pytest.raises(ValueError, match=r"12 documents of 'farms' .* 13 texts were asked for"):
        prefixes(source, spec(texts=13), None)
    empty = Tokens(source.ids[:0], source.ends[:0], [])
    with pytest.raises(ValueError, match="0 documents of 'farms'"):
        prefixes(empty, spec(), None)


# -- sampling


def plain_rows(
    model: PreTrainedModel, starts: torch.Tensor, settings: GenerateSpec, new: int
) -> list[list[int]]:
    """The same texts with transformers' processors in a row, and no cache at all."""
    ids = starts
    steps = transformers_steps(settings)
    draws = [np.random.Generator(np.random.Philox(key=[settings.seed, i])) for i in range(len(ids))]
    uniform = np.stack([draw.random(new) for draw in draws])
    for position in range(new):
        with torch.no_grad():
            scores = steps(ids, model(input_ids=ids, use_cache=False).logits[:, -1])
        cumulative = scores.double().softmax(-1).cumsum(-1).numpy()
        chosen = [
            int(np.argmax(c > u)) for c, u in zip(cumulative, uniform[:, position], strict=True)
        ]
        ids = torch.cat([ids, torch.tensor(chosen)[:, None]], 1)
    return ids.tolist()


def transformers_steps(settings: GenerateSpec) -> LogitsProcessorList:
    steps: list[Any] = [
        RepetitionPenaltyLogitsProcessor(settings.repetition_penalty),
        TemperatureLogitsWarper(settings.temperature),
    ]
    steps += [TopKLogitsWarper(settings.top_k)] if settings.top_k else []
    return LogitsProcessorList([*steps, TopPLogitsWarper(settings.top_p)])


class NoEnd:
    """All of a tokenizer that continuing a batch looks at."""

    eos_token_id = None


@pytest.mark.parametrize("name", ["llama-gqa", "mistral", "gemma3", "gpt2"])
def test_the_cache_changes_nothing(name: str) -> None:
    torch.manual_seed(1)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    starts = torch.randint(3, 90, (4, 3))
    settings = spec(top_k=20)
    with torch.no_grad():
        rows = generation._continue(model, NoEnd(), starts, 0, settings, NEW)  # type: ignore[arg-type]
    assert rows == plain_rows(model, starts, settings, NEW)


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
    ],
)
def test_one_step_leaves_the_tokens_and_chances_that_transformers_leaves(
    changes: dict[str, Any],
) -> None:
    settings = spec(**changes)
    torch.manual_seed(0)
    ids = torch.randint(0, 200, (16, 7))
    logits = 3 * torch.randn(16, 200)
    wanted = transformers_steps(settings)(ids, logits).softmax(-1)

    reshape, cut = generation._warpers(settings)
    scores, tokens = generation._highest(reshape(ids, logits), settings.top_k)
    found = torch.zeros(16, 200).scatter(1, tokens, cut(ids, scores).softmax(-1))
    assert torch.equal(found > 0, wanted > 0)
    torch.testing.assert_close(found, wanted)


def test_tokens_of_equal_score_at_the_cut_all_stay() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]])
    kept, tokens = generation._highest(scores, 2)
    cut = TopKLogitsWarper(2)(torch.zeros(2, 1, dtype=torch.long), kept)
    assert tokens[0][cut[0] > -math.inf].tolist() == [1, 2, 3, 4]
    assert tokens[1][cut[1] > -math.inf].tolist() == [0, 1]


def test_samples_have_the_chances_of_their_scores() -> None:
    chances = torch.tensor([0.5, 0.0, 0.2, 0.3])
    uniform = torch.from_numpy(np.random.default_rng(0).random(20_000))
    chosen = generation._sample(chances.log().expand(20_000, 4), uniform)
    counts = torch.bincount(chosen, minlength=4) / 20_000
    assert counts[1] == 0
    torch.testing.assert_close(counts, chances, atol=0.012, rtol=0)


def test_a_text_ends_before_eos(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: Tokens
) -> None:
    whole = generate(model, tokenizer, source, spec(), NEW)
    settings = spec(texts=8)
    _, starts = prefixes(source, settings, None)
    with torch.no_grad():
        rows = generation._continue(model, NoEnd(), starts[:2], 0, settings, NEW)  # type: ignore[arg-type]
    ending = copy.deepcopy(tokenizer)
    ending.eos_token = tokenizer.convert_ids_to_tokens(rows[0][9])
    cut = generate(model, ending, source, settings, NEW)
    assert len(rows[0]) == 2 + NEW == whole[0].tokens
    assert cut[0].tokens == rows[0].index(rows[0][9], 2)
    if rows[0][9] not in rows[1][2:]:
        assert cut[1].text == whole[1].text


# -- BOS


def test_auto_puts_a_bos_where_the_tokenizer_does(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.bos_token_id is not None
    assert bos_token(tokenizer, "auto") is None
    adding: Any = copy.deepcopy(tokenizer)
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", adding.bos_token_id)]
    )
    assert bos_token(adding, "auto") == tokenizer.bos_token_id
    assert bos_token(adding, False) is None


def test_a_bos_may_be_asked_for(tokenizer: PreTrainedTokenizerBase) -> None:
    assert bos_token(tokenizer, True) == tokenizer.bos_token_id
    assert bos_token(tokenizer, False) is None
    without = copy.deepcopy(tokenizer)
    without.bos_token = None
    assert bos_token(without, "auto") is None
    with pytest.raises(ValueError, match="the tokenizer has no BOS token"):
        bos_token(without, True)


def test_a_bos_is_read_by_the_model_and_left_out_of_the_text(write: Any) -> None:
    plain, led = write(bos=False), write(bos=True)
    assert texts(plain) != texts(led)
    assert all(text.tokens == 1 + 2 + NEW for text in led)
    assert not any("<s>" in text.text for text in led)


# -- perplexity and the filter


def test_perplexity_is_that_of_a_plain_computation(model: PreTrainedModel) -> None:
    ids = torch.arange(2, 60) * 5 % 300
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        chances = exact(input_ids=ids[None]).logits[0].log_softmax(-1)
    mean = chances[:-1].gather(1, ids[1:, None]).mean()
    found = generation.text_perplexity(model, ids.tolist())
    assert found == pytest.approx(math.exp(-float(mean)), rel=1e-5)


def test_one_token_has_no_perplexity(model: PreTrainedModel) -> None:
    assert generation.text_perplexity(model, [5]) == math.inf


@pytest.mark.parametrize(
    ("fraction", "count", "dropped"),
    [(0.2, 5000, 1000), (0.29, 100, 29), (0.2, 8, 1), (0.2, 4, 0), (0.0, 8, 0), (0.57, 100, 57)],
)
def test_the_fraction_is_dropped_exactly(fraction: float, count: int, dropped: int) -> None:
    made = [GeneratedText("a", 2, float(i * 7919 % count), "id") for i in range(count)]
    marked = drop_highest(made, fraction)
    out = [text.perplexity for text in marked if not text.kept]
    assert sorted(out) == list(range(count - dropped, count))


def test_the_pool_holds_the_kept_texts(write: Any, tmp_path: Path) -> None:
    written = write(drop_top_perplexity=0.25)
    generation.save(written, tmp_path)
    kept = [text for text in written if text.kept]
    assert len(kept) == 6
    assert sorted(Pool.load(tmp_path).texts) == sorted(texts(kept))
    assert max(t.perplexity for t in kept) <= min(t.perplexity for t in written if not t.kept)
    lines = (tmp_path / "texts.jsonl").read_text("utf-8").split("\n")[:-1]
    assert [json.loads(line)["text"] for line in lines] == texts(written)


def test_progress_counts_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: Tokens
) -> None:
    told: list[tuple[int, int]] = []
    generate(model, tokenizer, source, spec(texts=5), 2, lambda *given: told.append(given))
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5)]
