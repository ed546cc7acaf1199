"""Self-generated calibration text: the dense model continues short prefixes (Ji et al. 2025, 5)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from calib.pool import Pool, Tokens
from calib.spec import GenerateSpec


@dataclass(frozen=True)
class GeneratedText:
    """One text that the model wrote.

    Attributes:
        text: the text, prefix included, special tokens left out.
        tokens: its tokens, prefix included.
        perplexity: exp of the mean negative log-likelihood of its tokens after the first.
        source: id of the document that gave the prefix.
        kept: False where it is among the highest perplexities that are dropped.
    """

    text: str
    tokens: int
    perplexity: float
    source: str
    kept: bool = True


def prefixes(source: Tokens, spec: GenerateSpec, bos: int | None) -> tuple[list[str], Tensor]:
    """Document ids and the first tokens of as many documents as texts are wanted.

    Returns:
        The ids, and a [texts, prefix_tokens (+ 1 with BOS)] int64 tensor.

    Raises:
        ValueError: the source has too few documents that reach `prefix_tokens`.
    """
    lengths = np.diff(source.ends, prepend=0)
    starts = source.ends - lengths
    long = np.flatnonzero(lengths >= spec.prefix_tokens).tolist()
    if len(long) < spec.texts:
        raise ValueError(
            f"{len(long):,} documents of {spec.source!r} have {spec.prefix_tokens} tokens, and "
            f"{spec.texts:,} texts were asked for; ask for fewer texts or name another source"
        )
    long = long[: spec.texts]
    first = [] if bos is None else [bos]
    rows = [first + source.ids[starts[i] : starts[i] + spec.prefix_tokens].tolist() for i in long]
    return [source.documents[i] for i in long], torch.tensor(rows)


def bos_token(tokenizer: PreTrainedTokenizerBase, policy: bool | str) -> int | None:
    """The BOS id to put in front of a prefix, or None; "auto" does as the tokenizer does."""
    if policy == "auto":
        ids = tokenizer("a").input_ids
        has = bool(ids) and ids[0] == tokenizer.bos_token_id
        return tokenizer.bos_token_id if has else None
    if policy and tokenizer.bos_token_id is None:
        raise ValueError("generate.bos is true, and the tokenizer has no BOS token")
    return tokenizer.bos_token_id if policy else None


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: Tokens,
    spec: GenerateSpec,
    max_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[GeneratedText]:
    """Write `spec.texts` texts, score them, and mark those of highest perplexity as dropped.

    Text i is in batch i div `spec.batch`; the uniform numbers it is sampled with depend on
    (seed, i, position) alone. So the number of texts changes none but those of the last batch,
    whose arithmetic may round differently where it is not full.

    Args:
        model: the dense model, in evaluation mode.
        tokenizer: its tokenizer.
        source: tokens of the documents that give the prefixes, in pool order.
        spec: the settings.
        max_tokens: new tokens a text, at most.
        progress: called with (texts done, texts).
    """
    documents, starts = prefixes(source, spec, bos_token(tokenizer, spec.bos))
    special = starts.shape[1] - spec.prefix_tokens
    texts: list[GeneratedText] = []
    for first in range(0, len(starts), spec.batch):
        progress(first, len(starts))
        part = starts[first : first + spec.batch]
        for row in _continue(model, tokenizer, part, first, spec, max_tokens):
            text = str(tokenizer.decode(row[special:], skip_special_tokens=True))
            perplexity = text_perplexity(model, row)
            texts.append(GeneratedText(text, len(row), perplexity, documents[len(texts)]))
    progress(len(starts), len(starts))
    return drop_highest(texts, spec.drop_top_perplexity)


def drop_highest(texts: Sequence[GeneratedText], fraction: float) -> list[GeneratedText]:
    """Mark the floor(fraction x texts) texts of highest perplexity as not kept."""
    count = int(Decimal(str(fraction)) * len(texts))
    order = sorted(range(len(texts)), key=lambda i: -texts[i].perplexity)
    dropped = set(order[:count])
    return [
        GeneratedText(**(asdict(text) | {"kept": i not in dropped and bool(text.text.strip())}))
        for i, text in enumerate(texts)
    ]


def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    starts: Tensor,
    first: int,
    spec: GenerateSpec,
    max_tokens: int,
) -> list[list[int]]:
    """Continue a batch of prefixes of equal length until EOS or `max_tokens`; rows of token ids."""
    ids = starts.to(model.device)
    uniform = np.stack(
        [
            np.random.Generator(np.random.Philox(key=[spec.seed, first + i])).random(max_tokens)
            for i in range(len(starts))
        ]
    )
    reshape, cut = _warpers(spec)
    eos = tokenizer.eos_token_id
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    past, feed = _cache(model, ids.shape[1] + max_tokens), ids
    for position in range(max_tokens):
        output = model(input_ids=feed, past_key_values=past, use_cache=True)
        scores = reshape(ids, output.logits[:, -1].float())  # type: ignore[arg-type]
        scores, tokens = _highest(scores, spec.top_k)
        chosen = _sample(cut(ids, scores), torch.from_numpy(uniform[:, position]))  # type: ignore[arg-type]
        feed = tokens.gather(1, chosen[:, None])
        if eos is not None:
            feed = feed.masked_fill(ended[:, None], eos)
            ended |= feed[:, 0] == eos
        ids = torch.cat([ids, feed], dim=1)
        if bool(ended.all()):
            break
    return [_up_to(row, starts.shape[1], eos) for row in ids.tolist()]


def _up_to(row: list[int], prefix: int, eos: int | None) -> list[int]:
    """A row of ids before its first EOS after the prefix."""
    return row[: row.index(eos, prefix)] if eos in row[prefix:] else row


def _warpers(spec: GenerateSpec) -> tuple[LogitsProcessorList, LogitsProcessorList]:
    """The processors that `generate` of transformers would apply, in its order.

    Returns:
        Those that reshape the scores of all tokens, and those that cut all but the highest.
    """
    reshape = [
        RepetitionPenaltyLogitsProcessor(spec.repetition_penalty),
        TemperatureLogitsWarper(spec.temperature),
    ]
    cut: list[LogitsProcessor] = [TopKLogitsWarper(spec.top_k)] if spec.top_k else []
    cut += [TopPLogitsWarper(spec.top_p)] if spec.top_p < 1 else []
    return LogitsProcessorList(reshape), LogitsProcessorList(cut)


def _highest(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The scores that can be among the `top_k` of their row, ties included, and their tokens.

    Both [rows, columns], in order of token: what follows need not sort a whole vocabulary.
    """
    last = torch.topk(scores, min(top_k, scores.shape[1]) or scores.shape[1]).values[:, -1:]
    columns = int((scores >= last).sum(-1).max())
    tokens = torch.topk(scores, columns).indices.sort(-1).values
    return scores.gather(1, tokens), tokens


class _RoomyLayer(DynamicLayer):
    """Keys and values in tensors made once, where the base class copies all of them each step."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.store: list[Tensor] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of new tokens; all of them, old and new."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.store = [
                new.new_empty(*new.shape[:2], self.room, new.shape[3])
                for new in (key_states, value_states)
            ]
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        for store, new in zip(self.store, (key_states, value_states), strict=True):
            store[:, :, start:stop] = new
        self.keys, self.values = (store[:, :, :stop] for store in self.store)
        return self.keys, self.values


def _cache(model: PreTrainedModel, room: int) -> DynamicCache:
    """A cache for `room` tokens; layers that slide or do otherwise stay transformers' own."""
    cache = DynamicCache(config=model.config)
    cache.layers = [_RoomyLayer(room) if type(x) is DynamicLayer else x for x in cache.layers]
    return cache


def _sample(scores: Tensor, uniform: Tensor) -> Tensor:
    """One token a row by inverting the distribution function at `uniform`; int64 [rows]."""
    cumulative = scores.double().softmax(-1).cumsum(-1)
    wanted = uniform.to(scores.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, wanted, right=True)[:, 0].clamp_max(scores.shape[1] - 1)


@torch.no_grad()
def text_perplexity(model: PreTrainedModel, ids: Sequence[int]) -> float:
    """exp of the mean negative log-likelihood of `ids` after the first; infinite for one token."""
    if len(ids) < 2:
        return float("inf")
    row = torch.tensor([ids], device=model.device)
    return float(torch.exp(model(input_ids=row, labels=row, use_cache=False).loss))


def save(texts: Sequence[GeneratedText], folder: Path) -> None:
    """Write all texts (`texts.jsonl`) and the pool of the kept ones (`documents.parquet`)."""
    lines = "".join(json.dumps(asdict(text)) + "\n" for text in texts)
    (folder / "texts.jsonl").write_text(lines, "utf-8")
    kept = [text.text for text in texts if text.kept]
    Pool.of(kept, len(kept) or 1).save(folder)
