"""Log-likelihoods under a model: token windows, and lm-eval requests that share their context."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import PreTrainedModel

TOKENS_PER_BATCH = 2048
LOGITS_PER_BATCH = 2**28
"""Bounds a batch by its tokens, and by the memory of its logits (float32: 1 GiB)."""

LEAST_SHARED = 64
"""A row holds at most about twice its context in continuations, or twice so many tokens where the
context is shorter: what is saved by sharing must pay for attention over the whole row."""

AGREEMENT = 1e-3
"""Largest difference of log-likelihoods, per token, between shared and separate contexts, in
float32; a model that exceeds it is scored request by request."""


def batch_tokens(model: PreTrainedModel) -> int:
    """Tokens that go through a model together."""
    return max(1, min(TOKENS_PER_BATCH, LOGITS_PER_BATCH // model.config.vocab_size))


@torch.no_grad()
def window_losses(model: PreTrainedModel, windows: Sequence[Sequence[int]]) -> list[float]:
    """Summed negative log-likelihood, in nats, of every token after the first of each window.

    Windows of equal length go through the model together; no padding is needed.

    Raises:
        ValueError: a loss is NaN or infinite.
    """
    losses = [0.0] * len(windows)
    order = sorted(range(len(windows)), key=lambda i: -len(windows[i]))
    start = 0
    while start < len(order):
        length = len(windows[order[start]])
        most = start + max(1, batch_tokens(model) // max(1, length))
        same = [i for i in order[start:most] if len(windows[i]) == length]
        start += len(same)
        if length < 2:
            continue
        ids = torch.tensor([list(windows[i]) for i in same], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        chosen = _log_probabilities(logits, ids[:, 1:]).sum(1)
        for i, value in zip(same, chosen.tolist(), strict=True):
            losses[i] = -value
    _check_numbers(losses)
    return losses


def _check_numbers(values: Sequence[float]) -> None:
    """Refuse what would pass for a score: the largest of NaNs is the first, for example."""
    wrong = sum(not math.isfinite(value) for value in values)
    if wrong:
        raise ValueError(
            f"{wrong} of {len(values)} log-likelihoods are NaN or infinite: the model's "
            "activations overflow or its weights are damaged; try another dtype"
        )


def _log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p of `tokens` [..., n] under float32 `logits` [..., n, vocabulary]; float64 [..., n]."""
    logits = logits.float()
    chosen = logits.gather(-1, tokens[..., None])[..., 0]
    return chosen.double() - logits.logsumexp(-1).double()


Request = tuple[tuple[str, str], list[int], list[int]]
"""As lm-eval passes them: (context, continuation), their token ids."""


@dataclass
class Row:
    """One sequence: a context, and the continuations that follow it, each seeing only itself.

    Attributes:
        context: token ids.
        requests: indices of the requests. continuations: their token ids.
    """

    context: list[int]
    requests: list[int]
    continuations: list[list[int]]

    def tokens(self) -> list[int]:
        """The sequence: of each continuation all but the last token, which predicts nothing."""
        return self.context + [t for c in self.continuations for t in c[:-1]]

    def scored_positions(self) -> list[int]:
        """Where in `tokens` each token of each continuation is predicted."""
        positions: list[int] = []
        end = len(self.context)
        for continuation in self.continuations:
            positions += [len(self.context) - 1, *range(end, end + len(continuation) - 1)]
            end += len(continuation) - 1
        return positions

    def separate(self) -> list[Row]:
        """One row for each request."""
        pairs = zip(self.requests, self.continuations, strict=True)
        return [Row(self.context, [index], [continuation]) for index, continuation in pairs]


class Scorer(HFLM):
    """lm-eval's own HF model, except that requests with one context share its computation.

    Each log-likelihood is the one that separate sequences give, up to rounding: positions and the
    attention mask make every continuation follow the context directly, and the output projection
    is applied only where something is scored. The first rows are checked against separate
    sequences through the whole model; a model whose attention does not take such masks, or whose
    logits are more than a projection, is scored that way throughout, and `fast` says so.
    """

    fast: bool | None = None  # not known before the first requests

    def _loglikelihood_tokens(
        self,
        requests: list[Request],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, is it what greedy decoding gives) of each request, in order."""
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        rows = sorted(self._rows(requests), key=lambda row: -len(row.tokens()))
        if self.fast is None:
            self.fast = self._agrees(rows)
        if not self.fast:
            rows = [alone for row in rows for alone in row.separate()]
        for batch in _batches(rows, batch_tokens(self.model)):
            for index, result in self._score(batch, self.fast):
                results[index] = result
        _check_numbers([value for value, _ in results])
        return results

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """As lm-eval has it, without its progress bar in the log."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _rows(self, requests: Sequence[Request]) -> list[Row]:
        """Requests by context; one that must be cut to the model's length stands alone."""
        rows: dict[tuple[int, ...], Row] = {}
        finished: list[Row] = []
        for i, (_, context, continuation) in enumerate(requests):
            excess = len(context) + len(continuation) - 1 - self.max_length
            if excess > 0:  # cut from the left, as lm-eval does
                finished.append(Row(context[excess:], [i], [continuation]))
                continue
            row = rows.setdefault(tuple(context), Row(context, [], []))
            row.requests.append(i)
            row.continuations.append(continuation)
            if len(row.tokens()) > 3 * max(len(context), LEAST_SHARED):
                finished.append(rows.pop(tuple(context)))
        return [*rows.values(), *finished]

    def _agrees(self, rows: Sequence[Row]) -> bool:
        """Does the fast way give what the plain one gives, for the first rows?"""
        sharing = [row for row in rows if len(row.requests) > 1]
        sample = (sharing or list(rows))[:4]
        fast = dict(self._score(sample, fast=True))
        tolerance = AGREEMENT if self.model.dtype == torch.float32 else 50 * AGREEMENT
        for row in [alone for shared in sample for alone in shared.separate()]:
            ((index, (value, _)),) = self._score([row], fast=False)
            if abs(fast[index][0] - value) > tolerance * len(row.continuations[0]):
                return False
        return True

    @torch.no_grad()
    def _score(self, rows: Sequence[Row], fast: bool) -> Iterator[tuple[int, tuple[float, bool]]]:
        """Index and result of every request in a batch of rows."""
        ids, positions, mask = _pack(rows, self.model.dtype)
        arguments: dict[str, Any] = {"input_ids": ids.to(self.device), "use_cache": False}
        if any(len(row.requests) > 1 for row in rows):
            arguments["attention_mask"] = mask.to(self.device)
            arguments["position_ids"] = positions.to(self.device)
        where = [(n, p) for n, row in enumerate(rows) for p in row.scored_positions()]
        numbers, places = torch.tensor(where, device=self.device).T
        if fast:
            hidden = self.model.base_model(**arguments)[0]
            logits = self.model.get_output_embeddings()(hidden[numbers, places])
        else:
            logits = self.model(**arguments).logits[numbers, places]
        wanted = torch.tensor(
            [t for row in rows for c in row.continuations for t in c], device=self.device
        )
        values = _log_probabilities(logits[:, None], wanted[:, None])[:, 0]
        greedy = logits.argmax(-1) == wanted
        start = 0
        for row in rows:
            for index, continuation in zip(row.requests, row.continuations, strict=True):
                own = slice(start, start := start + len(continuation))
                yield index, (float(values[own].sum()), bool(greedy[own].all()))


def _batches(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Rows, longest first, in batches that hold `tokens` tokens with padding, or one row."""
    start = 0
    while start < len(rows):
        count = max(1, tokens // max(1, len(rows[start].tokens())))
        yield list(rows[start : start + count])
        start += count


def _pack(rows: Sequence[Row], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids [rows, length], positions alike, and the mask [rows, 1, length, length].

    The mask is 0 where a position may look and the lowest number of `dtype` where not. Padding
    stands at the end and looks at itself only.
    """
    sequences = [row.tokens() for row in rows]
    length = max(map(len, sequences))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    see = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1)
    for number, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
        ids[number, : len(sequence)] = torch.tensor(sequence)
        start = len(row.context)
        positions[number, :start] = torch.arange(start)
        see[number, :start, :start] = torch.ones(start, start, dtype=torch.bool).tril()
        end = start
        for continuation in row.continuations:
            own = slice(end, end + len(continuation) - 1)
            count = own.stop - own.start
            positions[number, own] = torch.arange(start, start + count)
            see[number, own, :start] = True
            see[number, own, own] = torch.ones(count, count, dtype=torch.bool).tril()
            end = own.stop
    mask = torch.zeros(see.shape, dtype=dtype).masked_fill(~see, torch.finfo(dtype).min)
    return ids, positions, mask[:, None]
