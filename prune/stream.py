"""Token windows on their way through the blocks of a model, dense and pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune.errors import InputGram
from prune.model.blocks import BlockInputs, Linear, record_block_inputs
from prune.statistics import InputStatistics

TOKENS_PER_BATCH = 4096
"""Tokens that go through a block together; keeps the matrix products large and memory small."""


@dataclass
class Seen:
    """What one pass over a block tells of one distinct input.

    Attributes:
        statistics: what the pruner asked for.
        gram: for the errors; None where nobody asked, or where `statistics` has it.
    """

    statistics: InputStatistics
    gram: InputGram | None = None

    def update(self, x: Tensor) -> None:
        """Add a batch of inputs, [..., C]."""
        self.statistics.update(x)
        if self.gram is not None:
            self.gram.update(x)

    @cached_property
    def full_gram(self) -> Tensor:
        """X X^T over all tokens, [C, C]."""
        if self.gram is not None:
            return self.gram.full()
        if self.statistics.gram_sum is None:
            raise ValueError("no Gram matrix was gathered")
        return self.statistics.gram_sum


@dataclass
class Stream:
    """The activations of some windows between two blocks.

    Attributes:
        inputs: how to call the blocks; its own `hidden` is overwritten on the way.
        hidden: inputs of the block at hand, [size, seqlen, width].
        dense: outputs of the dense block at hand, same shape, once observed.
    """

    inputs: BlockInputs
    hidden: Tensor
    dense: Tensor

    @classmethod
    def start(
        cls,
        model: PreTrainedModel,
        blocks: nn.ModuleList,
        ids: Tensor,
        also: Iterable[int] = (),
    ) -> Stream:
        """The inputs of the first block for windows `ids`, [size, seqlen].

        Args:
            model: in evaluation mode.
            blocks: its decoder blocks.
            ids: token windows.
            also: further batch lengths that the blocks will be called with.
        """
        batch = max(1, TOKENS_PER_BATCH // ids.shape[1])
        inputs = record_block_inputs(model, blocks, ids, batch, also)
        return cls(inputs, inputs.hidden, torch.empty_like(inputs.hidden))

    def fork(self) -> Stream:
        """Another stream from here, for a pass that must not move this one."""
        return Stream(self.inputs, self.hidden.clone(), torch.empty_like(self.hidden))

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
        windows = 0  # of the call at hand
        own_gram = errors and "gram" not in wanted
        found: dict[int, Seen] = {}
        current: dict[int, Seen] = {}  # by input tensor, within one call of the block
        alive: list[Tensor] = []  # a freed tensor's id may come again

        def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen = current.get(id(args[0]))
            if seen is None:
                seen = found.get(id(module))
                if seen is None:
                    seen = Seen(InputStatistics(wanted), InputGram() if own_gram else None)
                try:
                    seen.update(_by_window(args[0], windows))
                except ValueError as error:
                    name = next(x.name for x in linears if x.module is module)
                    raise ValueError(f"block {index}, linear {name}: {error}") from None
                current[id(args[0])] = seen
                alive.append(args[0])
            found[id(module)] = seen

        with _watched([x.module for x in linears], look):
            for part in self.inputs.batches:
                windows = part.stop - part.start
                self.dense[part] = self.inputs.call(index, block, self.hidden[part])
                current.clear()
                alive.clear()
        return found

    def advance(self, index: int, block: nn.Module, propagate: str) -> float:
        """Run the pruned block, move on to the next.

        Returns:
            ||dense - pruned||^2 / ||dense||^2 of the outputs, both from the same inputs.
        """
        wrong = right = 0.0
        for part, output in self.inputs.run(index, block, self.hidden):
            dense = self.dense[part]
            wrong += _energy(output.float() - dense.float())
            right += _energy(dense.float())
            if propagate == "pruned":
                self.hidden[part] = output  # in place: this part is done with
        if propagate == "dense":
            self.skip()
        return wrong / right if right else 0.0

    def skip(self) -> None:
        """Move on to the next block with the outputs of the dense one."""
        self.hidden, self.dense = self.dense, self.hidden


def _by_window(x: Tensor, windows: int) -> Tensor:
    """[tokens, C], as some blocks (OPT's) flatten their inputs, to [windows, tokens, C]."""
    return x.reshape(windows, -1, x.shape[-1]) if x.dim() == 2 and len(x) % windows == 0 else x


def _energy(x: Tensor) -> float:
    """Sum of squares; summed per token in float32, over tokens in float64."""
    return float(torch.linalg.vecdot(x, x).sum(dtype=torch.float64))


@contextmanager
def _watched(modules: Iterable[nn.Module], look: Callable[..., Any]) -> Iterator[None]:
    """Call `look(module, args)` before every forward of each of `modules`, once a module."""
    hooks = [m.register_forward_pre_hook(look) for m in {id(m): m for m in modules}.values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
