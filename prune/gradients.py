"""Gradients of the language-modelling loss, block by block in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune.activations import Batches, allocate
from prune.model.blocks import BlockInputs, Linear, record_block_inputs, replaced_forwards
from prune.model.weights import BlockWeights

TOKENS_AT_ONCE = 65536
"""Tokens whose inputs of every block are kept together; more means fewer trips of the squares."""

HOST_SHARE = 0.9
"""Of the host's free memory the squares of all blocks may take so much; a job asks for that."""


def gradient_norms(
    model: PreTrainedModel,
    weights: BlockWeights,
    linears: Sequence[Sequence[Linear]],
    input_ids: Tensor,
) -> list[dict[int, Tensor]]:
    """Root of the sum over windows of each weight's squared gradient.

    The loss of a window is the mean cross-entropy of its next tokens. A group of windows goes
    forward with nothing kept but the inputs of each block, then backward block by block, each
    block computed again for one window at a time: on the device there are the inputs of one block
    and its squares in float32, those of all where `allocate` finds room.

    Args:
        model: in evaluation mode, and dense.
        weights: what brings its blocks.
        linears: those of each block whose gradients are wanted.
        input_ids: the calibration set, [size, seqlen].

    Returns:
        Per block, by id of the linear's module: float32, laid out as its weight.

    Raises:
        ValueError: a gradient is NaN or infinite; block and linear are named.
    """
    blocks = weights.blocks
    modules = [list({id(x.module): x.module for x in block}.values()) for block in linears]
    squares = _zeros([[x.weight.shape for x in block] for block in modules], model.device)
    groups = input_ids.split(max(1, TOKENS_AT_ONCE // input_ids.shape[1]))
    depth: Tensor | None = None  # inputs of every block, [blocks, windows, seqlen, width]
    for ids in groups:
        inputs = record_block_inputs(model, weights, ids, batch=1)
        if depth is None:
            shape, dtype = inputs.hidden.shape, inputs.hidden.dtype
            depth = allocate((len(blocks), *shape), dtype, model.device)
        kept = depth[:, : len(ids)]
        outputs = _forward(inputs, weights, kept)
        slopes = _tail_slopes(model, blocks, inputs, ids, outputs)
        last_first = [slice(i, i + 1) for i in reversed(range(len(blocks)))]
        for part, (hidden,) in Batches(kept, last_first, model.device):
            index = part.start
            with weights.here(index, then=index - 1 if index else None) as block:
                here = [x.to(model.device, non_blocking=True) for x in squares[index]]
                slopes = _backward(inputs, index, block, modules[index], hidden, slopes, here)
                if ids is groups[-1]:
                    _finish(index, linears[index], modules[index], here)
                for x, found in zip(squares[index], here, strict=True):
                    x.copy_(found, non_blocking=True)
    return [
        {id(module): x for module, x in zip(block, found, strict=True)}
        for block, found in zip(modules, squares, strict=True)
    ]


def _zeros(shapes: Sequence[Sequence[torch.Size]], device: torch.device) -> list[list[Tensor]]:
    """Float32 zeros of these shapes, in one room."""
    sizes = [shape.numel() for block in shapes for shape in block]
    room = allocate((sum(sizes),), torch.float32, device, HOST_SHARE)
    parts = iter(room.zero_().split(sizes))
    return [[next(parts).view(shape) for shape in block] for block in shapes]


def _forward(inputs: BlockInputs, weights: BlockWeights, kept: Tensor) -> Tensor:
    """Keep the inputs of every block; the outputs of the last, as `inputs.hidden`."""
    hidden, walk = inputs.hidden, Batches(kept, (), inputs.hidden.device)
    with torch.no_grad():
        for index in range(len(weights.blocks)):
            walk.write(slice(index, index + 1), hidden[None])
            with weights.here(index, then=index + 1) as block:
                hidden = torch.cat([x for _, x in inputs.run(index, block, hidden)])
    walk.finish()
    return hidden


def _tail_slopes(
    model: PreTrainedModel, blocks: nn.ModuleList, inputs: BlockInputs, ids: Tensor, outputs: Tensor
) -> Tensor:
    """Gradient of each window's loss in the outputs of the last block, same shape as those.

    The model itself turns the outputs into logits: its blocks pass everything through, and the
    last one answers with what it is given here.
    """
    slopes = torch.empty_like(outputs)
    given: list[Tensor] = []

    def passing(index: int, _: Any) -> Any:
        def forward(*args: Any, **keywords: Any) -> Any:
            own = args[0] if args else keywords["hidden_states"]
            answer = given[0] if index == len(blocks) - 1 else own
            return (answer,) if inputs.tuples else answer

        return forward

    with replaced_forwards(blocks, passing), torch.enable_grad():
        for window, output in enumerate(outputs):
            given[:] = [output[None].detach().requires_grad_(True)]
            tokens = ids[window : window + 1].to(model.device)
            logits = model(input_ids=tokens, use_cache=False).logits[0, :-1]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = nn.functional.cross_entropy(logits, tokens[0, 1:].long())
            slopes[window] = torch.autograd.grad(loss, given)[0][0]
    return slopes


def _backward(
    inputs: BlockInputs,
    index: int,
    block: nn.Module,
    modules: Sequence[nn.Module],
    hidden: Tensor,
    slopes: Tensor,
    squares: Sequence[Tensor],
) -> Tensor:
    """Add the squared gradients of the modules' weights; the slopes at the block's inputs."""
    weights: list[Any] = [module.weight for module in modules]
    before = [weight.requires_grad for weight in weights]
    back = torch.empty_like(slopes)
    for weight in weights:
        weight.requires_grad_(True)
    for window in range(len(hidden)):
        one = slice(window, window + 1)
        x = hidden[one].detach().requires_grad_(True)
        with torch.enable_grad():
            output = inputs.call(index, block, x)
        back[one], *found = torch.autograd.grad(
            output, [x, *weights], slopes[one], materialize_grads=True
        )
        for square, gradient in zip(squares, found, strict=True):
            square.addcmul_(gradient, gradient)  # in float32
    for weight, required in zip(weights, before, strict=True):
        weight.requires_grad_(required)
    return back


def _finish(
    index: int, linears: Sequence[Linear], modules: Sequence[nn.Module], squares: Sequence[Tensor]
) -> None:
    """Take the roots, and refuse gradients that are NaN or infinite."""
    for module, square in zip(modules, squares, strict=True):
        if not bool(square.sqrt_().amax().isfinite()):
            name = next(x.name for x in linears if x.module is module)
            raise ValueError(f"block {index}, linear {name}: its gradient is NaN or infinite")
