"""Time of pruning, beside the published loops and the floor: `python -m tests.bench.pruning`.

A random Llama is pruned, its blocks on the host to begin with. The floor of a sequential method is
two forward passes over all blocks, batched as large as ours and as transformers runs them. The
published loops are those of clones of their repositories, see `tests.bench.published`; they need
not run on as many blocks, being compared by the block, and find all of them on the device, where
ours brings each from the host and takes it back; but for a method without data, whose blocks settle
on the device beforehand, as they do in a cell. First use (kernels are compiled) is timed on its own
and not part of what is compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig

from prune.gradients import gradient_norms
from prune.loop import prune_model
from prune.model.load import device, stream
from prune.model.weights import BlockWeights
from prune.pattern import Pattern
from prune.recipe import parse
from tests.bench.published import LOOPS, clone_of, loop_of

SHAPES = {  # hidden, intermediate, heads, key-value heads, blocks, vocabulary
    "7b": (4096, 11008, 32, 32, 32, 32000),
    "70b": (8192, 28672, 64, 8, 80, 32000),
    "tiny": (64, 176, 4, 2, 2, 512),
}
METHODS = tuple(LOOPS)
PATTERNS = ("unstructured", "2:4")
GIB = 2**30


@dataclass
class Setting:
    """What is pruned."""

    shape: str
    blocks: int
    size: int
    seqlen: int
    device: torch.device
    heldout: int = 0

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def all_blocks(self) -> int:
        return SHAPES[self.shape][4]

    def windows(self, size: int, seed: int = 0) -> Tensor:
        draws = torch.Generator().manual_seed(seed)
        return torch.randint(SHAPES[self.shape][5], (size, self.seqlen), generator=draws)


class Subject:
    """A random model that can be had dense again and again."""

    def __init__(self, setting: Setting) -> None:
        hidden, intermediate, heads, kv, _, vocabulary = SHAPES[setting.shape]
        self.setting = setting
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=setting.blocks,
            num_attention_heads=heads,
            num_key_value_heads=kv,
            max_position_embeddings=max(2048, setting.seqlen),
        )
        from accelerate import init_empty_weights

        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, dtype=setting.dtype)
        self.model: Any = model.eval()
        draws = torch.Generator(setting.device).manual_seed(0)
        self.dense = {}
        for name, x in self.model.named_parameters():
            noise = torch.randn(
                x.shape, generator=draws, device=setting.device, dtype=torch.float32
            )
            value = 1 + 0.1 * noise if x.dim() == 1 else 0.02 * noise
            self.dense[name] = value.to(setting.dtype).cpu()

    def fresh(self, on: torch.device | None = None) -> BlockWeights | None:
        """Make the model dense; its blocks come from the host, or all lie on a device."""
        for name, x in self.dense.items():
            owner, _, leaf = name.rpartition(".")
            whole = x.clone() if on is None and self.setting.device.type == "cpu" else x
            parameter = nn.Parameter(whole if on is None else x.to(on), requires_grad=False)
            self.model.get_submodule(owner)._parameters[leaf] = parameter
        if on is not None:
            self.model.to(on)
            return None
        return stream(self.model, self.setting.device)


def timed(device_: torch.device, work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and the most memory on the device (GiB) while `work` ran."""
    if device_.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    work()
    if device_.type == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / GIB
    else:
        peak = float("nan")
    return time.perf_counter() - started, peak


def ours(subject: Subject, method: str, pattern: str) -> tuple[float, float, float]:
    """`prune_model` from dense blocks to pruned ones: seconds, GiB, and seconds of gradients."""
    setting, gradients, recipe = subject.setting, [0.0], parse(method)
    weights = subject.fresh()
    assert weights is not None
    if not recipe.needs_data:
        weights.settle()
    ids = setting.windows(setting.size) if recipe.needs_data else None
    heldout = setting.windows(setting.heldout, seed=1) if setting.heldout else None

    def norms(*arguments: Any) -> Any:
        started = time.perf_counter()
        found = gradient_norms(*arguments)
        gradients.append(time.perf_counter() - started)
        return found

    with mock.patch("prune.block_loop.gradient_norms", norms):
        seconds, peak = timed(
            setting.device,
            lambda: prune_model(
                subject.model,
                recipe,
                Fraction(1, 2),
                Pattern.parse(pattern),
                ids,
                heldout_ids=heldout,
                weights=weights,
            ),
        )
    return seconds, peak, sum(gradients)


def first_use(setting: Setting, method: str, pattern: str) -> float:
    """Seconds of a first, small pruning beyond those of a second: kernels are compiled in it."""
    size = min(setting.size, max(1, 16384 // setting.seqlen))
    small = Subject(Setting(setting.shape, 1, size, setting.seqlen, setting.device))
    return max(0.0, ours(small, method, pattern)[0] - ours(small, method, pattern)[0])


def floor(subject: Subject, batch: int) -> tuple[float, float]:
    """Two forward passes over the blocks, all on the device, as transformers runs them."""
    setting, model = subject.setting, subject.model
    subject.fresh(setting.device)
    ids = setting.windows(setting.size).to(setting.device)
    hidden = model.model.embed_tokens(ids)
    places = torch.arange(setting.seqlen, device=setting.device)[None]
    rotations = model.model.rotary_emb(hidden[:1], places)

    @torch.no_grad()
    def passes(blocks: Iterable[nn.Module]) -> None:
        for block in blocks:
            for _ in range(2):
                for start in range(0, setting.size, batch):
                    part = hidden[start : start + batch]
                    answer = block(part, attention_mask=None, position_embeddings=rotations)
            hidden[start : start + batch] = answer

    passes(model.model.layers[:1])
    return timed(setting.device, lambda: passes(model.model.layers))


def published(subject: Subject, clone: Path, method: str, pattern: str) -> tuple[float, float]:
    """Seconds and peak memory of the published loop of a method."""
    setting = subject.setting
    subject.fresh(setting.device)
    with loop_of(method, clone, subject.model, setting.windows(setting.size), pattern) as loop:
        return timed(setting.device, loop)


ON_CPU = ("wanda", "dsnot", "pruner-zero")
"""Published loops that run without a GPU; the others ask for one by name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pruning", description=__doc__)
    parser.add_argument(
        "--published",
        type=Path,
        nargs="+",
        default=(),
        metavar="DIR",
        help="clones of the published repositories, locuslab/wanda first",
    )
    parser.add_argument("--shape", choices=SHAPES, help="default: 7b on a GPU, else tiny")
    parser.add_argument("--blocks", type=int, help="how many blocks; default: all of the shape")
    parser.add_argument("--published-blocks", type=int, help="blocks for the published loops")
    parser.add_argument("--size", type=int, help="windows; default: 128 on a GPU, else 8")
    parser.add_argument("--seqlen", type=int, help="tokens of a window; default: 2048, else 32")
    parser.add_argument("--heldout", type=int, default=0, help="held-out windows; default: none")
    parser.add_argument("--methods", nargs="+", default=METHODS[:2], choices=METHODS)
    parser.add_argument("--patterns", nargs="+", default=PATTERNS)
    options = parser.parse_args(arguments)
    where = device()
    gpu = where.type == "cuda"
    shape = options.shape or ("7b" if gpu else "tiny")
    setting = Setting(
        shape,
        options.blocks or SHAPES[shape][4],
        options.size or (128 if gpu else 8),
        options.seqlen or (2048 if gpu else 32),
        where,
        options.heldout,
    )
    print(
        f"{shape}: {setting.blocks} of {setting.all_blocks} blocks, {setting.size} x "
        f"{setting.seqlen} tokens, {setting.dtype}, "
        + (torch.cuda.get_device_name() if gpu else "CPU"),
        flush=True,
    )
    started = time.perf_counter()
    subject = Subject(setting)
    print(f"model made in {time.perf_counter() - started:.1f} s", flush=True)
    table(subject, options.methods, options.patterns, options.published, options.published_blocks)
    return 0


def table(
    subject: Subject,
    methods: Sequence[str],
    patterns: Sequence[str],
    clones: Sequence[Path],
    published_blocks: int | None,
) -> None:
    """Measure and print, each row as soon as it is known."""
    setting = subject.setting
    batch = max(1, 16384 // setting.seqlen)
    first = sum(first_use(setting, method, pattern) for method in methods for pattern in patterns)
    base, _ = floor(subject, batch)
    base /= setting.blocks
    print(f"first use of all below {first:.2f} s; floor {base:.4f} s a block", flush=True)
    short = subject
    if clones and published_blocks and published_blocks < setting.blocks:
        print(f"published loops on {published_blocks} blocks", flush=True)
        short = Subject(Setting(**{**vars(setting), "blocks": published_blocks}))
    heads = ("method", "pattern", "s/block", "all, s", "peak GiB", "published", "/published")
    print(("{:>13}" * 8).format(*heads, "/floor"), flush=True)
    for method in methods:
        for pattern in patterns:
            seconds, peak, gradients = ours(subject, method, pattern)
            theirs, clone = float("nan"), clone_of(method, clones)
            if clone is not None and (setting.device.type == "cuda" or method in ON_CPU):
                theirs = published(short, clone, method, pattern)[0] / short.setting.blocks
            rows = {method: seconds}
            if gradients:  # which the published loop reads from a file
                rows["but gradients"] = seconds - gradients
            for name, passed in rows.items():
                each = passed / setting.blocks
                figures = each, each * setting.all_blocks, peak, theirs, each / theirs, each / base
                line = f"{name:>13}{pattern:>13}" + "".join(f"{x:13.4f}" for x in figures)
                print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
