"""Calling decoder blocks: for their outputs, for the inputs of their linears, or both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from prune.fused import fused_block
from prune.model.blocks import first_output

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


class BlockCalls:
    """The ways to call a block.

    Attributes:
        fused: norms, rotations and gated activations run as fused kernels, where those agree with
            the block's own; see `prune.fused`.
    """

    def __init__(self, fused: bool = False) -> None:
        self.fused = fused

    def outputs(self, block: nn.Module, hidden: Tensor, arguments: Arguments) -> Tensor:
        """What the block answers to `hidden`, [windows, seqlen, width]."""
        with self._ready(block):
            return first_output(block(hidden, *arguments[0], **arguments[1]))

    def inputs(
        self,
        block: nn.Module,
        modules: Sequence[nn.Module],
        hidden: Tensor,
        arguments: Arguments,
        outputs: bool = False,
    ) -> tuple[list[tuple[nn.Module, Tensor]], Tensor | None]:
        """What each of `modules`, linears in the block, is given, in the order of their calls.

        The block's answer comes with it where `outputs` says so; else the block is left as soon
        as all inputs are known, and what comes after the last of them is not computed.
        """
        answer = None
        with self._ready(block), _noting(modules, leave=not outputs) as noted:
            with suppress(_AllKnown):
                answer = first_output(block(hidden, *arguments[0], **arguments[1]))
            return [(modules[place], x) for place, x in noted], answer if outputs else None

    @contextmanager
    def _ready(self, block: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            if self.fused:
                stack.enter_context(fused_block(block))
            yield


class _AllKnown(Exception):  # noqa: N818 - no error: the way out of a block
    """The inputs of all linears are known."""


class _Notes(list[tuple[int, Tensor]]):
    """What was noted, and whether to leave once each place was."""

    def __init__(self, places: int, leave: bool) -> None:
        super().__init__()
        self.missing = set(range(places)) if leave else {-1}

    def add(self, place: int, x: Tensor) -> None:
        self.append((place, x))
        self.missing.discard(place)
        if not self.missing:
            raise _AllKnown


@contextmanager
def _noting(modules: Sequence[nn.Module], leave: bool) -> Iterator[_Notes]:
    """Note what each of `modules` is given, by its place among them."""
    notes = _Notes(len(modules), leave and bool(modules))
    hooks = [
        module.register_forward_pre_hook(
            lambda _, arguments, place=place: notes.add(place, arguments[0])
        )
        for place, module in enumerate(modules)
    ]
    try:
        yield notes
    finally:
        for hook in hooks:
            hook.remove()
