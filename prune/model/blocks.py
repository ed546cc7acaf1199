"""Finding what can be pruned: the decoder blocks of a model and the linears in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Linear:
    """One prunable projection of a block.

    Attributes:
        name: its dotted name inside the block; a part of a fused projection adds `[part]`.
        module: the module that reads the input (shared by the parts of a fused projection).
        rows: the output rows it owns of a fused projection; None = all.
    """

    name: str
    module: nn.Module
    rows: slice | None = None

    @property
    def weight(self) -> Tensor:
        """The weight as a [outputs, inputs] view: writing into it changes the model."""
        data = self.module.weight.data
        matrix: Tensor = data.T if isinstance(self.module, Conv1D) else data
        return matrix if self.rows is None else matrix[self.rows]


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The list of decoder blocks: the `nn.ModuleList` that holds most parameters.

    Raises:
        ValueError: the model has no such list.
    """
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of decoder blocks (nn.ModuleList)")
    return max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))


def block_linears(block: nn.Module, skip: Sequence[str] = (), fused: str = "split") -> list[Linear]:
    """The prunable projections of one block, in the order of its modules.

    Args:
        block: a decoder block.
        skip: name patterns (`*` and `?`) of projections to leave alone.
        fused: "split" prunes the parts of a fused projection that the module names
            (`fused_parts`: part name to rows) one by one, "whole" as one matrix.

    Raises:
        ValueError: the block holds weight matrices that are no linear, such as fused experts.
    """
    found = [(n, m) for n, m in block.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    known = {id(m.weight) for _, m in found}
    strange = [
        name
        for name, parameter in block.named_parameters()
        if parameter.dim() > 1 and min(parameter.shape) > 1 and id(parameter) not in known
    ]
    if strange:
        raise ValueError(
            f"{type(block).__name__} holds weights that are no linear layers and cannot be pruned "
            f"yet (for example a mixture of fused experts): {', '.join(strange)}"
        )
    linears = [part for name, module in found for part in _parts(block, name, module, fused)]
    return [x for x in linears if not any(fnmatch(x.name, pattern) for pattern in skip)]


def _parts(block: nn.Module, name: str, module: nn.Module, fused: str) -> Iterator[Linear]:
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
    """

    hidden: Tensor
    batches: list[slice]
    arguments: list[dict[int, tuple[tuple[Any, ...], dict[str, Any]]]]

    def run(self, index: int, block: nn.Module, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Call `block` (number `index`) on `hidden` batch by batch; yields slice and output."""
        device = next(block.parameters()).device
        for part in self.batches:
            args, keywords = self.arguments[index][part.stop - part.start]
            output = block(hidden[part].to(device), *args, **keywords)
            yield part, output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def record_block_inputs(
    model: PreTrainedModel, blocks: nn.ModuleList, input_ids: Tensor, batch: int
) -> BlockInputs:
    """Run a model with its blocks passing everything through, and keep what they were given.

    Args:
        model: in evaluation mode.
        blocks: its decoder blocks.
        input_ids: [size, seqlen].
        batch: windows that go through a block together.
    """
    hidden: list[Tensor] = []
    arguments: list[dict[int, tuple[tuple[Any, ...], dict[str, Any]]]] = [{} for _ in blocks]
    tuples: list[bool] = []  # does a block return a tuple? found out at the first call

    def recorder(index: int, original: Any) -> Any:
        def forward(*args: Any, **keywords: Any) -> Any:
            x = args[0] if args else keywords.pop("hidden_states")
            if not tuples:
                tuples.append(isinstance(original(x, *args[1:], **keywords), tuple))
            if index == 0:
                hidden.append(x)
            arguments[index].setdefault(len(x), (args[1:], keywords))
            return (x,) if tuples[0] else x

        return forward

    batches = [slice(i, min(i + batch, len(input_ids))) for i in range(0, len(input_ids), batch)]
    for index, block in enumerate(blocks):
        block.forward = recorder(index, block.forward)  # the instance's own, until deleted below
    try:
        for part in batches:
            model.base_model(input_ids=input_ids[part].to(model.device), use_cache=False)
    finally:
        for block in blocks:
            del block.forward
    return BlockInputs(torch.cat(hidden), batches, arguments)
