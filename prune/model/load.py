"""Loading models and tokenizers from safetensors folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from prune.model.blocks import decoder_blocks
from prune.model.openlm import register
from prune.model.tensorfile import Entry, entries
from prune.model.weights import BlockWeights, StreamedWeights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device() -> torch.device:
    """A GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(folder: Path, dtype: str) -> PreTrainedModel:
    """The model of a folder, in evaluation mode, on `device()`.

    Raises:
        OSError: the folder holds no safetensors weights (pickled weights are not read).
        ValueError: transformers does not know its architecture (remote code is never run), or
            the GPU does not have the dtype, or not the memory.
    """
    model, weights = load_streamed(folder, dtype)
    weights.settle()
    return model


def load_streamed(folder: Path, dtype: str) -> tuple[PreTrainedModel, BlockWeights]:
    """The model of a folder with its blocks still to come, and what brings them.

    On a GPU all but the blocks is on the device. The blocks are read from their files one at a
    time; where the files name weights otherwise than the model does (fused experts, say), all of
    them are read to the host first. Without a GPU the model is on the host as a whole.

    Raises:
        OSError: see `load_model`.
        ValueError: see `load_model`.
    """
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if dtype == "bfloat16" and not has_bfloat16():
            raise ValueError(f"{name} has no bfloat16; set dtype: float16 or float32 in the grid")
        refuse_larger(folder, dtype, torch.cuda.mem_get_info()[1], name)
    logging.disable_progress_bar()
    register()  # DCLM and other OpenLM models, which transformers does not know
    files: dict[str, Entry] = {}
    model = None
    if device().type == "cuda":
        model, files = _empty_model(folder, DTYPES[dtype])
    if model is None:
        model = _whole_model(folder, DTYPES[dtype])
    model.requires_grad_(False)
    model.eval()
    return model, stream(model, device(), files)


def _whole_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model on the host, as transformers makes it of what the files hold."""
    stored = {name: entry.read() for name, entry in entries(folder).items()}
    if not stored:
        raise OSError(f"{folder} holds no safetensors weights (pickled weights are not read)")
    kind: Any = type(_meta_model(folder, dtype))
    model: PreTrainedModel
    model, found = kind.from_pretrained(
        None,  # a path would have the files mapped
        config=AutoConfig.from_pretrained(folder, trust_remote_code=False),
        state_dict=stored,
        dtype=dtype,
        output_loading_info=True,
    )
    if found["missing_keys"]:  # transformers makes them up
        some = ", ".join(sorted(found["missing_keys"])[:5])
        raise ValueError(f"{folder} lacks weights of its {kind.__name__}: {some}")
    _take_generation_config(model, folder)
    return model


def has_bfloat16() -> bool:
    """Does the GPU compute in bfloat16 by itself? Older ones only hold it."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _take_generation_config(model: PreTrainedModel, folder: Path) -> None:
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)


def stream(
    model: PreTrainedModel, device: torch.device, files: Mapping[str, Entry] | None = None
) -> BlockWeights:
    """Put all of a model but its blocks on a GPU, and bring those one at a time.

    Args:
        model: with its weights on the host, or on "meta" and in `files`.
        device: where to; a CPU gets the whole model.
        files: where the weights lie, by the model's own names.
    """
    blocks = decoder_blocks(model)
    if device.type != "cuda":
        model.to(device)  # type: ignore[arg-type]
        return BlockWeights(blocks)
    inside = {id(x) for x in blocks.parameters()}
    for name, parameter in list(model.named_parameters()):
        if id(parameter) not in inside:
            found = files[name].read() if files and parameter.is_meta else parameter.data
            _set(model, name, found.to(device).to(parameter.dtype))
    model.tie_weights()
    for name, buffer in list(model.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner)._buffers[leaf] = buffer.to(device)
    prefix = next(name for name, module in model.named_modules() if module is blocks) + "."
    return StreamedWeights(blocks, device, files or {}, prefix)


def _meta_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model with its buffers, and weights that have only a shape."""
    from accelerate import init_empty_weights

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=False
        )
    model.tie_weights()
    return model


def _empty_model(
    folder: Path, dtype: torch.dtype
) -> tuple[PreTrainedModel | None, dict[str, Entry]]:
    """The model without weights, and where they lie by its own names; None where not all do."""
    model = _meta_model(folder, dtype)
    stored, base = entries(folder), model.base_model_prefix + "."
    files: dict[str, Entry] = {}
    for name, parameter in model.named_parameters():
        names = name, name.removeprefix(base), base + name
        entry = next((stored[n] for n in names if n in stored), None)
        if entry is None or entry.shape != parameter.shape or parameter.dtype != dtype:
            return None, {}
        files[name] = entry
    persistent = {n.removeprefix(base) for n in model.state_dict()} - {
        n.removeprefix(base) for n in files
    }
    if persistent & {n.removeprefix(base) for n in stored}:
        return None, {}  # buffers that are stored, tied weights that are stored twice
    _take_generation_config(model, folder)
    return model, files


def _set(model: PreTrainedModel, name: str, value: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    parameter = torch.nn.Parameter(value, requires_grad=False)
    model.get_submodule(owner)._parameters[leaf] = parameter


def refuse_larger(folder: Path, dtype: str, memory: int, device_name: str) -> None:
    """Refuse a model whose weights do not fit a device's memory (bytes).

    Raises:
        ValueError: says what it would need.
    """
    elements = sum(entry.shape.numel() for entry in entries(folder).values())
    needed = elements * DTYPES[dtype].itemsize
    if needed > memory:
        raise ValueError(
            f"model {_name(folder)} does not fit one device: its weights need "
            f"{needed / 1e9:.1f} GB in {dtype}, and {device_name} has {memory / 1e9:.1f} GB; ask "
            "for a larger GPU, or set a shorter dtype (models are not split over devices yet)"
        )


def _name(folder: Path) -> str:
    """A model's name for people: in the hub's cache, the folder itself is called by a commit."""
    cached = [part for part in folder.parts if part.startswith("models--")]
    return cached[0].removeprefix("models--").replace("--", "/") if cached else folder.name


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = int(1e30)  # long texts are cut by us, silently for transformers
    return tokenizer
