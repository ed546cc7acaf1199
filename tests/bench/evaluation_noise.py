"""How far apart two right answers are: `python -m tests.bench.evaluation_noise`.

In bfloat16 lm-eval's own HF model differs from itself when its batch size changes. This measures
that difference, between batch sizes 1 and 64, beside the one between it and our scorer, and the
distance of each from the same weights in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from jobs.evaluate.loglikelihood import LogLikelihoods, Result
from jobs.evaluate.rows import cut_request
from tests.bench.evaluation import MAX_LENGTH, Pair, harness, pairs, random_model

SOFTMAX = {"lm-eval": {}, "lm-eval, float32 softmax": {"softmax_dtype": "float32"}}
"""lm-eval's model by default rounds every log-probability to the dtype of the weights."""


def results_of(model: PreTrainedModel, requests: list[Pair]) -> dict[str, list[Result]]:
    """Log-likelihoods by every way."""
    cut = [cut_request(c, w, MAX_LENGTH) for c, w in requests]
    found = {}
    for name, options in SOFTMAX.items():
        for batch in (1, 64):
            run = harness(model, requests, batch, **options)
            if run is not None:
                found[f"{name} {batch}"] = run()
    found["ours"] = LogLikelihoods(model)(cut)
    scorer = LogLikelihoods(model)
    scorer.forward.tokens //= 16
    found["ours, batch / 16"] = scorer(cut)
    dtype = model.dtype
    exact = LogLikelihoods(model.float())
    exact.forward.compiled = False
    found["ours, model in float32"] = exact(cut)
    model.to(dtype)  # what came from it is in it again
    return found


def decisions(results: Sequence[Result], starts: Sequence[int]) -> list[int]:
    """The most likely choice of each question; its results begin at `starts`, an end follows."""
    values = [value for value, _ in results]
    return [values[a:b].index(max(values[a:b])) for a, b in pairwise(starts)]


def compare(
    found: dict[str, list[Result]], starts: Sequence[int], answers: Sequence[int] | None
) -> None:
    """Print how far apart each two ways are, and the accuracy of each."""
    ways = list(found)
    chosen = {way: decisions(results, starts) for way, results in found.items()}
    questions = len(starts) - 1
    print(f"{'':58} {'decisions':>12} {'greedy':>12} {'mean |d|':>9} {'max |d|':>9}")
    for i, one in enumerate(ways):
        for other in ways[i + 1 :]:
            a, b = found[one], found[other]
            apart = sum(x != y for x, y in zip(chosen[one], chosen[other], strict=True))
            greedy = sum(x[1] != y[1] for x, y in zip(a, b, strict=True))
            gaps = [abs(x[0] - y[0]) for x, y in zip(a, b, strict=True)]
            print(
                f"{one + ' : ' + other:58} {apart:5} of {questions:4} {greedy:5} of {len(a):4} "
                f"{statistics.fmean(gaps):9.4f} {max(gaps):9.4f}",
                flush=True,
            )
    if answers is not None:
        for way in ways:
            right = sum(c == a for c, a in zip(chosen[way], answers, strict=True))
            print(f"accuracy {way:33} {right:5} of {questions:4}", flush=True)


def read_questions(path: Path) -> tuple[list[Pair], list[int], list[int]]:
    """Requests, where those of each question begin, and the answers, of a JSONL file.

    A line holds the token ids of a question: `context`, `choices`, and the number of its `answer`.
    """
    requests: list[Pair] = []
    starts, answers = [0], []
    for line in path.read_text("utf-8").splitlines():
        question = json.loads(line)
        requests += [(question["context"], choice) for choice in question["choices"]]
        starts.append(len(requests))
        answers.append(question["answer"])
    return requests, starts, answers


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.evaluation_noise")
    parser.add_argument("--size", choices=["7b", "small"], default="7b", help="of random weights")
    parser.add_argument("--scale", type=float, default=0.2, help="1 = a thousand questions")
    parser.add_argument("--model", type=Path, help="a folder: real weights instead, in bfloat16")
    parser.add_argument("--questions", type=Path, help="token ids for it, see `read_questions`")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.model is None:
        model = random_model(options.size).bfloat16()
        requests = pairs("hellaswag", model.config.vocab_size, options.scale)
        starts, answers = list(range(0, len(requests) + 1, 4)), None
    else:
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
        requests, starts, answers = read_questions(options.questions)
    model = model.to(device).eval()
    print(f"{options.model or options.size} on {device}: {len(requests)} requests")
    compare(results_of(model, requests), starts, answers)


if __name__ == "__main__":
    main()
