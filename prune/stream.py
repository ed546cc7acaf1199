"""Token windows on their way through the blocks of a model, dense and pruned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune.activations import Batches, allocate
from prune.calls import BlockCalls
from prune.errors import InputGram, InputSample, gram_energy
from prune.model.blocks import BlockInputs, Linear, record_block_inputs
from prune.model.weights import BlockWeights
from prune.statistics import InputStatistics

TOKENS_PER_BATCH = 4096
"""Tokens that go through a block together; keeps the matrix products large and memory small."""

TOKENS_PER_LARGE_BATCH = 16384
"""The same on the fast path, where a GPU is not filled by less."""


@dataclass
class Seen:
    """What one pass over a block tells of one distinct input.

    Attributes:
        statistics: what the pruner asked for.
        gram: for the errors; None where nobody asked, or where `statistics` or `sample` serve.
        sample: for the errors on the fast path.
    """

    statistics: InputStatistics
    gram: InputGram | None = None
    sample: InputSample | None = None

    def update(self, x: Tensor) -> None:
        """Add a batch of inputs, [..., C]."""
        self.statistics.update(x)
        if self.gram is not None:
            self.gram.update(x)
        if self.sample is not None:
            self.sample.update(x)

    @cached_property
    def _full_gram(self) -> Tensor:
        return self.statistics.gram if self.gram is None else self.gram.full()

    def relative_error(self, dense: Tensor, pruned: Tensor) -> Tensor:
        """||(W - W') X||^2 / ||W X||^2 over the inputs seen; NaN or infinite where W X is 0."""
        if self.sample is not None:
            return self.sample.energy(dense, pruned) / self.sample.energy(dense)
        gram = self._full_gram
        return gram_energy(gram, dense, pruned) / gram_energy(gram, dense)


@dataclass
class Stream:
    """The activations of some windows between two blocks.

    Attributes:
        inputs: how to call the blocks; its own `hidden` is overwritten on the way.
        hidden: inputs of the block at hand, [size, seqlen, width].
        dense: outputs of the dense block at hand once observed, same shape; on the fast path only
            where somebody needs all of them, else those of the first batch.
        fast: half precision on a GPU: large batches, statistics in float32, errors from samples.
        calls: how blocks are called on the fast path.
        device: where blocks are.
    """

    inputs: BlockInputs
    hidden: Tensor
    dense: Tensor
    fast: bool
    device: torch.device
    calls: BlockCalls = field(default_factory=BlockCalls)

    @classmethod
    def start(
        cls,
        model: PreTrainedModel,
        weights: BlockWeights,
        ids: Tensor,
        also: Iterable[int] = (),
        whole: bool = True,
    ) -> Stream:
        """The inputs of the first block for windows `ids`, [size, seqlen].

        Args:
            model: in evaluation mode.
            weights: what brings its blocks.
            ids: token windows.
            also: further batch lengths that the blocks will be called with.
            whole: the dense outputs of all windows will be needed.
        """
        device, fast = model.device, _is_fast(model)
        batch = _batch(len(ids), ids.shape[1], fast)
        inputs = record_block_inputs(model, weights, ids, batch, also, allocate)
        hidden = inputs.hidden
        if whole or not fast:
            dense = allocate(hidden.shape, hidden.dtype, device)
        else:
            dense = torch.empty_like(hidden[inputs.batches[0]], device=device)
        return cls(inputs, hidden, dense, fast, device, BlockCalls(fused=fast))

    @classmethod
    def aside(
        cls,
        model: PreTrainedModel,
        weights: BlockWeights,
        ids: Tensor,
        whole: bool,
    ) -> Stream:
        """A stream for errors alone; on the fast path, of the first batch of windows alone."""
        if _is_fast(model):
            ids = ids[: _batch(len(ids), ids.shape[1], fast=True)]
        return cls.start(model, weights, ids, (), whole)

    def fork(self) -> Stream:
        """Another stream from here, for a pass that must not move this one."""
        hidden = allocate(self.hidden.shape, self.hidden.dtype, self.device).copy_(self.hidden)
        dense = allocate(self.hidden.shape, self.hidden.dtype, self.device)
        return Stream(self.inputs, hidden, dense, self.fast, self.device, self.calls)

    @property
    def whole(self) -> bool:
        """Are the dense outputs of all windows kept?"""
        return len(self.dense) == len(self.hidden)

    @property
    def error_tokens(self) -> tuple[int, int]:
        """Tokens that errors of linears and of blocks are measured on."""
        linears = -(-self.tokens // InputSample(self.tokens).spacing) if self.fast else self.tokens
        return linears, self.dense.shape[0] * self.dense.shape[1]

    @property
    def tokens(self) -> int:
        """Tokens in all windows."""
        return self.hidden.shape[0] * self.hidden.shape[1]

    def observe(
        self,
        index: int,
        block: nn.Module,
        linears: Sequence[Linear],
        wanted: frozenset[str] = frozenset(),
        errors: bool = False,
    ) -> dict[int, Seen]:
        """Run the dense block; what was seen, by id of the module whose input it describes.

        Linears that read the same tensor (query, key and value, say) share one entry.

        Args:
            index: the place of the block in the model.
            block: the block.
            linears: those to watch.
            wanted: the statistics to gather.
            errors: gather what reconstruction errors need, too.

        Raises:
            ValueError: a linear's inputs hold NaN or infinite values; block and linear are named.
        """
        modules = list({id(x.module): x.module for x in linears}.values())
        found: dict[int, Seen] = {}
        outputs = Batches(self.dense, self.inputs.batches, self.device) if self.whole else None
        for part, hidden in Batches(self.hidden, self.inputs.batches, self.device):
            arguments = self.inputs.arguments[index][len(hidden)]
            first = part == self.inputs.batches[0]
            noted, output = self.calls.inputs(
                block, modules, hidden, arguments, outputs=self.whole or first
            )
            for sharing, x in _by_input(noted):
                seen = found.get(id(sharing[0])) or self._unseen(wanted, errors)
                seen.update(_by_window(x, len(hidden)))
                found |= {id(module): seen for module in sharing}
            if output is not None and outputs is None:
                self.dense = output
            elif output is not None and outputs is not None:
                outputs.write(part, output)
        if outputs is not None:
            outputs.finish()
        for module_id, seen in found.items():
            try:
                seen.statistics.check()
            except ValueError as error:
                name = next(x.name for x in linears if id(x.module) == module_id)
                raise ValueError(f"block {index}, linear {name}: {error}") from None
        return found

    def _unseen(self, wanted: frozenset[str], errors: bool) -> Seen:
        """Nothing yet of an input, and what will be gathered."""
        seen = Seen(InputStatistics(wanted, exact=not self.fast))
        if errors and self.fast:
            seen.sample = InputSample(self.tokens)
        elif errors and "gram" not in wanted:
            seen.gram = InputGram()
        return seen

    def advance(self, index: int, block: nn.Module, propagate: str, errors: bool = True) -> float:
        """Run the pruned block, move on to the next.

        Returns:
            ||dense - pruned||^2 / ||dense||^2 of the outputs, both from the same inputs, over the
            windows whose dense outputs are kept; 0 without `errors`.
        """
        energies = torch.zeros(2, dtype=torch.float64, device=self.device)
        batches = Batches(self.hidden, self.inputs.batches, self.device)
        dense = iter(Batches(self.dense, self.inputs.batches[: self._dense_batches], self.device))
        for part, hidden in batches:
            arguments = self.inputs.arguments[index][len(hidden)]
            output = self.calls.outputs(block, hidden, arguments)
            right = next(dense, None) if errors else None
            if right is not None:
                energies += _energies(output, right[1])
            if propagate == "pruned":
                batches.write(part, output)
        if propagate == "dense":
            self.skip()
        wrong, all_ = energies.tolist()
        return wrong / all_ if all_ else 0.0

    @property
    def _dense_batches(self) -> int:
        return len(self.inputs.batches) if self.whole else 1

    def skip(self) -> None:
        """Move on to the next block with the outputs of the dense one."""
        self.hidden, self.dense = self.dense, self.hidden


def _is_fast(model: PreTrainedModel) -> bool:
    """Half precision on a GPU: exact sums would cost much and mean little."""
    return model.device.type == "cuda" and model.dtype in (torch.bfloat16, torch.float16)


def _batch(size: int, seqlen: int, fast: bool) -> int:
    """Windows that go through a block together; on the fast path of one number, if possible."""
    most = max(1, (TOKENS_PER_LARGE_BATCH if fast else TOKENS_PER_BATCH) // seqlen)
    even = [n for n in range(-(-most // 2), most + 1) if size % n == 0]
    return max(even, default=most) if fast else most


def _by_input(
    noted: Sequence[tuple[nn.Module, Tensor]],
) -> Iterator[tuple[list[nn.Module], Tensor]]:
    """Those that were given the same tensor together, with it."""
    groups: dict[tuple[Any, ...], tuple[list[nn.Module], Tensor]] = {}
    for module, x in noted:
        key = x.data_ptr(), x.shape, x.stride()  # compiled code may hand one out twice
        groups.setdefault(key, ([], x))[0].append(module)
    yield from groups.values()


def _by_window(x: Tensor, windows: int) -> Tensor:
    """[tokens, C], as some blocks (OPT's) flatten their inputs, to [windows, tokens, C]."""
    return x.reshape(windows, -1, x.shape[-1]) if x.dim() == 2 and len(x) % windows == 0 else x


def _energies(output: Tensor, dense: Tensor) -> Tensor:
    """||output - dense||^2 and ||dense||^2: per token in float32, over tokens in float64; [2]."""
    dense = dense.float()
    wrong = output.float() - dense
    return torch.stack([torch.linalg.vecdot(x, x).sum(dtype=torch.float64) for x in (wrong, dense)])
