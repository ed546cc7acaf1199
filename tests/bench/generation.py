"""Tokens a second of self-generation: `python -m tests.bench.generation`.

On a GPU: a random model of Llama-2-7B's shape in bfloat16, prefixes of 16 tokens, the study's
decoding settings; `generate` as the study calls it, `generate` with a static cache and compilation,
and ours at several batches, each with its fraction of the floor, the time that weights, arithmetic
and cache allow at the rates that a copy and a matrix product reach on this very device. Without a
GPU: a tiny model, so that the table can be tested.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from calib.attention import attend
from calib.fast_decoder import FastDecoder
from calib.spec import GenerateSpec
from calib.writer import Writer

PREFIX = 16
SHAPES = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 512,
        "max_position_embeddings": 512,
    },
}


def random_model(shape: str) -> LlamaForCausalLM:
    """A random model of one of `SHAPES`: bfloat16 on a GPU, else float32."""
    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    config = LlamaConfig(**SHAPES[shape], dtype=torch.bfloat16 if gpu else torch.float32)
    before = torch.get_default_dtype()
    torch.set_default_dtype(config.dtype)
    with torch.device("cuda" if gpu else "cpu"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def study(batch: int) -> GenerateSpec:
    """The study's decoding settings."""
    return GenerateSpec.model_validate({"from": "text", "batch": batch})


def prefixes(model: LlamaForCausalLM, batch: int) -> Tensor:
    """Random prefixes, int64 [batch, PREFIX]."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, model.config.vocab_size, (batch, PREFIX), generator=generator)
    return ids.to(model.device)


# -- the floor


@dataclass(frozen=True)
class Rates:
    """What the device reaches: bytes a second of a copy, operations a second of a product."""

    memory: float
    arithmetic: float

    def floor_seconds(self, model: LlamaForCausalLM, batch: int, new: int) -> float:
        """Least time for `new` steps and the prefix: weights or arithmetic, and the cache."""
        c = model.config
        weights = sum(p.numel() for n, p in model.named_parameters() if "embed" not in n)
        size = model.dtype.itemsize
        step = max(weights * size / self.memory, 2 * weights * batch / self.arithmetic)
        token = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * size
        cache = batch * token * sum(range(PREFIX, PREFIX + new)) / self.memory
        prefix = max(weights * size / self.memory, 2 * weights * batch * PREFIX / self.arithmetic)
        return new * step + cache + prefix


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Rates of a large copy, reading and writing counted, and of a large product of random data."""
    side = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = seconds(lambda: a @ b)
    source = torch.randn(64 * side * side, device=device, dtype=dtype)
    target = source.clone()
    copy = timed(lambda: target.copy_(source), 20)
    return Rates(2 * source.nbytes / copy, 2 * side**3 / product)


def seconds(run: Callable[[], Any], repeats: int = 7) -> float:
    """Median time of a call; on a GPU of its replay as a graph, so without the host's part."""
    if torch.cuda.is_available():
        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return timed(graph.replay, repeats)
    run()
    return timed(run, repeats)


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, in seconds."""
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def wait() -> None:
    """Until the device is idle."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# -- rows of the table


def by_generate(
    model: LlamaForCausalLM, batch: int, new: int, static: bool = False
) -> tuple[float, float]:
    """Seconds of `generate` of transformers, called as the study does, and of its first call.

    Args:
        model: what writes.
        batch: texts.
        new: tokens a text.
        static: with a static cache; on a GPU its step is compiled then, in the first call.
    """
    ids, settings = prefixes(model, batch), study(batch)
    more = {"cache_implementation": "static"} if static else {}

    def run(new: int) -> None:
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            repetition_penalty=settings.repetition_penalty,
            max_new_tokens=new,
            eos_token_id=None,
            pad_token_id=0,
            **more,
        )

    # a static cache is made for its length, and what is compiled is for that cache
    first = timed(lambda: run(new if static else 4), 1)
    passed = timed(lambda: run(new), 1)
    for name in (
        "_cache",
        "_previous_max_cache_length",
        "_compiled_call",
    ):  # what `generate` keeps on the model
        vars(model).pop(name, None)
    return passed, first


def by_writer(model: LlamaForCausalLM, batch: int, new: int) -> tuple[float, float, str]:
    """Seconds of our writer, seconds to make it ready, and its path."""
    ids = prefixes(model, batch)
    start = time.perf_counter()
    writer = Writer(model, study(batch), PREFIX, new, None)
    writer.prepare(ids)
    wait()
    ready = time.perf_counter() - start
    return timed(lambda: writer.write(ids, range(batch)), 1), ready, writer.path


def split(model: LlamaForCausalLM, batch: int, new: int) -> dict[str, float]:
    """Seconds of the parts of one step in the middle of a batch, each recorded by itself."""
    ids = prefixes(model, batch)
    writer = Writer(model, study(batch), PREFIX, new, None)
    decoder, sampler = writer.decoder, writer.sampler
    assert isinstance(decoder, FastDecoder)
    writer.prepare(ids)
    c = model.config
    like = {"device": model.device, "dtype": model.dtype}
    wide = torch.randn(batch, c.hidden_size, **like)
    inner = torch.randn(batch, 2 * c.intermediate_size, **like)
    mixed = torch.randn(batch, decoder.blocks[0].mix_in.out_features, **like)
    logits = torch.randn(batch, c.vocab_size, **like)
    narrow = decoder.blocks[0].narrow
    values = mixed[:, -narrow:]
    queries, keys = (
        x.contiguous().view(batch, -1, c.head_dim)
        for x in mixed[:, :-narrow].split([mixed.shape[1] - 2 * narrow, narrow], 1)
    )
    for block in decoder.blocks:
        block.keys.normal_()
        block.values.normal_()
    length = PREFIX + new // 2
    decoder.length.fill_(length)

    def products() -> None:
        for block in decoder.blocks:
            block.mix_in(wide)
            block.mix_out(wide)
            block.mlp_in(wide)
            block.mlp_out(inner[:, : c.intermediate_size])
        decoder.head(wide)

    def attention() -> None:
        for block in decoder.blocks:
            attend(queries, keys, values, block.keys, block.values, decoder.length, block.scaling)

    def rest() -> None:
        cosine = decoder.cosines[:1]
        for block in decoder.blocks:
            decoder._add_and_norm(wide, wide, block.mix_norm)
            decoder._rotate(mixed[:, :-narrow], narrow, (None, None), cosine, cosine)
            decoder._add_and_norm(wide, wide, block.mlp_norm)
            decoder._gate(inner)

    def sampling() -> None:
        sampler.position.fill_(new // 2)
        sampler.step(logits)

    def step() -> None:
        decoder.length.fill_(length)
        decoder.step(sampler.tokens)

    parts = {"products": products, "attention": attention, "norms, rotation, gate": rest}
    parts |= {"sampling": sampling, "step but sampling": step}
    return {name: seconds(run) for name, run in parts.items()}


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.generation", description=__doc__)
    gpu = torch.cuda.is_available()
    few = [64, 128, 256, 384, 768] if gpu else [4]
    parser.add_argument("--shape", choices=SHAPES, default="7b" if gpu else "tiny")
    parser.add_argument("--new", type=int, default=256 if gpu else 16, help="new tokens a text")
    for name, batches in {
        "--generate": few[:1],
        "--static": [64, 256] if gpu else [4],
        "--batches": few,
        "--long": [120] if gpu else [2],  # with eight times the new tokens
        "--split": [768] if gpu else [4],
    }.items():
        parser.add_argument(name, type=int, nargs="*", default=batches)
    options = parser.parse_args(arguments)
    with torch.no_grad():
        table(options)
    return 0


def table(options: argparse.Namespace) -> None:
    """Measure and print."""
    model = random_model(options.shape)
    rates = measure_rates(model.device, model.dtype)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(
        f"{name}: copy {rates.memory / 1e12:.2f} TB/s, product {rates.arithmetic / 1e12:.1f} "
        f"TFLOP/s; {options.shape}, prefix {PREFIX}"
    )
    names = ("batch", "new", "seconds", "tokens/s", "ms/step", "of floor")
    print("how".ljust(10) + "".join(name.rjust(10) for name in names) + "  notes", flush=True)

    def row(how: str, batch: int, new: int, passed: float, notes: str) -> None:
        floor = rates.floor_seconds(model, batch, new)
        speed, step = batch * new / passed, 1e3 * passed / new
        print(
            f"{how:<10}{batch:>10}{new:>10,}{passed:>10.2f}{speed:>10,.0f}{step:>10.2f}"
            f"{floor / passed:>10.0%}  {notes}",
            flush=True,
        )

    for batch in options.generate:
        row("generate", batch, options.new, by_generate(model, batch, options.new)[0], "")
    long = [(batch, 8 * options.new) for batch in options.long]
    for batch, new in [*((batch, options.new) for batch in options.batches), *long]:
        clear()
        passed, ready, path = by_writer(model, batch, new)
        memory = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0
        row("ours", batch, new, passed, f"{path}; ready in {ready:.1f} s; peak {memory:.0f} GB")
    for batch in options.static:
        clear()
        passed, first = by_generate(model, batch, options.new, static=True)
        row("static", batch, options.new, passed, f"generate, compiled; first call {first:.1f} s")
    for batch in options.split:
        clear()
        print(f"one step at batch {batch}, {PREFIX + options.new // 2} tokens in the cache, ms:")
        for part, took in split(model, batch, options.new).items():
            print(f"  {part:<24}{1e3 * took:>8.2f}", flush=True)


def clear() -> None:
    """Let go of the writer before: its memory, and what was compiled for its batch."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    raise SystemExit(main())
