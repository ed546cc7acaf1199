"""Which files of a model's folder or repository matter, and whether they are all there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

SCIENCE_FILES = ("config.json", "*.safetensors", "tokenizer*", "*.model", "merges.txt", "vocab.*")
"""The files of a model folder that its content hash is made of."""

OTHER_FILES = (
    *("generation_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.*", "LICENSE*", "README.md"),
)

INDEX, PICKLED_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"


def wanted_files(names: Sequence[str]) -> list[str]:
    """The files of a model repository to fetch: one set of weights, and what goes with them.

    Args:
        names: of all its files. Those in folders are other formats of the same weights.

    Raises:
        FileNotFoundError: it holds no model; the message says what it does hold.
    """
    own = sorted(n for n in names if "/" not in n)
    weights = [n for n in own if n.endswith(".safetensors")]
    if "model.safetensors" in own or INDEX in own:  # beside these some have a copy in one file
        weights = [n for n in weights if n.startswith("model")] + [n for n in own if n == INDEX]
    if not weights:
        weights = [n for n in own if fnmatchcase(n, "pytorch_model*.bin") or n == PICKLED_INDEX]
    if not weights or "config.json" not in own:
        listed = ", ".join(own[:8]) + (", ..." if len(own) > 8 else "")
        raise FileNotFoundError(
            "it holds no model: that needs config.json and *.safetensors (or pytorch_model*.bin); "
            f"it has: {listed or 'nothing'}"
        )
    patterns = [p for p in (*SCIENCE_FILES, *OTHER_FILES) if p != "*.safetensors"]
    rest = [n for n in own if any(fnmatchcase(n, p) for p in patterns)]
    return sorted({*weights, *rest})


def pickled(names: Sequence[str]) -> list[str]:
    """The pickled weights among files."""
    return [n for n in names if n.endswith(".bin")]


def converted_name(name: str) -> str:
    """What a file of pickled weights, or their index, is called once it is converted."""
    if name == PICKLED_INDEX:
        return INDEX
    return name.removeprefix("pytorch_").removesuffix(".bin") + ".safetensors"


def missing_files(folder: Path) -> list[str]:
    """What a model folder lacks to be loaded: its weights may be in parts that an index lists."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    index = folder / INDEX
    if index.is_file():
        parts = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        return missing + [name for name in parts if not (folder / name).is_file()]
    there = [p.name for p in folder.glob("*.safetensors")]
    if not there:
        return [*missing, "*.safetensors"]
    if "model.safetensors" not in there and any("-of-" in name for name in there):
        return [*missing, INDEX]
    return missing
