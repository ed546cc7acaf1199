"""Evaluation of one model on lm-eval tasks, as metrics and per-document outcomes."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import (
    bits_per_byte,
    f1_score,
    matthews_corrcoef,
    mean,
    perplexity,
    weighted_perplexity,
)
from lm_eval.api.task import Task
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from jobs.evaluate.perplexity import jackknife_stderr, mean_stderr, ratio
from jobs.evaluate.rows import cut_request
from jobs.evaluate.scorer import Scorer
from jobs.evaluate.scores import Metric, Scores
from jobs.evaluate.task_requests import OTHER_SEED, Prepared, TaskGroup

GENERATED_TOGETHER = 16
"""Prompts that text is generated for together."""

Responses = dict[tuple[str, int, int], list[Any]]
"""What the model gave for a request, by task, document and number; one for each repeat."""


class TaskRunner:
    """Runs lm-eval tasks on one model."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, bos: bool
    ) -> None:
        self.max_length = max_length
        self.lm = Scorer(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=GENERATED_TOGETHER,
            max_length=max_length,
            add_bos_token=bos,
        )

    def run(self, prepared: Prepared) -> Scores:
        """Score every request, and from them every document."""
        scores = Scores()
        responses = self._score(prepared, scores) | self._generate(prepared, scores)
        versions = {}
        for name, task in prepared.tasks.items():
            own = {key[1:]: value for key, value in responses.items() if key[0] == name}
            _add_task(scores, name, task, own)
            versions[name] = task.VERSION
        for name, group in prepared.groups.items():
            scores.metrics += aggregate(name, group, scores.metrics)
        scores.notes["task_versions"] = versions
        return scores

    def _score(self, prepared: Prepared, scores: Scores) -> Responses:
        """Log-likelihoods; windows of one text are added up."""
        rows = [row for row in prepared.rows if row["kind"] != "generate_until"]
        if not rows:
            return {}
        likelihoods = self.lm.likelihoods
        found = likelihoods(
            [cut_request(row["context"], row["continuation"], self.max_length) for row in rows]
        )
        scores.notes |= likelihoods.notes
        responses: Responses = {}
        for row, (value, greedy) in zip(rows, found, strict=True):
            key = (row["task"], row["document"], row["number"])
            if row["kind"] == "loglikelihood_rolling":
                responses[key] = [value + (responses[key][0] if key in responses else 0.0)]
                continue
            responses[key] = [(value, greedy)]
            scores.outcomes.append((key[0], key[1], f"loglikelihood_{key[2]}", value))
        return responses

    def _generate(self, prepared: Prepared, scores: Scores) -> Responses:
        """Text, by lm-eval's own HF model."""
        rows = [row for row in prepared.rows if row["kind"] == "generate_until"]
        if not rows:
            return {}
        repeats = {name: task.config.repeats or 1 for name, task in prepared.tasks.items()}
        requests = [
            (row, Instance("generate_until", {}, (row["prompt"], json.loads(row["options"])), 0))
            for row in rows
            for _ in range(repeats[row["task"]])
        ]
        torch.manual_seed(OTHER_SEED)  # some tasks sample
        texts = self.lm.generate_until([instance for _, instance in requests], disable_tqdm=True)
        scores.notes |= {"generated_together": self.lm.batch_size}
        responses: Responses = defaultdict(list)
        for (row, _), text in zip(requests, texts, strict=True):
            responses[row["task"], row["document"], row["number"]].append(text)
        return dict(responses)


def _add_task(
    scores: Scores, name: str, task: Task, responses: dict[tuple[int, int], list[Any]]
) -> None:
    """The metrics and outcomes of one task, by its own scoring of documents."""
    documents = list(task.task_docs)
    instances = []
    for (document, number), values in sorted(responses.items()):
        metadata = (name, document, len(values))
        doc = documents[document]
        instances.append(Instance("loglikelihood", doc, (), number, metadata, list(values)))
    task._instances = instances
    task.apply_filters()
    filters = list(instances[0].filtered_resps)
    for which in filters:
        values_of: dict[str, list[tuple[int, Any]]] = defaultdict(list)
        for document, group in groupby(instances, key=lambda i: i.doc_id):
            results = [instance.filtered_resps[which] for instance in group]
            for metric, value in task.process_results(documents[document], results).items():
                values_of[metric].append((document, value))
        for metric, values in values_of.items():
            # the first filter is the plain one; lm-eval names the others so
            label = metric if which == filters[0] else f"{metric},{which}"
            aggregation = task.aggregation().get(metric, mean)
            for document, value in values:
                scores.outcomes.append((name, document, label, _outcome(value, aggregation)))
            figure = _figure([value for _, value in values], aggregation)
            scores.metrics.append(Metric(name, label, *figure, len(values)))


Aggregation = Callable[[Sequence[Any]], float]


def _figure(values: Sequence[Any], aggregation: Aggregation) -> tuple[float, float | None]:
    """The aggregate over documents, by lm-eval's function, and its standard error."""
    value = float(aggregation(values))
    if aggregation is mean:
        return value, mean_stderr([float(v) for v in values])
    if aggregation is perplexity:  # of mean log-likelihoods; delta method
        spread = mean_stderr([float(v) for v in values])
        return value, None if spread is None else value * spread
    if aggregation in (weighted_perplexity, bits_per_byte):
        spread = ratio([float(v[0]) for v in values], [float(v[1]) for v in values])[1]
        scale = value if aggregation is weighted_perplexity else 1 / math.log(2)
        return value, None if spread is None else spread * scale
    return value, jackknife_stderr(lambda some: float(aggregation(some)), values)


def _outcome(value: Any, aggregation: Aggregation) -> float:
    """A document's value of a metric.

    Of (value, weight) pairs the value per unit of weight; of (gold, predicted) pairs, as f1 and
    mcc have them, whether they are equal.
    """
    if isinstance(value, bool | int | float) or hasattr(value, "item"):
        return float(value)
    if aggregation in (weighted_perplexity, bits_per_byte):
        return float(value[0]) / float(value[1])
    if aggregation in (f1_score, matthews_corrcoef):
        return float(value[0] == value[1])
    return float(aggregation([value]))


def aggregate(name: str, group: TaskGroup, metrics: Sequence[Metric]) -> list[Metric]:
    """A group's metrics from those of its tasks, weighted as its file says: by size, or alike."""
    found: dict[str, list[Metric]] = defaultdict(list)
    for metric in metrics:
        if metric.task in group.tasks:
            found[metric.metric].append(metric)
    combined = []
    for label, parts in found.items():
        weights = [1 if label in group.unweighted else part.n for part in parts]
        total = sum(weights)
        value = sum(w * p.value for w, p in zip(weights, parts, strict=True)) / total
        errors = [w * p.stderr for w, p in zip(weights, parts, strict=True) if p.stderr is not None]
        stderr = math.hypot(*errors) / total if errors else None
        combined.append(Metric(name, label, value, stderr, sum(p.n for p in parts)))
    return combined
