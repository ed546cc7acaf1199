"""Gradients of the language-modelling loss, block by block in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune.model.blocks import BlockInputs, Linear, record_block_inputs, replaced_forwards
from prune.model.weights import BlockWeights

TOKENS_AT_ONCE = 65536
"""Tokens whose inputs of every block are kept together; more means fewer trips to the CPU."""


def gradient_norms(
    model: PreTrainedModel,
    weights: BlockWeights,
    linears: Sequence[Sequence[Linear]],
    input_ids: Tensor,
) -> list[dict[int, Tensor]]:
    """Root of the sum over windows of each weight's squared gradient.

    The loss of a window is the mean cross-entropy of its next tokens. A group of windows goes
    forward with nothing kept but the inputs of each block, then backward block by block, each
    block computed again for one window at a time: on the device there are the squares of one
    block, on the CPU those of all in float32.

    Args:
        model: in evaluation mode, and dense.
        weights: what brings its blocks.
        linears: those of each block whose gradients are wanted.
        input_ids: the calibration set, [size, seqlen].

    Returns:
        Per block, by id of the linear's module: float32, on the CPU, laid out as its weight.

    Raises:
        ValueError: a gradient is NaN or infinite; block and linear are named.
    """
    blocks = weights.blocks
    totals: list[dict[int, Tensor]] = [{} for _ in blocks]
    for ids in input_ids.split(max(1, TOKENS_AT_ONCE // input_ids.shape[1])):
        inputs = record_block_inputs(model, weights, ids, batch=1)
        depth = _forward(inputs, weights)
        slopes = _tail_slopes(model, blocks, inputs, ids, depth.pop())
        for index in reversed(range(len(blocks))):
            hidden = depth.pop()
            with weights.here(index, then=index - 1 if index else None) as block:
                squares, slopes = _backward(inputs, index, block, linears[index], hidden, slopes)
            for module, square in squares.items():
                total = totals[index].get(module)
                part = square.cpu()
                totals[index][module] = part if total is None else total.add_(part)
    _check(linears, totals)
    return [{module: x.sqrt_() for module, x in total.items()} for total in totals]


def _forward(inputs: BlockInputs, weights: BlockWeights) -> list[Tensor]:
    """Inputs of every block and the outputs of the last, each [windows, seqlen, width]."""
    hidden = [inputs.hidden]
    with torch.no_grad():
        for index in range(len(weights.blocks)):
            with weights.here(index, then=index + 1) as block:
                hidden.append(torch.cat([x for _, x in inputs.run(index, block, hidden[-1])]))
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
    linears: Sequence[Linear],
    hidden: Tensor,
    slopes: Tensor,
) -> tuple[dict[int, Tensor], Tensor]:
    """Sum of squared gradients by id of module, and the slopes at the inputs of the block."""
    modules = list({id(x.module): x.module for x in linears}.values())
    weights = [module.weight for module in modules]
    before = [weight.requires_grad for weight in weights]
    squares = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
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
            square += gradient.float().square()
    for weight, required in zip(weights, before, strict=True):
        weight.requires_grad_(required)
    return {id(m): square for m, square in zip(modules, squares, strict=True)}, back


def _check(linears: Sequence[Sequence[Linear]], totals: Sequence[dict[int, Tensor]]) -> None:
    """Refuse gradients that are NaN or infinite."""
    for index, block in enumerate(linears):
        for linear in block:
            if not bool(totals[index][id(linear.module)].isfinite().all()):
                raise ValueError(
                    f"block {index}, linear {linear.name}: its gradient is NaN or infinite"
                )
