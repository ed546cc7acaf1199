"""Sizes of what a grid names, known before anything is fetched: by files, a table or a name."""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from jobs.files import read_json
from jobs.plan.inputs import ModelInput

UNKNOWN_TASK = (2000, 100)
"""Documents, and tokens each, of a task that the table does not have."""

UNKNOWN_TEXT = 500_000
"""Tokens of a perplexity text that the table does not have."""

TOKEN_BYTES, PACKED = 4, 2.5
"""Bytes of text a token, and of text a byte of a compressed file."""


@dataclass(frozen=True)
class Shape:
    """What an estimate needs to know of a model.

    Attributes:
        parameters, blocks, width: of the model. widest: inputs of its widest linear.
        keys: channels of the keys of one block, all heads together.
        basis: from where it is known.
    """

    parameters: float
    blocks: int
    width: int
    widest: int
    keys: int
    basis: str


def shape(name: str, model: ModelInput) -> Shape | None:
    """A model's size: from its files, the table, or the number in its name; None if unknown."""
    if model.folder is not None:
        return _from_files(model.folder)
    bare = name.split("@")[0]
    if bare in table()["models"]:
        parameters, blocks, width, widest, *keys = table()["models"][bare]
        known = blocks, width, widest, keys[0] if keys else width
        return Shape(float(parameters), *known, "published configurations")
    found = re.search(r"(\d+(?:\.\d+)?)([bm])(?![a-z])", bare.lower())
    if found is None:
        return None
    parameters = float(found[1]) * (1e9 if found[2] == "b" else 1e6)
    width = round((parameters / 32 / 12) ** 0.5)  # a block of 12 width^2, 32 of them
    return Shape(parameters, 32, width, 4 * width, width, f"the name of {bare}")


def _from_files(folder: Path) -> Shape:
    config = read_json(folder / "config.json")
    sizes: list[list[int]] = []
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length))
        sizes += [e["shape"] for name, e in header.items() if name != "__metadata__"]
    parameters = float(sum(math.prod(dimensions) for dimensions in sizes))
    width = next((config[k] for k in ("hidden_size", "n_embd", "dim") if config.get(k)), 1024)
    blocks = next(
        (config[k] for k in ("num_hidden_layers", "n_layer", "n_layers") if config.get(k)), 1
    )
    widest = config.get("intermediate_size") or 4 * width
    keys = width
    if heads := config.get("num_attention_heads"):
        each = config.get("head_dim") or width // heads
        keys = each * (config.get("num_key_value_heads") or heads)
    found = (int(blocks), int(width), int(widest), int(keys))
    return Shape(parameters, *found, "the files of the models")


@cache
def table() -> dict[str, Any]:
    """Known sizes of models, tasks, texts and datasets."""
    text = (files("jobs.plan") / "estimates.yaml").read_text("utf-8")
    found: dict[str, Any] = YAML(typ="safe").load(text)
    return found
