"""Pickled weights to safetensors, without running what a pickle may hold besides weights."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from prune.model.files import converted_name


def convert(source: Path, target: Path) -> None:
    """Write the tensors of a pickled state dictionary as safetensors.

    Raises:
        ValueError: it holds something else than tensors; nothing of it was run.
    """
    try:
        # only the zip format can be read as it is needed; older files come into memory whole
        mapped = zipfile.is_zipfile(source)
        state = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{source.name} holds more than weights, which might run when it is read: refused"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise ValueError(f"{source.name} is no dictionary of tensors")
    partial = target.with_name(f".{target.name}.partial")
    seen: set[int] = set()
    tensors = {}
    for name, tensor in state.items():  # tied tensors share memory, which safetensors refuses
        storage = tensor.untyped_storage().data_ptr()
        alone = storage not in seen and tensor.is_contiguous()
        tensors[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
        seen.add(storage)
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(target)


def convert_index(source: Path, target: Path) -> None:
    """Rewrite the index of weights in parts, so that it names the converted files."""
    index = json.loads(source.read_text("utf-8"))
    index["weight_map"] = {k: converted_name(v) for k, v in index["weight_map"].items()}
    target.write_text(json.dumps(index, indent=1, sort_keys=True), "utf-8")
