"""Log-likelihoods under a model: of token windows, and of requests that begin alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from jobs.evaluate.forward import (
    PROBE,
    Forward,
    KeysValues,
    Layout,
    Part,
    difference,
    score_logits,
)
from jobs.evaluate.rows import (
    NONE,
    Group,
    Packed,
    Row,
    Scored,
    batch_size,
    groups_of,
    pack,
    parts_of,
)

AGREEMENT = {True: 1e-3, False: 0.05}
"""Largest relative difference of hidden states between rows and separate sequences, in float32 and
in shorter types; a model that exceeds it is scored sequence by sequence. Sums in another order make
a tenth of it, wrong positions or masks several times as much."""

ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
"""What models raise whose parts are not where others have them."""

SAMPLE, SAMPLE_TAILS = 2, 3
"""Rows that both ways are compared on, of each kind, and tails of each."""

Result = tuple[float, bool]
"""Log-likelihood of a continuation, and is it what greedy decoding gives?"""


Kind = tuple[bool, bool]
"""Of rows: is there a prefix, are there several tails?"""


class LogLikelihoods:
    """Scores requests under one model.

    Each log-likelihood is the one that a separate sequence gives, up to rounding: positions and
    the attention mask make every tail follow its beginning directly, and the output projection is
    applied only where something is scored. Whether the model is so is tried first (see
    `Forward.fault`), and in every list of requests the longest rows of each kind are checked
    against separate sequences. Where something is amiss (a window of attention that is shorter, a
    recurrent layer, logits that are more than a projection, a model that cannot be taken apart)
    the list is scored by separate sequences through the whole model, and `notes` says so, and why.

    Attributes:
        notes: how the latest list was scored, for the record.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.forward = Forward(model)
        self.device = model.device
        self.notes: dict[str, Any] = {}
        self._sound = False  # was the model tried, and found without fault?
        self._agreed: dict[Kind, int] = {}  # up to which length each kind of row agreed

    @torch.no_grad()
    def __call__(self, requests: Sequence[Scored]) -> list[Result]:
        """Results in the order of the requests.

        Raises:
            ValueError: a log-likelihood is NaN or infinite.
        """
        groups = groups_of(requests)
        fallback = self._obstacle(groups, requests)
        results: list[Result] = [(0.0, False)] * len(requests)
        if fallback is None:
            with self.forward.by_rows():
                self._score_groups(groups, requests, results)
        else:
            self._score_groups([_separate(groups)], requests, results, plain=True)
        check_numbers([value for value, _ in results])
        self.notes = {
            "shared_context": fallback is None,
            "fallback": fallback,
            "shared_prefixes": 0 if fallback else sum(len(g.prefix) > 0 for g in groups),
            "batch_tokens": self.forward.tokens,
            "compiled": False if fallback else self.forward.compiled,
        }
        return results

    def _obstacle(self, groups: Sequence[Group], requests: Sequence[Scored]) -> str | None:
        """Why rows do not give what separate sequences give; None where they do."""
        longest = max(requests, key=lambda request: len(request.tokens)).tokens
        known = self.forward.obstacle(len(longest))
        if known is not None:
            return known
        try:
            if not self._sound:
                fault = self.forward.fault(self._tensor(np.resize(longest, PROBE)))
                if fault is not None:
                    return fault
                self._sound = True
            return self._disagreement(groups, requests)
        except ERRORS as error:
            reason = str(error).strip().partition("\n")[0]
            return f"rows fail: {type(error).__name__}: {reason}"

    def _disagreement(self, groups: Sequence[Group], requests: Sequence[Scored]) -> str | None:
        """How the longest rows of a kind differ from separate sequences; None where they do not.

        Kinds whose longest row is no longer than one that agreed before are not tried again.
        """
        sample = {
            kind: group
            for kind, group in _sample(groups).items()
            if group.rows[-1].longest > self._agreed.get(kind, 0)
        }
        if not sample:
            return None
        with self.forward.by_rows():
            found = [self._rows_hidden(group, requests) for group in sample.values()]
        for group, hidden in zip(sample.values(), found, strict=True):
            apart = difference(hidden, self._separate_hidden(group, requests))
            if not apart <= AGREEMENT[self.forward.model.dtype == torch.float32]:
                return f"hidden states of rows and of separate sequences differ by {apart:.2g}"
        self._agreed |= {kind: group.rows[-1].longest for kind, group in sample.items()}
        return None

    def _rows_hidden(self, group: Group, requests: Sequence[Scored]) -> Tensor:
        """Hidden states of the scored tokens of a group's rows, in one batch."""
        shared = len(group.prefix)
        prefix = self.forward.prefix(self._tensor(group.prefix)) if shared else None
        rows = sorted(group.rows, key=lambda row: -len(row))
        return self._hidden(rows, requests, shared, prefix)[0]

    def _separate_hidden(self, group: Group, requests: Sequence[Scored]) -> Tensor:
        """The same of separate sequences, one by one."""
        hidden = []
        for row in sorted(group.rows, key=lambda row: -len(row)):
            for alone in row.separate():
                packed = pack([alone], requests, 0)
                own = self.forward.plain_hidden(self._tensor(packed.ids))[0]
                hidden.append(own[self._tensor(packed.places)])
        return torch.cat(hidden)

    def _score_groups(
        self,
        groups: Sequence[Group],
        requests: Sequence[Scored],
        results: list[Result],
        plain: bool = False,
    ) -> None:
        """Put the results of all rows at their places; halves the batch when memory runs out."""
        scored: list[tuple[list[Row], Tensor, Tensor]] = []
        for group in groups:
            rows = sorted(group.rows, key=lambda row: -len(row))
            shared = len(group.prefix)
            prefix = self.forward.prefix(self._tensor(group.prefix)) if shared else None
            while rows:
                count = batch_size(rows, shared, self._tokens(plain))
                try:
                    values = self._pass(rows[:count], requests, shared, prefix, plain)
                except torch.OutOfMemoryError:
                    if count == 1 and len(rows[0].tails) == 1:
                        raise
                    if count == 1:
                        rows[:1] = rows[0].separate()
                    while count > 1 and batch_size(rows, shared, self._tokens(plain)) >= count:
                        self.forward.tokens //= 2
                    continue
                scored.append((rows[:count], *values))
                rows = rows[count:]
        for batch, logs, greedy in scored:  # only now does the device have to be waited for
            _distribute(batch, logs.cpu().numpy(), greedy.cpu().numpy(), results)

    def _tokens(self, plain: bool) -> int:
        """Tokens in a batch; whole logits, where they are computed, are bounded too."""
        together = self.forward.logits_together
        return min(self.forward.tokens, together) if plain else self.forward.tokens

    def _pass(
        self,
        rows: Sequence[Row],
        requests: Sequence[Scored],
        shared: int,
        prefix: KeysValues | None,
        plain: bool,
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and is-greedy of every scored token of a batch, row by row."""
        if plain:
            packed = pack(rows, requests, 0)
            logits = self.forward.plain_logits(self._tensor(packed.ids)).flatten(0, 1)
            return score_logits(logits[self._tensor(packed.places)], self._tensor(packed.wanted))
        return self.forward.score(*self._hidden(rows, requests, shared, prefix))

    def _hidden(
        self,
        rows: Sequence[Row],
        requests: Sequence[Scored],
        shared: int,
        prefix: KeysValues | None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden states that predict the scored tokens of a batch, row by row, and those tokens."""
        parts = [pack(part, requests, shared) for part in parts_of(rows, shared)]
        starts = np.cumsum([0, *(part.ids.size for part in parts)])
        places = [part.places + start for part, start in zip(parts, starts, strict=False)]
        layout = Layout([self._part(part, shared) for part in parts], prefix)
        hidden = self.forward.hidden(
            self._tensor(*(part.ids.ravel() for part in parts)),
            self._tensor(*(part.positions.ravel() for part in parts)),
            layout,
        )
        wanted = self._tensor(*(part.wanted for part in parts))
        return hidden[self._tensor(*places)], wanted

    def _part(self, packed: Packed, shared: int) -> Part:
        rows, length = packed.ids.shape
        if not shared and not packed.segments.any():
            return Part(rows, length)
        segments = self._tensor(packed.segments)
        return Part(rows, length, _mask(segments, shared, self.forward.model.dtype))

    def _tensor(self, *arrays: np.ndarray) -> Tensor:
        """Arrays end to end, on the model's device, without waiting for it."""
        tensor = torch.from_numpy(np.concatenate(arrays).astype(np.int64))
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)


def _separate(groups: Sequence[Group]) -> Group:
    """Every distinct request as a row of its own, without a prefix."""
    rows = [alone for group in groups for row in group.rows for alone in row.separate()]
    return Group(NONE, rows)


def _sample(groups: Sequence[Group]) -> dict[Kind, Group]:
    """The longest rows of each kind, longest last."""
    chosen = {bool(len(g.prefix)): g for g in sorted(groups, key=lambda g: len(g.prefix))}
    sample = {}
    for after, group in chosen.items():
        for several in (False, True):
            rows = [row for row in group.rows if (len(row.tails) > 1) == several]
            if rows:
                rows = sorted(rows, key=lambda row: row.longest)[-SAMPLE:]
                sample[after, several] = Group(group.prefix, [r.first(SAMPLE_TAILS) for r in rows])
    return sample


def _mask(segments: Tensor, prefix: int, dtype: torch.dtype) -> Tensor:
    """The mask [rows, 1, length, prefix + length]: 0 where a position may look, else the lowest.

    A position looks at the prefix, at what is before it in its row's beginning, and at what is
    before it in its own tail.
    """
    rows, length = segments.shape
    own = segments[:, None, :] == segments[:, :, None]
    see = (own | (segments[:, None, :] == 0)).tril()
    width = prefix + length
    aligned = width + -width % 8  # which some kernels want of a row's start in memory
    mask = torch.zeros(rows, length, aligned, dtype=dtype, device=segments.device)[..., :width]
    mask[..., prefix:].masked_fill_(~see, torch.finfo(dtype).min)
    return mask[:, None]


def _distribute(
    rows: Sequence[Row], logs: np.ndarray, greedy: np.ndarray, results: list[Result]
) -> None:
    start = 0
    for row in rows:
        for index, _, scored in row.requests:
            own = slice(start, start := start + scored)
            results[index] = (float(logs[own].sum()), bool(greedy[own].all()))


def window_losses(model: PreTrainedModel, windows: Sequence[Sequence[int]]) -> list[float]:
    """Summed negative log-likelihood, in nats, of every token after the first of each window.

    Raises:
        ValueError: a loss is NaN or infinite.
    """
    arrays = [np.asarray(window, np.int32) for window in windows]
    long = [i for i, window in enumerate(arrays) if len(window) > 1]
    losses = [0.0] * len(windows)
    if long:
        requests = [Scored(arrays[i][:-1], arrays[i][1:]) for i in long]
        for i, (value, _) in zip(long, LogLikelihoods(model)(requests), strict=True):
            losses[i] = -value
    return losses


def check_numbers(values: Sequence[float]) -> None:
    """Refuse what would pass for a score: the largest of NaNs is the first, for example."""
    wrong = sum(not math.isfinite(value) for value in values)
    if wrong:
        raise ValueError(
            f"{wrong} of {len(values)} log-likelihoods are NaN or infinite: the model's "
            "activations overflow or its weights are damaged; try another dtype"
        )
