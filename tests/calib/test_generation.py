"""The model's own text: what it depends on, how it begins, and what is dropped."""

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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from calib import generation
from calib.generation import GeneratedText, Generator, bos_token, generate, pooled, prefixes
from calib.pool import Pool, Tokens
from calib.spec import GenerateSpec
from prune.model.load import load_model, load_tokenizer

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
    def written(**more: Any) -> list[GeneratedText]:
        settings = spec(**more)
        return generate(model, tokenizer, source if settings.source else None, settings, NEW)

    return written


def texts(written: list[GeneratedText]) -> list[str]:
    return [text.text for text in written]


# -- what a text depends on


def test_two_runs_write_the_same_bytes(write: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        generation.save(write(), tmp_path / name, ["fast"])
    for file in ("texts.jsonl", "documents.parquet", "manifest.json"):
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one == two


@pytest.mark.parametrize(("small", "large"), [(4, 8), (5, 8), (7, 10)])
def test_a_small_pool_is_the_beginning_of_a_larger_one(write: Any, small: int, large: int) -> None:
    few, many = (write(texts=n, batch=4, drop_top_perplexity=0) for n in (small, large))
    assert few == many[:small]


def test_batches_may_be_written_in_any_order_and_by_anybody(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: Tokens
) -> None:
    one, other = (Generator(model, tokenizer, source, spec(), NEW) for _ in range(2))
    whole = [one.batch(n) for n in range(4)]
    assert [other.batch(n) for n in (3, 1)] == [whole[3], whole[1]]


def test_the_number_of_threads_changes_no_bit(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: Tokens
) -> None:
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append(Generator(model, tokenizer, source, spec(batch=8), NEW).batch(0))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert found[0] == found[1]


def test_another_batch_size_writes_the_same_tokens_in_float32(write: Any) -> None:
    one, other = write(batch=2), write(batch=8)
    assert texts(one) == texts(other)
    near = [t.perplexity for t in one], [t.perplexity for t in other]
    np.testing.assert_allclose(*near, rtol=1e-4)


def test_another_seed_writes_other_texts(write: Any) -> None:
    assert not set(texts(write(seed=0))) & set(texts(write(seed=1)))


# -- how a text begins


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
    documents, starts = prefixes(source, spec(texts=3, batch=3), bos=1)
    assert documents == ["c", "e", "f"]
    assert starts.tolist() == [[1, 11, 12], [1, 14, 15], [1, 16, 17]]


def test_a_last_batch_is_filled_with_what_a_larger_pool_would_take() -> None:
    source = Tokens(np.arange(8, dtype=np.int32), np.array([2, 4, 6, 8]), list("abcd"))
    assert prefixes(source, spec(texts=2, batch=3), None)[0] == ["a", "b", "c"]
    assert prefixes(source, spec(texts=4, batch=3), None)[0] == ["a", "b", "c", "d", "a", "b"]


def test_too_few_documents_are_refused_with_numbers(source: Tokens) -> None:
    with pytest.raises(ValueError, match=r"12 documents of 'farms' .* 13 texts were asked for"):
        prefixes(source, spec(texts=13), None)
    empty = Tokens(source.ids[:0], source.ends[:0], [])
    with pytest.raises(ValueError, match="0 documents of 'farms'"):
        prefixes(empty, spec(), None)


def test_from_bos_alone_texts_differ_by_their_chance_only(
    write: Any, tokenizer: PreTrainedTokenizerBase
) -> None:
    written = write(**{"from": None, "temperature": {"start": 2.0, "tokens": 8}})
    assert len(set(texts(written))) == len(written)
    assert all(text.source is None and text.tokens <= 1 + NEW for text in written)
    assert not any(str(tokenizer.bos_token) in text for text in texts(written))


def test_a_text_ends_where_the_models_positions_end(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: Tokens,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model.config, "max_position_embeddings", 12)
    made = Generator(model, tokenizer, source, spec(prefix_tokens=5, bos=True), NEW).batch(0)
    assert {text.tokens for text in made} == {12}
    monkeypatch.setattr(model.config, "max_position_embeddings", 6)
    with pytest.raises(ValueError, match="leaves the model no position"):
        Generator(model, tokenizer, source, spec(prefix_tokens=5, bos=True), NEW)


def test_a_text_ends_before_eos(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: Tokens
) -> None:
    whole = Generator(model, tokenizer, source, spec(), NEW)
    rows = whole.writer.write(whole.starts[:2], range(2))
    ending = copy.deepcopy(tokenizer)
    ending.eos_token = tokenizer.convert_ids_to_tokens(rows[0][9])
    cut = Generator(model, ending, source, spec(), NEW).batch(0)
    assert len(rows[0]) == 2 + NEW
    assert cut[0].tokens == rows[0].index(rows[0][9], 2)
    if rows[0][9] not in rows[1][2:]:
        assert cut[1] == whole.batch(0)[1]


# -- BOS


def test_auto_puts_a_bos_where_the_tokenizer_does(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.bos_token_id is not None
    assert bos_token(tokenizer, spec()) is None
    adding: Any = copy.deepcopy(tokenizer)
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", adding.bos_token_id)]
    )
    assert bos_token(adding, spec()) == tokenizer.bos_token_id
    assert bos_token(adding, spec(bos=False)) is None


def test_a_bos_may_be_asked_for(tokenizer: PreTrainedTokenizerBase) -> None:
    assert bos_token(tokenizer, spec(bos="add")) == tokenizer.bos_token_id
    assert bos_token(tokenizer, spec(bos="none")) is None
    without = copy.deepcopy(tokenizer)
    without.bos_token = None
    assert bos_token(without, spec()) is None
    with pytest.raises(ValueError, match="the tokenizer has no BOS token"):
        bos_token(without, spec(bos=True))
    with pytest.raises(ValueError, match="the tokenizer has no BOS token"):
        bos_token(without, spec(**{"from": None}))


def test_a_bos_is_read_by_the_model_and_left_out_of_the_text(write: Any) -> None:
    plain, led = write(bos=False), write(bos=True)
    assert texts(plain) != texts(led)
    assert all(text.tokens == 1 + 2 + NEW for text in led)
    assert not any("<s>" in text.text for text in led)


# -- the filter


@pytest.mark.parametrize(
    ("fraction", "count", "dropped"),
    [(0.2, 5000, 1000), (0.29, 100, 29), (0.2, 8, 1), (0.2, 4, 0), (0.0, 8, 0), (0.57, 100, 57)],
)
def test_the_fraction_is_dropped_exactly(fraction: float, count: int, dropped: int) -> None:
    made = [GeneratedText("a", 2, float(i * 7919 % count), 0.0, "en", "id") for i in range(count)]
    settings = spec(texts=count, drop_top_perplexity=fraction)
    out = [text.perplexity for text in pooled(made, settings) if not text.kept]
    assert sorted(out) == list(range(count - dropped, count))
    assert settings.kept == count - dropped


def test_the_pool_holds_the_kept_texts(write: Any, tmp_path: Path) -> None:
    written = write(drop_top_perplexity=0.25)
    generation.save(written, tmp_path, ["fast", "fast"])
    kept = [text for text in written if text.kept]
    assert len(kept) == 6
    assert sorted(Pool.load(tmp_path).texts) == sorted(texts(kept))
    assert max(t.perplexity for t in kept) <= min(t.perplexity for t in written if not t.kept)
    lines = (tmp_path / "texts.jsonl").read_text("utf-8").split("\n")[:-1]
    assert [generation.from_json(json.loads(line)) for line in lines] == written
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    assert manifest["dropped_fraction"] == 0.25
    assert manifest["decoder"] == ["fast"]


def test_a_text_of_one_token_is_dropped_first_and_survives_json() -> None:
    one = GeneratedText("a", 1, math.inf, 0.0, None, None)
    other = GeneratedText("b", 2, 5.0, 0.0, None, None)
    assert [t.kept for t in pooled([one, other], spec(texts=2, drop_top_perplexity=0.5))] == [
        False,
        True,
    ]
    assert generation.from_json(json.loads(json.dumps(generation.to_json(one)))) == one


def test_progress_shows_a_sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: Tokens
) -> None:
    told: list[tuple[int, str]] = []
    made = Generator(model, tokenizer, source, spec(), 40).batch(1, lambda *t: told.append(t))
    assert [written for written, _ in told] == [16, 32]
    assert all(made[0].text.startswith(sample) for _, sample in told)
