"""Finding what can be pruned: the decoder blocks of a model and the linears in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prune.model.sameness import Sameness, check_unchanged, mutable
from prune.model.skip import skipped
from prune.model.weights import BlockWeights


@dataclass(frozen=True)
class Linear:
    """One prunable projection of a block.

    Attributes:
        name: its dotted name inside the block; a part of a fused projection adds `[part]`.
        module: the module that reads the input (shared by the parts of a fused projection).
        rows: the output rows it owns of a fused projection; None = all.
    """

    name: str
    module: nn.Linear | Conv1D
    rows: slice | None = None

    @property
    def weight(self) -> Tensor:
        """The weight as a [outputs, inputs] view: writing into it changes the model."""
        return self.part(self.module.weight.data)

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The same view of its weight among the parameters of a block, by name."""
        return self.part(parameters[f"{self.name.partition('[')[0]}.weight"])

    def part(self, tensor: Tensor) -> Tensor:
        """The [outputs, inputs] view of what is laid out as the module's weight (its gradient)."""
        matrix = tensor.T if isinstance(self.module, Conv1D) else tensor
        return matrix if self.rows is None else matrix[self.rows]


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The list of decoder blocks: the `nn.ModuleList` that holds most parameters.

    It is looked for in the model's decoder first: a vision tower can be larger than that.

    Raises:
        ValueError: the model has no such list.
    """
    for module in (model.get_decoder(), model):
        lists = [m for m in module.modules() if isinstance(m, nn.ModuleList) and len(m)]
        if lists:
            return max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))
    raise ValueError(f"{type(model).__name__} has no list of decoder blocks (nn.ModuleList)")


def prunable_linears(
    blocks: Iterable[nn.Module], skip: Sequence[str] = (), fused: str = "split"
) -> list[list[Linear]]:
    """The prunable projections of every block; see `block_linears`.

    Raises:
        ValueError: some blocks hold weight matrices that are no linears, such as fused experts;
            the message lists them all.
    """
    blocks = list(blocks)
    strange = [
        f"block {index}: {name}"
        for index, block in enumerate(blocks)
        for name in _strange_weights(block, skip)
    ]
    if strange:
        raise ValueError(
            f"{type(blocks[0]).__name__} holds weights that are no linear layers and cannot be "
            "pruned yet (a mixture of fused experts, for example); name them in pruning.skip to "
            f"prune the rest: {', '.join(strange)}"
        )
    return [block_linears(block, skip, fused) for block in blocks]


def block_linears(block: nn.Module, skip: Sequence[str] = (), fused: str = "split") -> list[Linear]:
    """The prunable projections of one block, in the order of its modules.

    Args:
        block: a decoder block.
        skip: name patterns of projections to leave alone; see `prune.model.skip`.
        fused: "split" prunes the parts of a fused projection that the module names
            (`fused_parts`: part name to rows) one by one, "whole" as one matrix.
    """
    found = [(n, m) for n, m in block.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    linears = [part for name, module in found for part in _parts(block, name, module, fused)]
    return [x for x in linears if not skipped(x.name, skip)]


def _strange_weights(block: nn.Module, skip: Sequence[str]) -> list[str]:
    """Names of the weight matrices in `block` that are no linear's and that `skip` leaves."""
    known = {id(m.weight) for m in block.modules() if isinstance(m, nn.Linear | Conv1D)}
    return [
        name
        for name, parameter in block.named_parameters()
        if parameter.dim() > 1
        and min(parameter.shape) > 1
        and id(parameter) not in known
        and not skipped(name, skip)
    ]


def _parts(block: nn.Module, name: str, module: nn.Linear | Conv1D, fused: str) -> Iterator[Linear]:
    """The module as a linear, or as the parts that its owner says it fuses."""
    owner, _, leaf = name.rpartition(".")
    table: Mapping[str, Mapping[str, slice]] = getattr(
        block.get_submodule(owner), "fused_parts", {}
    )
    if fused == "whole" or leaf not in table:
        yield Linear(name, module)
        return
    for part, rows in table[leaf].items():
        yield Linear(f"{name}[{part}]", module, rows)


@dataclass
class BlockInputs:
    """What the blocks of a model receive for a calibration set.

    Attributes:
        hidden: inputs of the first block, [size, seqlen, width].
        batches: the slices of `hidden` that go through a block together.
        arguments: per block and batch length, the other arguments that the model passes; they
            differ between the blocks of some models (sliding and global attention).
        tuples: the blocks return tuples, the output first.
    """

    hidden: Tensor
    batches: list[slice]
    arguments: list[dict[int, tuple[tuple[Any, ...], dict[str, Any]]]]
    tuples: bool

    def call(
        self, index: int, block: nn.Module, hidden: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Call `block` as number `index` on some windows, as many as one of the recorded batches.

        Args:
            index: the place of the block in the model.
            block: the block, or one that stands in for it.
            hidden: its inputs, [windows, seqlen, width].
            dtype: what to turn floating-point arguments into, for a block of another dtype.
        """
        args, keywords = self.arguments[index][len(hidden)]
        if dtype is not None:
            hidden, args, keywords = _cast((hidden, args, keywords), dtype)
        return first_output(block(hidden.to(next(block.parameters()).device), *args, **keywords))

    def run(self, index: int, block: nn.Module, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Call `block` (number `index`) on `hidden` batch by batch; yields slice and output."""
        for part in self.batches:
            yield part, self.call(index, block, hidden[part])


def first_output(answer: Any) -> Tensor:
    """The hidden states in what a block answers: itself, or the first of a tuple."""
    output: Tensor = answer[0] if isinstance(answer, tuple) else answer
    return output


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """`value` with every floating-point tensor in it turned into `dtype`."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _cast(x, dtype) for key, x in value.items()}
    return tuple(_cast(x, dtype) for x in value) if isinstance(value, tuple) else value


def _on_device(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device=device)


@torch.no_grad()
def record_block_inputs(
    model: PreTrainedModel,
    weights: BlockWeights,
    input_ids: Tensor,
    batch: int,
    also: Iterable[int] = (),
    allocate: Callable[[Sequence[int], torch.dtype, torch.device], Tensor] = _on_device,
) -> BlockInputs:
    """Run a model with its blocks passing everything through, and keep what they were given.

    Args:
        model: in evaluation mode.
        weights: what brings its blocks.
        input_ids: [size, seqlen].
        batch: windows that go through a block together.
        also: further batch lengths that `BlockInputs.call` will be given.
        allocate: makes room for the inputs of the first block.

    Raises:
        NotReplayableError: what the blocks are given beside the hidden states depends on the
            window, or on the blocks before; the message names it.
    """
    size = len(input_ids)
    batches = [slice(i, min(i + batch, size)) for i in range(0, size, batch)]
    blocks = weights.blocks
    hidden: list[Tensor] = []  # of all windows, once the first are there
    parts = iter(batches)
    arguments: list[dict[int, tuple[tuple[Any, ...], dict[str, Any]]]] = [{} for _ in blocks]
    tuples: list[bool] = []  # does a block return a tuple? found out at the first call
    sameness = Sameness(list(blocks))
    answered: list[Tensor] = []  # by the block before

    def recorder(index: int, original: Any) -> Any:
        def forward(*args: Any, **keywords: Any) -> Any:
            x = args[0] if args else keywords.pop("hidden_states")
            given = args[1:], keywords
            filled = {} if arguments[index] else mutable(given)
            if not tuples or filled:
                with weights.here(index, then=index) as block:
                    tuples.append(isinstance(original(x, *args[1:], **keywords), tuple))
                    check_unchanged(block, given, filled)
            if index:
                sameness.compare_hidden(index, answered[0], x)
            elif (part := next(parts, None)) is not None:
                if not hidden:
                    hidden.append(allocate((size, *x.shape[1:]), x.dtype, x.device))
                hidden[0][part] = x
            sameness.compare(index, arguments[index].setdefault(len(x), given), given)
            answered[:] = [x]
            return (x,) if tuples[0] else x

        return forward

    with replaced_forwards(blocks, recorder):
        more = [ids[:n] for n in also for ids in (input_ids, input_ids.flip(0))]  # in any order
        for ids in [*(input_ids[part] for part in batches), *more]:
            model.base_model(input_ids=ids.to(model.device), use_cache=False)
            sameness.settle()
    return BlockInputs(hidden[0], batches, arguments, tuples[0])


@contextmanager
def replaced_forwards(
    blocks: Iterable[nn.Module], replacement: Callable[[int, Any], Any]
) -> Iterator[None]:
    """Give each block `replacement(index, its own forward)` as its forward, for a while."""
    before = [(block, vars(block).get("forward")) for block in blocks]
    for index, (block, _) in enumerate(before):
        block.forward = replacement(index, block.forward)
    try:
        yield
    finally:
        for block, own in before:
            if own is None:
                del block.forward  # the instance's; the class's shows again
            else:
                block.forward = own
