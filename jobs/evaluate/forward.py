"""Passes through a model for scoring: many rows as one sequence, logits only where wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from prune.model.blocks import decoder_blocks

CPU_TOKENS, GPU_TOKENS = 2048, 32_768
"""Tokens that go through a model together: what fills the device, far below what fills memory."""

LOGITS_TOGETHER = 2**28
"""Bounds the memory of logits (float32: 1 GiB)."""

COMPILED_PARAMETERS = 10**9
"""Models of so many parameters are compiled on a GPU, which takes seconds and saves minutes."""

PROBE = 16
"""Tokens of the sequence that a model is tried on before its rows are trusted."""

ATTENTION = "calgrid_rows"
"""The name of `_attention` among transformers' attention functions."""


WIDE = torch.complex128
"""The longest elements that there are; only copied."""


KeysValues = dict[int, tuple[Tensor, Tensor]]
"""Keys and values [1, heads, tokens, width] of some tokens, by the id of the attention module."""


@dataclass
class Part:
    """Rows of one length, one after the other in a sequence of tokens.

    Attributes:
        rows, length: the part is rows x length tokens.
        mask: added to attention scores, [rows, 1, length, prefix + length]; None = causal.
    """

    rows: int
    length: int
    mask: Tensor | None = None


@dataclass
class Layout:
    """How one sequence of tokens divides into rows that do not see each other.

    Attributes:
        parts: end to end they are the sequence.
        prefix: what comes before every row; None where there is nothing.
        keep: put the keys and values of this pass here.
    """

    parts: list[Part]
    prefix: KeysValues | None = None
    keep: KeysValues | None = None


_layout: Layout | None = None
"""Of the pass that is under way: transformers calls attention functions by name, and there is no
way to hand them anything. One pass at a time goes through a process."""


@torch.compiler.disable
def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' `sdpa`, row by row, after a prefix that the rows share."""
    assert _layout is not None
    if _layout.keep is not None:
        _layout.keep[id(module)] = (key, value)
    outputs, start = [], 0
    for part in _layout.parts:
        end = start + part.rows * part.length
        q, k, v = (_by_row(x[:, :, start:end], part) for x in (query, key, value))
        if _layout.prefix is not None:
            k, v = map(_after, _layout.prefix[id(module)], (k, v))
        output, _ = sdpa_attention_forward(module, q, k, v, part.mask, **options)
        outputs.append(output.reshape(1, end - start, *output.shape[2:]))
        start = end
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), None


def _by_row(x: Tensor, part: Part) -> Tensor:
    """[1, heads, rows x length, width] as [rows, heads, length, width]."""
    _, heads, _, width = x.shape
    return x.transpose(1, 2).reshape(part.rows, part.length, heads, width).transpose(1, 2)


def _after(prefix: Tensor, rows: Tensor) -> Tensor:
    """Keys or values of rows, each after those of the prefix: [rows, heads, tokens, width].

    On a GPU such strided copies take the time of their elements, so short ones go together.
    """
    both = [prefix.expand(len(rows), -1, -1, -1), rows]
    together = WIDE.itemsize // rows.element_size()
    for x in both:
        steps = (x.shape[-1], x.storage_offset(), *x.stride()[:-1])
        if x.stride(-1) != 1 or any(step % together for step in steps):
            return torch.cat(both, 2)
    return torch.cat([x.view(WIDE) for x in both], 2).view(rows.dtype)


AttentionInterface.register(ATTENTION, _attention)


@dataclass
class Forward:
    """A model as the scorer uses it.

    Attributes:
        model: the model.
        tokens: how many go through it together; the scorer halves it when memory runs out.
        compiled: are its blocks compiled? Otherwise why not, for the record.
    """

    model: PreTrainedModel
    tokens: int = field(init=False)
    compiled: bool | str = field(init=False)

    def __post_init__(self) -> None:
        cuda = self.model.device.type == "cuda"
        self.tokens = GPU_TOKENS if cuda else CPU_TOKENS
        self.compiled = cuda and self.model.num_parameters() >= COMPILED_PARAMETERS

    def obstacle(self, length: int) -> str | None:
        """What is known to keep requests of up to `length` tokens from going through as rows."""
        config = self.model.config
        if config._attn_implementation != "sdpa" or not self.model._can_set_attn_implementation():
            return f"attention is {config._attn_implementation}, which does not take rows"
        window = getattr(config.get_text_config(), "sliding_window", None)
        if isinstance(window, int) and window < length:
            return f"attention sees {window} tokens, and the longest request has {length}"
        return None

    def fault(self, tokens: Tensor) -> str | None:
        """What in this model's numbers keeps requests from going through as rows.

        Rows are right where tokens see each other by attention alone, and logits are the output
        projection of hidden states. Each is tried by the same sums on both sides, which leave next
        to nothing to rounding, in any dtype; a recurrent layer or capped logits are far more.
        """
        rounding = max(torch.finfo(self.model.dtype).eps / 4, 1e-5)
        hidden = self.plain_hidden(tokens[None])
        head = self.model.get_output_embeddings()
        apart = difference(head(hidden), self.plain_logits(tokens[None]))
        if not apart <= rounding:
            return f"logits are more than the output projection, which differs by {apart:.1g}"
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        others = tokens.clone()
        others[::2] = (tokens[::2] + 1) % vocabulary
        positions = torch.arange(len(tokens), device=tokens.device)
        alone = Layout([Part(len(tokens), 1)])
        with self._attention_by_rows():
            before, after = (self.hidden(x, positions, alone)[1::2] for x in (tokens, others))
        moved = difference(after, before)
        if not moved <= rounding:
            return f"tokens see others outside attention: hidden states move by {moved:.1g}"
        return None

    @contextmanager
    def by_rows(self) -> Iterator[None]:
        """Within, `hidden` works: attention is row by row, and large models are compiled."""
        with self._attention_by_rows():
            if self.compiled is True:
                for block in decoder_blocks(self.model):
                    block.compile(dynamic=True)
            try:
                yield
            finally:
                if self.compiled is True:
                    self._reset_blocks()

    @contextmanager
    def _attention_by_rows(self) -> Iterator[None]:
        self.model.set_attn_implementation(ATTENTION)
        try:
            yield
        finally:
            self.model.set_attn_implementation("sdpa")

    def hidden(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """What the output projection is applied to, [tokens, width].

        Args:
            ids, positions: [tokens]. layout: which tokens see which.
        """
        global _layout
        _layout = layout
        try:
            return self._base(ids[None], positions[None])[0]
        except TorchDynamoException as error:
            if self.compiled is not True:
                raise
            self.compiled = f"failed: {str(error).strip().splitlines()[0]}"
            self._reset_blocks()
            return self._base(ids[None], positions[None])[0]
        finally:
            _layout = None

    def _base(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self.model.base_model(input_ids=ids, position_ids=positions, use_cache=False)
        hidden: Tensor = output[0]
        return hidden

    def _reset_blocks(self) -> None:
        """Back to uncompiled blocks: compiled code would not notice hooks that come later."""
        for block in decoder_blocks(self.model):
            block._compiled_call_impl = None

    def prefix(self, tokens: Tensor) -> KeysValues:
        """The keys and values of a prefix [tokens], for the layout of rows that follow it."""
        layout = Layout([Part(1, len(tokens))], keep={})
        self.hidden(tokens, torch.arange(len(tokens), device=tokens.device), layout)
        assert layout.keep is not None
        return layout.keep

    @property
    def logits_together(self) -> int:
        """Positions whose logits are computed together."""
        return max(1, LOGITS_TOGETHER // int(self.model.config.get_text_config().vocab_size))

    def plain_hidden(self, ids: Tensor) -> Tensor:
        """`hidden` of separate sequences [rows, length]: [rows, length, width]."""
        hidden: Tensor = self.model.base_model(input_ids=ids, use_cache=False)[0]
        return hidden

    def plain_logits(self, ids: Tensor) -> Tensor:
        """Logits of separate sequences [rows, length] as the model itself gives them."""
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits

    def score(self, hidden: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability (float64) and is-greedy of `wanted` [n] after `hidden` [n, width]."""
        count = self.logits_together
        pairs = zip(hidden.split(count), wanted.split(count), strict=True)
        return joined([score_logits(self._logits(h), w) for h, w in pairs])

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits [n, vocabulary], in float32 without rounding to the dtype of the weights."""
        head = self.model.get_output_embeddings()
        if hidden.is_cuda and hidden.dtype != torch.float32 and type(head) is nn.Linear:
            logits = torch.mm(hidden, head.weight.t(), out_dtype=torch.float32)
            return logits if head.bias is None else logits + head.bias
        logits = head(hidden)
        return logits.float()


def difference(found: Tensor, wanted: Tensor) -> float:
    """Of two tensors, relative to the size of the second."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def score_logits(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability (float64) and is-greedy of `wanted` [n] under `logits` [n, vocabulary]."""
    logits = logits.float()
    chosen = logits.gather(-1, wanted[:, None])[:, 0]
    return chosen.double() - logits.logsumexp(-1).double(), logits.argmax(-1) == wanted


def joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pairs of tensors [n, ...] as one pair."""
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
