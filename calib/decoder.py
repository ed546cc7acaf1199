"""One token a step, keys and values in tensors made once: a path for every decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


class PlainDecoder:
    """Any decoder of transformers, by its own forward."""

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
