"""What can be said of a generated text: its perplexity, its repetition, its language."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from calib.generation import GeneratedText

MOST_SCORES = 2**26
"""Logits computed at a time: 256 MB in float32."""

GRAM = 4


@torch.no_grad()
def perplexities(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> list[float]:
    """exp of the mean negative log-likelihood of each row's tokens after the first.

    Rows of like length go through the model together, padded at the end, which no causal model
    sees. Infinite for a row of one token, and where the model gives no number.
    """
    found = [math.inf] * len(rows)
    for group in _groups(rows, MOST_SCORES // model.config.get_text_config().vocab_size):
        lengths = torch.tensor([len(rows[i]) for i in group], device=model.device)
        ids = torch.zeros(len(group), int(lengths.max()), dtype=torch.int64)
        for line, i in zip(ids, group, strict=True):
            line[: len(rows[i])] = torch.tensor(rows[i])
        ids = ids.to(model.device)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), ids[:, 1:], reduction="none"
        )
        real = torch.arange(1, ids.shape[1], device=model.device) < lengths[:, None]
        means = (losses.double() * real).sum(1) / (lengths - 1)
        for i, value in zip(group, means.exp().tolist(), strict=True):
            found[i] = math.inf if math.isnan(value) else value
    return found


def _groups(rows: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Numbers of rows with two tokens or more, longest first, `most` padded tokens at a time."""
    order = [i for i in sorted(range(len(rows)), key=lambda i: -len(rows[i])) if len(rows[i]) > 1]
    while order:
        count = max(1, most // len(rows[order[0]]))
        yield order[:count]
        del order[:count]


def repetition(ids: Sequence[int]) -> float:
    """4-gram aggregation: the share of a text's token 4-grams that it had before; 0 if too short.

    0 where no four tokens in a row come twice, near 1 where it says the same again and again.
    """
    grams = list(zip(*(ids[i:] for i in range(GRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def language(text: str) -> str | None:
    """The language that py3langid takes a text for (ISO 639-1); None where it has no words."""
    import py3langid

    return str(py3langid.classify(text)[0]) if any(c.isalpha() for c in text) else None


def summary(texts: Sequence[GeneratedText]) -> dict[str, Any]:
    """The quality of a pool in a few figures, for its manifest."""
    kept = [text for text in texts if text.kept]
    lengths = [text.tokens for text in texts]
    return {
        "texts": len(texts),
        "kept": len(kept),
        "dropped_fraction": 1 - len(kept) / len(texts),
        "tokens": {"mean": fmean(lengths), "least": min(lengths), "most": max(lengths)},
        "perplexity": {
            "median": _finite(median(text.perplexity for text in texts)),
            "highest_kept": _finite(max((text.perplexity for text in kept), default=math.inf)),
        },
        "repetition": fmean(text.repetition for text in texts),
        "languages": dict(Counter(text.language or "none" for text in texts).most_common()),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
