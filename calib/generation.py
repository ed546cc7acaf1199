"""Self-generated calibration text: the dense model continues short prefixes (Ji et al. 2025, 5)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

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
    starts = np.concatenate([[0], source.ends[:-1]])
    long = [i for i, s in enumerate(starts) if source.ends[i] - s >= spec.prefix_tokens]
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
    (seed, i, position) alone, so neither the number of texts nor the order of work changes it.

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
    count = int(fraction * len(texts))
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
    warp = _warpers(spec)
    eos = tokenizer.eos_token_id
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    past, feed = None, ids
    for position in range(max_tokens):
        output = model(input_ids=feed, past_key_values=past, use_cache=True)
        past = output.past_key_values
        scores = warp(ids, output.logits[:, -1].float())  # type: ignore[arg-type]
        feed = _sample(scores, torch.from_numpy(uniform[:, position]))[:, None]
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


def _warpers(spec: GenerateSpec) -> LogitsProcessorList:
    """The processors that `generate` of transformers would apply, in its order."""
    steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(spec.repetition_penalty)])
    steps.append(TemperatureLogitsWarper(spec.temperature))
    if spec.top_k:
        steps.append(TopKLogitsWarper(spec.top_k))
    if spec.top_p < 1:
        steps.append(TopPLogitsWarper(spec.top_p))
    return steps


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
