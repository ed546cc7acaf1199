"""What blocks are given with some windows must do for all others: it is kept once, and replayed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Given = tuple[tuple[Any, ...], dict[str, Any]]
"""What a block is given beside the hidden states."""

PLAIN = (bool, int, float, str)

DIFFERS = "which differs from window to window"


class NotReplayableError(ValueError):
    """What blocks are given cannot be kept once for all windows."""


class Sameness:
    """Compares what blocks are given with what was kept of other windows.

    Tensors are compared where they are, and the answers read once a batch: blocks share most of
    their arguments, and each reading makes a GPU wait.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        """Nothing has been compared yet of what `blocks` are given."""
        self._blocks = blocks
        self._compared: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # kept, so ids stay
        self._answers: list[tuple[Tensor, int, str, str]] = []  # differs? block, argument, what

    def compare(self, index: int, kept: Given, given: Given) -> None:
        """Compare what block `index` is given with what is kept of it."""
        names = _positional(self._blocks[index])
        for name, one, other in zip(names, kept[0], given[0], strict=False):
            self._note(index, one, other, name, DIFFERS)
        for name, other in given[1].items():
            self._note(index, kept[1].get(name), other, name, DIFFERS)

    def compare_hidden(self, index: int, answered: Tensor, hidden: Tensor) -> None:
        """Compare what the block before `index` answered with what `index` is given."""
        what = "which the model changes between its blocks"
        self._note(index, answered, hidden, "hidden states", what)

    def _note(self, index: int, one: Any, other: Any, name: str, what: str) -> None:
        self._answers += [(answer, index, name, what) for answer in self._differ(one, other)]

    def settle(self) -> None:
        """Read the answers, at the end of a batch.

        Raises:
            NotReplayableError: something differs; argument and block are named.
        """
        answers, self._answers = self._answers, []
        self._compared.clear()
        if answers:
            device = answers[0][0].device
            differ = torch.stack([x.to(device) for x, *_ in answers]).tolist()
            for wrong, (_, index, name, what) in zip(differ, answers, strict=True):
                if wrong:
                    raise _refusal(self._blocks[index], name, what)

    def _differ(self, one: Any, other: Any) -> Iterator[Tensor]:
        """Whether two values differ, a boolean tensor for each part; unknown objects do not."""
        if one is other:
            return
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            pair = id(one), id(other)
            if pair not in self._compared:
                self._compared[pair] = one, other
                alike = (one.shape, one.dtype) == (other.shape, other.dtype)
                yield (one != other).any() if alike else torch.tensor(True)
        elif isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
            for key in one:
                yield from self._differ(one[key], other[key])
        elif isinstance(one, tuple | list) and type(one) is type(other) and len(one) == len(other):
            for items in zip(one, other, strict=True):
                yield from self._differ(*items)
        elif type(one) is not type(other) or (isinstance(one, PLAIN) and one != other):
            yield torch.tensor(True)


def mutable(given: Given) -> dict[str, dict[Any, Any]]:
    """What is in those arguments that a block can put something into, by name or place."""
    found = [*enumerate(given[0]), *given[1].items()]
    return {str(name): dict(x) for name, x in found if isinstance(x, MutableMapping)}


def check_unchanged(
    block: nn.Module, given: Given, before: Mapping[str, Mapping[Any, Any]]
) -> None:
    """See to it that a call of a block has left its arguments as they were; see `mutable`.

    Raises:
        NotReplayableError: it has not: what a block is given depends on the blocks before it.
    """
    for name, now in mutable(given).items():
        was = before[name]
        if now.keys() != was.keys() or any(now[key] is not was[key] for key in now):
            name = _positional(block)[int(name)] if name.isdigit() else name
            raise _refusal(block, name, "which the blocks change as they run")


def _positional(block: nn.Module) -> list[str]:
    """Names for the positional arguments after the hidden states."""
    names = list(inspect.signature(type(block).forward).parameters)
    return names[2:]  # after `self`


def _refusal(block: nn.Module, name: str, what: str) -> NotReplayableError:
    return NotReplayableError(
        f"the model gives its blocks ({type(block).__name__}) {name}, {what}: calibration cannot "
        "replay that yet; such models can be pruned with magnitude or random"
    )
