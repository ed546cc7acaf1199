"""How fast requests are scored: `python -m tests.bench.evaluation`.

Random weights and random tokens in the shapes of three tasks, through lm-eval's own HF model,
through plain batches that project only what is scored, and through rows that share what they begin
with. The floor is the time of the matrix products alone that the shared form needs, each measured
by itself on the device: what rows would take if all else were free.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from jobs.evaluate.loglikelihood import LogLikelihoods, Result
from jobs.evaluate.rows import NONE, Group, Scored, cut_request, groups_of

Pair = tuple[list[int], list[int]]
"""Context and continuation."""

SHAPES = ("hellaswag", "mmlu", "boolq")

MAX_LENGTH = 2048
"""Most tokens of a request."""


def pairs(shape: str, vocabulary: int, scale: float) -> list[Pair]:
    """Requests in the shape of a task; `scale` 1 is a thousand questions or so.

    hellaswag: 1,000 contexts of about 80 tokens, four continuations of about 25. mmlu: 10 subjects
    of 100 questions of about 90 tokens after 5 examples of about 650, four choices of one token.
    boolq: 1,000 contexts of about 170 tokens, two choices of one token.
    """
    number = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [number.randrange(vocabulary) for _ in range(count)]

    def about(count: int) -> int:
        return number.randint(count * 3 // 4, count * 5 // 4)

    questions = max(4, round(1000 * scale))
    if shape == "hellaswag":
        contexts = [tokens(about(80)) for _ in range(questions)]
        return [(c, tokens(about(25))) for c in contexts for _ in range(4)]
    if shape == "mmlu":
        subjects = [tokens(about(650)) for _ in range(max(1, round(10 * scale)))]
        each = questions // len(subjects)
        contexts = [s + tokens(about(90)) for s in subjects for _ in range(each)]
        choices = [tokens(1) for _ in range(4)]
        return [(c, choice) for c in contexts for choice in choices]
    contexts = [tokens(about(170)) for _ in range(questions)]
    choices = [tokens(1) for _ in range(2)]
    return [(c, choice) for c in contexts for choice in choices]


def random_model(size: str) -> PreTrainedModel:
    """Llama with random weights: in the shape of 7B in bfloat16, or small in float32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4}
    config = LlamaConfig(
        **({} if size == "7b" else small | {"num_attention_heads": 8}), max_position_embeddings=2048
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if size == "7b" else torch.float32)
    torch.manual_seed(0)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def timed(run: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


@torch.no_grad()
def floor_seconds(model: PreTrainedModel, requests: list[Scored]) -> float:
    """Seconds of the matrix products of the shared form, at the rate of each shape measured."""
    groups = groups_of(requests)
    tokens = sum(len(r) - len(g.prefix) for g in groups for r in g.rows)
    tokens += sum(len(g.prefix) for g in groups)
    scored = len({(r.tokens.tobytes(), p) for r in requests for p in range(-len(r.wanted), 0)})
    head = model.get_output_embeddings()
    total = 0.0
    rates: dict[tuple[int, int], float] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            rows, columns = module.weight.shape
            if (rows, columns) not in rates:
                rates[rows, columns] = _product_seconds(module)
            total += rates[rows, columns] * (scored if module is head else tokens)
    return total


def _product_seconds(module: nn.Linear, tokens: int = 16_384) -> float:
    """Seconds a token."""
    weight = module.weight
    tokens = tokens if weight.is_cuda else 1024
    x = torch.randn(tokens, weight.shape[1], dtype=weight.dtype, device=weight.device)
    once = timed(lambda: module(x), 3)
    count = max(1, round(0.3 / once))  # so long that the clocks are those of steady work

    def many() -> None:
        for _ in range(count):
            module(x)

    return timed(many, 2) / count / tokens


class Plain(LogLikelihoods):
    """Every request a sequence of its own."""

    @torch.no_grad()
    def __call__(self, requests: list[Scored]) -> list[tuple[float, bool]]:  # type: ignore[override]
        """Results, by separate sequences in padded batches."""
        results = [(0.0, False)] * len(requests)
        rows = [a for g in groups_of(requests) for row in g.rows for a in row.separate()]
        with self.forward.by_rows():
            self._score_groups([Group(NONE, rows)], requests, results)
        return results


def harness(
    model: PreTrainedModel, requests: list[Pair], batch: int = 64, **options: Any
) -> Callable[[], list[Result]] | None:
    """lm-eval's own HF model, None where it is not installed; `options` are its own."""
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        print(f"lm-eval's own model is left out: {error}")
        return None
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {str(i): i for i in range(model.config.vocab_size)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="0")), eos_token="1"
    )
    options = {"batch_size": batch, "max_length": MAX_LENGTH} | options
    lm = HFLM(pretrained=model, tokenizer=tokenizer, **options)
    triples = [((str(c), str(w)), c, w) for c, w in requests]
    return lambda: lm._loglikelihood_tokens(triples, disable_tqdm=True)


def measure(model: PreTrainedModel, shape: str, scale: float, repeats: int) -> None:
    """Print the table of one shape."""
    raw = pairs(shape, model.config.vocab_size, scale)
    requests = [cut_request(context, wanted, MAX_LENGTH) for context, wanted in raw]
    floor = floor_seconds(model, requests)

    def show(way: str, seconds: float) -> None:
        rate = len(raw) / seconds
        print(f"{shape:10} {way:28} {rate:10.0f} {seconds:8.2f} {floor / seconds:8.0%}", flush=True)

    show("floor: matrix products alone", floor)
    shared = LogLikelihoods(model)
    first = timed(lambda: shared(requests), 1)  # compiles, and checks itself
    show("shared rows", timed(lambda: shared(requests), repeats))
    print(f"{'':10} first call {first:.1f} s; {shared.notes}", flush=True)
    show("plain, scored logits only", timed(lambda: Plain(model)(requests), 1))
    slow = harness(model, raw)
    if slow is not None:
        show("lm-eval HF model, batch 64", timed(slow, 1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.evaluation", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--size", choices=["7b", "small"], help="default: 7b where there is a GPU")
    parser.add_argument("--scale", type=float, help="1 = a thousand questions (default on a GPU)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    size = options.size or ("7b" if cuda else "small")
    scale = options.scale or (1.0 if cuda else 0.02)
    device = torch.cuda.get_device_name() if cuda else "CPU"
    model = random_model(size)
    print(f"{device}, Llama {size} with random weights, {model.dtype}, torch {torch.__version__}")
    print(f"{'shape':10} {'way':28} {'requests/s':>10} {'seconds':>8} {'of floor':>8}")
    for shape in options.shapes:
        measure(model, shape, scale, options.repeats)


if __name__ == "__main__":
    main()
