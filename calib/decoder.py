"""One token a step, by a model's own forward: a path for every decoder, fast or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

AGREEMENT = {True: 1e-4, False: 0.1}
"""Largest relative difference of logits between steps and a whole forward, in float32 and in
shorter types; a model that exceeds it is not stepped."""

FIRST, TOKENS = 4, 32
"""Tokens of the sequences that this is tried on, those that steps begin with and all."""

LOGITS_TOGETHER = 2**28
"""Bounds the memory of logits where all of a text are computed for the last (float32: 1 GiB)."""


class PlainDecoder:
    """A decoder of transformers by its own forward, keys and values in tensors made once."""

    def __init__(self, model: PreTrainedModel, room: int) -> None:
        self.model = model
        self.room = room
        self.cache: DynamicCache | None = None

    def start(self, ids: Tensor) -> None:
        """Begin with these tokens, int64 [rows, tokens]; there may be none."""
        self.cache = None  # its memory can be used for the next
        self.cache = roomy_cache(self.model, self.room)
        prefill(self.model, ids, self.cache)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [rows, vocabulary] after one more token a text, int64 [rows]."""
        output = self.model(input_ids=tokens[:, None], past_key_values=self.cache, use_cache=True)
        logits: Tensor = output.logits[:, -1]
        return logits


class WholeDecoder:
    """Any decoder of transformers, by a forward over the whole text at every step.

    For models whose state is not in the cache that they are handed, and which begin anew with each
    token: the time of a step grows with the text, and what it gives is right.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.ids: Tensor | None = None

    def start(self, ids: Tensor) -> None:
        """Begin with these tokens, int64 [rows, tokens]; there may be none."""
        self.ids = ids

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [rows, vocabulary] after one more token a text, int64 [rows]."""
        assert self.ids is not None
        self.ids = torch.cat([self.ids, tokens[:, None]], 1)
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        rows = max(1, LOGITS_TOGETHER // (vocabulary * self.ids.shape[1]))
        outputs = (self.model(input_ids=ids, use_cache=False) for ids in self.ids.split(rows))
        return torch.cat([output.logits[:, -1] for output in outputs])


@torch.no_grad()
def step_fault(model: PreTrainedModel, room: int) -> str | None:
    """Why a `PlainDecoder` does not give what whole forwards give; None where it does.

    Another text goes before, as another batch does: some models keep their state in themselves.
    """
    tokens = min(room, TOKENS)
    first = min(FIRST, tokens // 2)
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.config.get_text_config().vocab_size)
    before, ids = torch.randint(vocabulary, (2, 2, tokens), generator=generator).to(model.device)
    decoder = PlainDecoder(model, tokens)
    try:
        decoder.start(before[:, :first])
        decoder.step(before[:, first])
        decoder.start(ids[:, :first])
        steps = [decoder.step(ids[:, i]) for i in range(first, tokens)]
        whole = model(input_ids=ids, use_cache=False).logits[:, first:].double()
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        return f"the model's steps fail: {type(error).__name__}: {reason}"
    difference = float((torch.stack(steps, 1).double() - whole).norm() / whole.norm())
    if not difference <= AGREEMENT[model.dtype == torch.float32]:
        return f"the model's steps differ from whole forwards by {difference:.1g}"
    return None


def prefill(model: PreTrainedModel, ids: Tensor, cache: DynamicCache) -> None:
    """Put the keys and values of `ids` into an empty cache."""
    if ids.shape[1]:
        model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)


class RoomyLayer(DynamicLayer):
    """Keys and values in tensors made once, where the base class copies all of them each step."""

    def __init__(self, room: int, store: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.room = room
        self.store = list(store)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of new tokens; all of them, old and new."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.store = self.store or [
            new.new_empty(*new.shape[:2], self.room, new.shape[3])
            for new in (key_states, value_states)
        ]
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        for store, new in zip(self.store, (key_states, value_states), strict=True):
            store[:, :, start:stop] = new
        self.keys, self.values = (store[:, :, :stop] for store in self.store)
        return self.keys, self.values


def roomy_cache(model: PreTrainedModel, room: int) -> DynamicCache:
    """A cache for `room` tokens; layers that slide or do otherwise stay transformers' own."""
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer(room) if type(x) is DynamicLayer else x for x in cache.layers]
    return cache
