"""Choosing the next tokens of a batch of texts: what `generate` of transformers does, all on the
device, in tensors made once, so that a GPU can replay a whole step without asking the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from calib.spec import GenerateSpec

SPARE = 78
"""Columns beyond `top_k` that tokens of the same score as the last one may fill."""


def uniform_numbers(seed: int, texts: Sequence[int], count: int) -> np.ndarray:
    """The uniform numbers that texts are sampled with, float64 [count, texts].

    They come from a counter (Philox), so the number of text i at position p depends on (seed, i,
    p) alone.
    """
    return np.stack(
        [np.random.Generator(np.random.Philox(key=[seed, i])).random(count) for i in texts], axis=1
    )


class Sampler:
    """Samples a batch of texts, one token each a step.

    The order of the processors is that of transformers: repetition penalty, temperature, top-k,
    top-p; a token is then drawn by inverting the distribution function, tokens in order of id, at
    the text's uniform number. Only the first step looks at the whole vocabulary: what follows
    works on the highest `columns` scores.

    Attributes:
        history: the tokens of every text so far, int64 [rows, room]; columns not reached yet
            repeat its first token, which the repetition penalty counts once however often it
            stands there.
        ended: which texts have met EOS, bool [rows].
        overflow: were more tokens tied for the last place of top-k than `columns` hold? bool [1].
    """

    def __init__(
        self,
        spec: GenerateSpec,
        rows: int,
        prefix: int,
        new: int,
        eos: int | None,
        device: torch.device,
    ) -> None:
        self.spec = spec
        self.prefix = prefix
        self.eos = eos
        self.columns = spec.top_k + SPARE if spec.top_k else None
        self.history = torch.zeros(rows, prefix + new, dtype=torch.int64, device=device)
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self.overflow = torch.zeros(1, dtype=torch.bool, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.uniform = torch.zeros(new, rows, dtype=torch.float64, device=device)
        self.temperatures = torch.tensor(spec.temperatures(new), device=device)

    def start(self, starts: Tensor, uniform: np.ndarray) -> None:
        """Begin a batch.

        Args:
            starts: int64 [rows, prefix].
            uniform: [new, rows], see `uniform_numbers`.
        """
        self.history.copy_(starts[:, :1].expand_as(self.history))
        self.history[:, : self.prefix] = starts
        self.tokens.copy_(starts[:, -1])
        self.uniform.copy_(torch.from_numpy(uniform))
        for state in (self.ended, self.overflow, self.position):
            state.zero_()

    def step(self, logits: Tensor) -> None:
        """Draw the next token of every text into `tokens` and `history`.

        Args:
            logits: [rows, vocabulary], of the latest `tokens`.
        """
        scores = self._penalised(logits)
        columns = min(self.columns or scores.shape[1], scores.shape[1])
        values, tokens = torch.topk(scores, columns)  # highest first
        if columns == scores.shape[1]:
            self.columns = None
        values = self._cut(values / self.temperatures.index_select(0, self.position))
        by_token = tokens.argsort(1)
        chances = values.gather(1, by_token).double().softmax(-1).cumsum(-1)
        wanted = self.uniform.index_select(0, self.position).T * chances[:, -1:]
        column = (chances <= wanted).sum(1, keepdim=True).clamp_max(chances.shape[1] - 1)
        chosen = tokens.gather(1, by_token.gather(1, column))[:, 0]
        if self.eos is not None:
            chosen = chosen.masked_fill(self.ended, self.eos)
            self.ended |= chosen == self.eos
        self.tokens.copy_(chosen)
        self.history.index_copy_(1, self.position + self.prefix, chosen[:, None])
        self.position += 1

    def widen(self) -> bool:
        """Make room where ties overflowed in this batch, which is then to be written again."""
        if self.columns is None or not bool(self.overflow):
            return False
        self.columns *= 4
        return True

    def _penalised(self, logits: Tensor) -> Tensor:
        """The scores in float32, those of tokens seen before made less likely (Keskar 2019)."""
        penalty = self.spec.repetition_penalty
        scores = logits.to(torch.float32, copy=True)
        if penalty != 1:
            seen = scores.gather(1, self.history)
            scores.scatter_(1, self.history, torch.where(seen < 0, seen * penalty, seen / penalty))
        return scores

    def _cut(self, values: Tensor) -> Tensor:
        """Minus infinity for what top-k and top-p leave out of descending `values`."""
        top_k, top_p = self.spec.top_k, self.spec.top_p
        if 0 < top_k <= values.shape[1]:
            last = values[:, top_k - 1 : top_k]
            if self.columns is not None:  # not all of the vocabulary
                self.overflow |= (values[:, -1:] >= last).any()
            values = values.masked_fill(values < last, -torch.inf)
        if top_p < 1:
            shares = values.flip(1).softmax(-1).cumsum(-1).flip(1)  # of a token and all below it
            out = shares <= 1 - top_p
            out[:, 0] = False
            values = values.masked_fill(out, -torch.inf)
        return values
