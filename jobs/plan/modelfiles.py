"""What is wrong with a model folder, found without torch before anything starts."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OWN_TYPES = ("openlm",)
"""Model types that this project adds to those of transformers; see `prune.model.openlm`."""

BOTH_WAYS = ("bert-generation", "xlnet")
"""Model types whose tokens see those that follow, beside the ones that fill in masked tokens."""

TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*")


def defect(folder: Path) -> str | None:
    """The first thing that keeps a folder from being loaded as a causal language model, or None."""
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        message = f"{folder} is no model folder: it needs config.json and *.safetensors"
        if any(folder.glob("*.bin")):
            message += (
                "; pickled *.bin weights are not read: jobs.prefetch converts those of a hub id; a "
                "folder of yours, load once with transformers and write with save_pretrained"
            )
        return message
    if not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        return f"{folder} has no tokenizer: it needs {', '.join(TOKENIZER_FILES[:-1])} or vocab.*"
    return next(_defects(folder), None)


def _defects(folder: Path) -> Iterator[str]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        yield f"{path} cannot be read: {error}; copy it from the model again"
        return
    config = config if isinstance(config, dict) else {}
    kind = config.get("model_type")
    known = causal_types()
    if known and kind not in known:
        yield (
            f"{path} names model_type {kind!r}, which is no causal language model of the "
            "transformers installed here (remote code is never run)"
        )
    elif _is_encoder(config):
        yield (
            f"{path} names model_type {kind!r} without `is_decoder: true`: an encoder, whose "
            "tokens see those that follow; take a causal language model"
        )
    if config.get("quantization_config"):
        yield (
            f"{path} has a quantization_config: quantised weights cannot be pruned; take the "
            "unquantised checkpoint"
        )
    for weights in sorted(folder.glob("*.safetensors")):
        try:
            header(weights)
        except ValueError as error:
            yield f"{weights} is damaged: {error}; copy it from the model again"


def header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype, shape and place of every tensor.

    Raises:
        ValueError: the file is cut off or no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise ValueError("its header is cut off")
        tensors: dict[str, Any] = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    if 8 + length + end != size:
        raise ValueError(f"it has {size:,} bytes, and its header describes {8 + length + end:,}")
    return tensors


def _is_encoder(config: dict[str, Any]) -> bool:
    """Is it a model for filling in masked tokens, and not made to see only what comes before?

    Of one that translates, the decoder is loaded.
    """
    encoders = (_mapped_types("MASKED_LM") | {*BOTH_WAYS}) - _mapped_types("SEQ_TO_SEQ_CAUSAL_LM")
    return config.get("model_type") in encoders and not config.get("is_decoder")


@cache
def causal_types() -> frozenset[str]:
    """The model types that transformers can load as causal language models; empty if unknown."""
    names = _mapped_types("CAUSAL_LM")
    return names | {*OWN_TYPES} if names else names


@cache
def _mapped_types(task: str) -> frozenset[str]:
    """The model types that transformers can load for a task.

    They are read from its source, since importing it imports torch; empty where the table is not
    found, so that a check is left to the loading itself.
    """
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("transformers is not installed; run: pip install transformers")
    source = Path(spec.submodule_search_locations[0]) / "models" / "auto" / "modeling_auto.py"
    table = re.search(
        rf"^MODEL_FOR_{task}_MAPPING_NAMES = OrderedDict\((.*?)^\)",
        source.read_text("utf-8") if source.is_file() else "",
        re.M | re.S,
    )
    return frozenset(re.findall(r'\("([\w.-]+)",', table[1]) if table else [])
