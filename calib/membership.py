"""How familiar calibration windows are to the dense model: perplexity and Min-K%++."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

import torch
from torch import Tensor
from transformers import PreTrainedModel

from calib.similarity import Value

K = 0.5
"""Share of the tokens of lowest score that count, as in Ji et al. 2025 (Min-50%++)."""

LOGITS_AT_ONCE = 2**26
"""Bounds the memory of one batch of logits (float32: 256 MiB)."""


@torch.no_grad()
def window_figures(
    model: PreTrainedModel,
    windows: Sequence[Sequence[int]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[float, float]]:
    """For every window, its mean negative log-likelihood in nats and its Min-K%++ score.

    Min-K%++ (Zhang et al. 2024, arXiv 2404.02936): each token scores (log p - mu) / sigma, with
    mu and sigma the mean and standard deviation of log p over the model's own distribution of the
    next token; a window scores the mean of its `K` lowest tokens. Higher is more familiar.

    Args:
        model: the dense model. windows: token ids, two or more each.
        progress: called with (windows done, windows).
    """
    figures = []
    for done, window in enumerate(windows):
        progress(done, len(windows))
        ids = torch.tensor([list(window)], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        parts = max(1, logits.numel() // LOGITS_AT_ONCE)
        chunks = zip(logits.chunk(parts), ids[0, 1:].chunk(parts), strict=True)
        scored = [_token_scores(part, tokens) for part, tokens in chunks]
        losses = -torch.cat([chosen for chosen, _ in scored])
        scores = torch.cat([standardised for _, standardised in scored])
        lowest = scores.sort().values[: max(1, math.floor(K * len(scores)))]
        figures.append((float(losses.mean()), float(lowest.mean())))
    return figures


def _token_scores(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """log p of each token, and it standardised by the distribution it was drawn from; float64."""
    log_p = logits.float().log_softmax(-1)
    p = log_p.exp()
    mean = (p * log_p).sum(-1).double()
    variance = (p * log_p.square()).sum(-1).double() - mean.square()
    chosen = log_p.gather(-1, tokens[:, None])[:, 0].double()
    return chosen, (chosen - mean) / variance.clamp_min(1e-12).sqrt()


def perplexity(losses: Sequence[float]) -> Value:
    """exp of the mean loss of windows, with its standard error (delta method)."""
    value = math.exp(fmean(losses))
    return Value(value, value * _error(losses), len(losses))


def min_k(scores: Sequence[float]) -> Value:
    """The mean Min-K%++ score of windows."""
    return Value(fmean(scores), _error(scores), len(scores))


def _error(figures: Sequence[float]) -> float:
    return stdev(figures) / len(figures) ** 0.5 if len(figures) > 1 else math.nan
