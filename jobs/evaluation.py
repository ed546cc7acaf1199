"""Evaluation of one model: lm-eval tasks and perplexities, as metrics and per-document outcomes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from unittest import mock

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from jobs.scorer import Scorer, window_losses

logging.getLogger("lm_eval").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Metric:
    """One figure; `n` is the number of documents, windows or tokens behind it."""

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int


@dataclass
class Scores:
    """What one evaluation gives.

    Attributes:
        metrics: the figures. outcomes: (task, document, metric, value) per document or window.
        notes: how it was computed, for the record.
    """

    metrics: list[Metric] = field(default_factory=list)
    outcomes: list[tuple[str, int, str, float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Metrics and notes as plain data; outcomes go into a table of their own."""
        return {"metrics": [asdict(m) for m in self.metrics], "notes": self.notes}


def mean_stderr(values: Sequence[float]) -> float | None:
    """Standard error of a mean, None for fewer than two values."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


class TaskRunner:
    """Runs lm-eval tasks on one model."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None,
        bos: str,
    ) -> None:
        self.lm = Scorer(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=1,
            max_length=max_length,
            add_bos_token=bos == "add",
        )

    def run(
        self,
        name: str,
        folders: Sequence[str],
        num_fewshot: int | None,
        limit: int | None,
        mirror: Path | None,
        demo: Path | None,
    ) -> Scores:
        """Run one task or group.

        Args:
            name: lm-eval's name.
            folders: where the task files that it needs lie.
            num_fewshot: examples in the prompt, None = the task's own.
            limit: documents per task, from the first.
            mirror: folder that hub ids of datasets resolve in.
            demo: the demo's collected text.
        """
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_defaults=False, include_path=list(folders))
        with redirected_datasets(mirror, demo):
            loaded = manager.load([name])
        results = simple_evaluate(
            model=self.lm,
            tasks=[*loaded["tasks"].values()],
            num_fewshot=num_fewshot,
            limit=limit,
            bootstrap_iters=0,  # standard errors come from the documents, below
            log_samples=True,
            task_manager=manager,
        )
        scores = Scores(notes={"shared_context": bool(self.lm.fast)})
        for task, samples in results["samples"].items():
            _add_task(scores, task, samples)
        if name not in results["samples"]:
            scores.metrics += _aggregate(name, scores.metrics)
        return scores


def _add_task(scores: Scores, task: str, samples: Sequence[Mapping[str, Any]]) -> None:
    """The metrics and outcomes of one task from lm-eval's samples."""
    for metric in samples[0]["metrics"] if samples else ():
        values = [_outcome(sample[metric]) for sample in samples]
        for sample, value in zip(samples, values, strict=True):
            scores.outcomes.append((task, int(sample["doc_id"]), metric, value))
        mean, stderr = fmean(values), mean_stderr(values)
        if metric == "perplexity":  # its outcomes are log-likelihoods; delta method
            mean = math.exp(-mean)
            stderr = None if stderr is None else mean * stderr
        scores.metrics.append(Metric(task, metric, mean, stderr, len(values)))


def _outcome(value: Any) -> float:
    """A document's value of a metric; of (value, weight) pairs the value per unit of weight."""
    if isinstance(value, list | tuple):
        return float(value[0]) / float(value[1])
    return float(value)


def _aggregate(group: str, metrics: Sequence[Metric]) -> list[Metric]:
    """Means over the documents of all tasks of a group, as lm-eval weights them."""
    found: dict[str, list[Metric]] = {}
    for m in metrics:
        found.setdefault(m.metric, []).append(m)
    combined = []
    for metric, parts in found.items():
        n = sum(p.n for p in parts)
        value = sum(p.value * p.n for p in parts) / n
        errors = [p.stderr * p.n for p in parts if p.stderr is not None]
        stderr = math.sqrt(sum(e * e for e in errors)) / n if errors else None
        combined.append(Metric(group, metric, value, stderr, n))
    return combined


@contextmanager
def redirected_datasets(mirror: Path | None, demo: Path | None) -> Iterator[None]:
    """Let lm-eval's `load_dataset` find hub ids in the mirror, and `demo:` files in the demo."""
    import datasets

    original = datasets.load_dataset

    def load_dataset(path: str, *args: Any, **keywords: Any) -> Any:
        if demo is not None and path == "json":
            keywords["data_files"] = {
                split: str(demo / file.removeprefix("demo:")) if file.startswith("demo:") else file
                for split, file in keywords["data_files"].items()
            }
        elif mirror is not None and path.count("/") == 1 and not Path(path).exists():
            if not (mirror / path).is_dir():
                raise FileNotFoundError(
                    f"evaluation dataset {path} is not in the mirror: no folder {mirror / path}"
                )
            path = str(mirror / path)
        return original(path, *args, **keywords)

    with mock.patch.object(datasets, "load_dataset", load_dataset):
        yield


def corpus_perplexity(
    model: PreTrainedModel, name: str, windows: Sequence[Sequence[int]], text_bytes: int | None
) -> Scores:
    """exp of the mean negative log-likelihood over all predicted tokens of consecutive windows.

    Args:
        model: the model. name: of the text.
        windows: token ids; the first token of each is context only.
        text_bytes: length of the text in UTF-8, for bits per byte; None where it was cut.
    """
    losses = window_losses(model, windows)
    counts = [len(w) - 1 for w in windows]
    total = sum(counts)
    mean = sum(losses) / total
    # the windows as clusters: the ratio estimator's linearised residuals
    residuals = [loss - mean * count for loss, count in zip(losses, counts, strict=True)]
    spread = mean_stderr(residuals)
    stderr = None if spread is None else spread * len(windows) / total
    perplexity = math.exp(mean)
    scores = Scores()
    error = None if stderr is None else perplexity * stderr
    scores.metrics.append(Metric(name, "perplexity", perplexity, error, total))
    scores.metrics.append(Metric(name, "loss", mean, stderr, total))
    if text_bytes:
        bits = sum(losses) / math.log(2) / text_bytes
        scores.metrics.append(Metric(name, "bits_per_byte", bits, None, total))
    for i, (loss, count) in enumerate(zip(losses, counts, strict=True)):
        scores.outcomes.append((name, i, "loss", loss / count))
    return scores


def row_perplexity(model: PreTrainedModel, name: str, rows: Sequence[Sequence[int]]) -> Scores:
    """Arithmetic mean of the perplexities of texts, each by itself (Ji et al. 2025, for Alpaca).

    Texts of fewer than two tokens predict nothing and do not count. `corpus_perplexity` beside it
    weighs tokens instead of texts.
    """
    rows = [row for row in rows if len(row) > 1]
    losses = window_losses(model, rows)
    means = [loss / (len(row) - 1) for loss, row in zip(losses, rows, strict=True)]
    values = [math.exp(mean) for mean in means]
    total = sum(len(row) - 1 for row in rows)
    scores = Scores()
    scores.metrics = [
        Metric(name, "perplexity", fmean(values), mean_stderr(values), len(rows)),
        Metric(name, "corpus_perplexity", math.exp(sum(losses) / total), None, total),
        Metric(name, "loss", fmean(means), mean_stderr(means), len(rows)),
    ]
    scores.outcomes = [(name, i, "loss", mean) for i, mean in enumerate(means)]
    return scores
