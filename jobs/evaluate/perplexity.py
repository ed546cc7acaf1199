"""Perplexities of token windows, and the standard errors of what is measured on documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any

from transformers import PreTrainedModel

from jobs.evaluate.loglikelihood import LogLikelihoods
from jobs.evaluate.rows import Scored
from jobs.evaluate.scores import Metric, Scores
from jobs.evaluate.texts import Window

JACKKNIFE_GROUPS = 50
"""Groups of documents for the standard error of what is no mean."""


def mean_stderr(values: Sequence[float]) -> float | None:
    """Standard error of a mean, None for fewer than two values."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float | None]:
    """Sum over sum, with the standard error over the clusters that the pairs are (linearised)."""
    total = sum(below)
    value = sum(above) / total
    spread = mean_stderr([a - value * b for a, b in zip(above, below, strict=True)])
    return value, None if spread is None else spread * len(below) / total


def jackknife_stderr(
    figure: Callable[[Sequence[Any]], float], values: Sequence[Any]
) -> float | None:
    """Standard error of any figure, by leaving out one group of documents at a time."""
    groups = min(JACKKNIFE_GROUPS, len(values))
    if groups < 2:
        return None
    parts = [
        figure([v for i, v in enumerate(values) if i % groups != left]) for left in range(groups)
    ]
    mean = fmean(parts)
    return math.sqrt((groups - 1) / groups * sum((p - mean) ** 2 for p in parts))


def window_scores(model: PreTrainedModel, windows: Sequence[Window]) -> tuple[list[float], Scores]:
    """Negative log-likelihood of each window, in nats, and how it was computed."""
    scorer = LogLikelihoods(model)
    found = scorer([Scored(w.ids[:-1], w.ids[1:]) for w in windows])
    tokens = sum(len(w.ids) - 1 for w in windows)
    sizes = [w.bytes for w in windows]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    notes = {"windows": len(windows), "tokens": tokens, "bytes": total, **scorer.notes}
    return [-value for value, _ in found], Scores(notes=notes)


def corpus_perplexity(model: PreTrainedModel, name: str, windows: Sequence[Window]) -> Scores:
    """exp of the mean negative log-likelihood over all predicted tokens of the windows."""
    losses, scores = window_scores(model, windows)
    counts = [len(w.ids) - 1 for w in windows]
    mean, stderr = ratio(losses, counts)
    scores.metrics += [
        _exp(Metric(name, "perplexity", mean, stderr, sum(counts))),
        Metric(name, "loss", mean, stderr, sum(counts)),
    ]
    _finish(scores, name, losses, windows)
    return scores


def row_perplexity(model: PreTrainedModel, name: str, rows: Sequence[Window]) -> Scores:
    """Arithmetic mean of the perplexities of texts, each by itself (Ji et al. 2025, for Alpaca).

    `corpus_perplexity` beside it weighs tokens instead of texts.
    """
    losses, scores = window_scores(model, rows)
    counts = [len(row.ids) - 1 for row in rows]
    means = [loss / count for loss, count in zip(losses, counts, strict=True)]
    values = [math.exp(mean) for mean in means]
    scores.metrics += [
        Metric(name, "perplexity", fmean(values), mean_stderr(values), len(rows)),
        _exp(Metric(name, "corpus_perplexity", *ratio(losses, counts), sum(counts))),
        Metric(name, "loss", fmean(means), mean_stderr(means), len(rows)),
    ]
    _finish(scores, name, losses, rows)
    return scores


def _exp(loss: Metric) -> Metric:
    """A mean loss as a perplexity; its standard error by the delta method."""
    value = math.exp(loss.value)
    error = None if loss.stderr is None else value * loss.stderr
    return Metric(loss.task, loss.metric, value, error, loss.n)


def _finish(scores: Scores, name: str, losses: Sequence[float], windows: Sequence[Window]) -> None:
    """Bits per byte, which compares across tokenizers, and the outcome of each window."""
    if scores.notes["bytes"]:
        bits = [loss / math.log(2) for loss in losses]
        sizes = [float(window.bytes or 0) for window in windows]
        n = scores.notes["tokens"]
        scores.metrics.append(Metric(name, "bits_per_byte", *ratio(bits, sizes), n))
    for i, (loss, window) in enumerate(zip(losses, windows, strict=True)):
        scores.outcomes.append((name, i, "loss", loss / (len(window.ids) - 1)))
