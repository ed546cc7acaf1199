"""Does a grid fit the tokenizers of its models, by their files? No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from cluster.yamlfile import Place, Problem
from jobs.files import read_json
from jobs.plan.grid import Grid
from jobs.plan.inputs import Inputs

PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Tokenizers that have the special tokens which their files state and no others."""

OWN_CLASSES = ("qwen",)
"""Beginnings of model types that transformers gives a class of its own, whatever files state."""


def token_problems(grid: Grid, inputs: Inputs) -> Iterator[Problem]:
    """Special tokens that the grid needs and a tokenizer lacks; tokens that a model lacks."""
    for i, (name, model) in enumerate(inputs.models.items()):
        folder = model.folder
        if folder is None:
            continue
        place: Place = ("model", i) if len(inputs.models) > 1 else ("model",)
        yield from _too_many_tokens(name, folder, place)
        if grid.evaluate.bos == "add" and has_token(folder, "bos_token") is False:
            yield Problem(
                ("evaluate", "bos"),
                f"'add' is not allowed; the tokenizer of {name} has no BOS token: write none",
            )
        for j, task in enumerate(grid.evaluate.tasks):
            writes = inputs.tasks[task.name].generates > 0
            if writes and has_token(folder, "eos_token") is False:
                yield Problem(
                    ("evaluate", "tasks", j),
                    f"{task.name} lets a model write until its EOS token, and the tokenizer of "
                    f"{name} has none; leave the task out, or set eos_token in the model's "
                    "tokenizer_config.json",
                )


def has_token(folder: Path, token: Literal["bos_token", "eos_token"]) -> bool | None:
    """Does a model's tokenizer have a special token? None where its files leave that to a class."""
    stated: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        stated |= read_json(folder / name) if (folder / name).is_file() else {}
    if token in stated:
        return stated[token] is not None
    kind = str(read_json(folder / "config.json").get("model_type"))
    plain = stated.get("tokenizer_class") in PLAIN_CLASSES and not kind.startswith(OWN_CLASSES)
    return False if plain else None


def _too_many_tokens(name: str, folder: Path, place: Place) -> Iterator[Problem]:
    """A tokenizer whose ordinary tokens go beyond the model's embedding.

    Special tokens may: some tokenizers have a padding token that no text holds.
    """
    config = read_json(folder / "config.json")
    rows = (config.get("text_config") or config).get("vocab_size")
    path = folder / "tokenizer.json"
    if not rows or not path.is_file():
        return
    try:
        highest = _highest(read_json(path))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        yield Problem(place, f"{path} cannot be read: {error}; copy it from the model again")
        return
    if highest >= rows:
        yield Problem(
            place,
            f"the tokenizer of {name} has {highest + 1:,} tokens, and the model's embedding "
            f"{rows:,} rows; use the tokenizer that the model was trained with",
        )


def _highest(tokenizer: dict[str, Any]) -> int:
    """The highest id of a `tokenizer.json` that is no special token's."""
    vocabulary = tokenizer["model"].get("vocab", {})
    special = {t["content"]: t["id"] for t in tokenizer.get("added_tokens", []) if t["special"]}
    if isinstance(vocabulary, list):  # [[token, score], ...], the place is the id
        tokens = {token: i for i, (token, *_) in enumerate(vocabulary)}
    else:
        tokens = dict(vocabulary)
    added = {t["content"]: t["id"] for t in tokenizer.get("added_tokens", [])}
    return max((i for token, i in (tokens | added).items() if token not in special), default=-1)
