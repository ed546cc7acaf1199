"""Writing batches of texts: prefixes in, token ids out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from calib.decoder import PlainDecoder, WholeDecoder, step_fault
from calib.fast_decoder import FastDecoder
from calib.llama_shape import NotFastError
from calib.sampling import Sampler, uniform_numbers

if TYPE_CHECKING:
    from calib.spec import GenerateSpec

LOOK_EVERY = 16
"""Steps between two looks at whether all texts have ended: each makes a GPU wait for the host."""


class Writer:
    """Continues batches of prefixes of one shape with one model.

    Attributes:
        path: "fast", "plain" or "whole", and why not faster: how the steps are computed.
    """

    def __init__(
        self, model: PreTrainedModel, spec: GenerateSpec, prefix: int, new: int, eos: int | None
    ) -> None:
        self.model, self.spec, self.new, self.eos = model, spec, new, eos
        self.prefix = prefix
        self.decoder, self.path = _decoder(model, spec.batch, prefix + new)
        self.sampler = Sampler(spec, spec.batch, prefix, new, eos, model.device)
        self._advance: Callable[[], None] | None = None

    @torch.no_grad()
    def prepare(self, starts: Tensor) -> None:
        """Compile and record a step, as the first `write` does otherwise."""
        self._advance = self._recorded(starts, np.zeros((self.new, len(starts))))

    @torch.no_grad()
    def write(
        self,
        starts: Tensor,
        texts: Sequence[int],
        look: Callable[[int, Tensor], None] = lambda position, ids: None,
    ) -> list[list[int]]:
        """Continue a full batch until every text has met EOS or has `new` more tokens.

        Args:
            starts: the prefixes, int64 [batch, prefix].
            texts: the texts' numbers, which fix the chance they are sampled with.
            look: called now and then with the tokens written a text, and the batch so far.

        Returns:
            Token ids of every text, prefix included and EOS left out.
        """
        starts = starts.to(self.model.device)
        uniform = uniform_numbers(self.spec.one_seed, texts, self.new)
        while True:
            rows = self._write(starts, uniform, look)
            if not self.sampler.widen():
                return rows
            self._advance = None

    def _write(
        self, starts: Tensor, uniform: np.ndarray, look: Callable[[int, Tensor], None]
    ) -> list[list[int]]:
        if self._advance is None:
            self._advance = self._recorded(starts, uniform)
        self._start(starts, uniform)
        for position in range(self.new):
            self._advance()
            if (position + 1) % LOOK_EVERY == 0:
                look(position + 1, self.sampler.history)
                if bool(self.sampler.ended.all()):
                    break
        length = self.prefix + int(self.sampler.position)
        rows = self.sampler.history[:, :length].tolist()
        return [_up_to(row, self.prefix, self.eos) for row in rows]

    def _start(self, starts: Tensor, uniform: np.ndarray) -> None:
        self.sampler.start(starts, uniform)
        self.decoder.start(starts[:, :-1])

    def _step(self) -> None:
        self.sampler.step(self.decoder.step(self.sampler.tokens))

    def _recorded(self, starts: Tensor, uniform: np.ndarray) -> Callable[[], None]:
        """One step as a function; on a GPU the fast one is recorded, since it never looks back."""
        if not isinstance(self.decoder, FastDecoder) or not starts.is_cuda:
            return self._step
        self._start(starts, uniform)
        self._step()  # compiles, and lets libraries allocate, before the recording
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph.replay


def _decoder(
    model: PreTrainedModel, rows: int, room: int
) -> tuple[FastDecoder | PlainDecoder | WholeDecoder, str]:
    """The fastest decoder that holds; and which, and why not a faster one."""
    try:
        return FastDecoder(model, rows, room), "fast"
    except NotFastError as reason:
        path = f"plain: {reason}"
    # here the fast one's keys and values are let go
    fault = step_fault(model, room)
    if fault is not None:
        return WholeDecoder(model), f"whole: {fault}"
    return PlainDecoder(model, room), path


def _up_to(row: list[int], prefix: int, eos: int | None) -> list[int]:
    """A row of ids before its first EOS after the prefix."""
    return row[: row.index(eos, prefix)] if eos in row[prefix:] else row
