"""Loading models and tokenizers from safetensors folders."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from prune.model.openlm import register

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device() -> torch.device:
    """A GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(folder: Path, dtype: str) -> PreTrainedModel:
    """The model of a folder, in evaluation mode, on `device()`.

    Raises:
        OSError: the folder holds no safetensors weights (pickled weights are not read).
        ValueError: transformers does not know its architecture (remote code is never run), or
            the GPU does not have the dtype.
    """
    if dtype == "bfloat16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        name = torch.cuda.get_device_name()
        raise ValueError(f"{name} has no bfloat16; set dtype: float16 or float32 in the grid")
    logging.disable_progress_bar()
    register()  # DCLM and other OpenLM models, which transformers does not know
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=DTYPES[dtype], use_safetensors=True, trust_remote_code=False
    )
    model.requires_grad_(False)
    model.eval()
    model.to(device())  # type: ignore[arg-type]
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = int(1e30)  # long texts are cut by us, silently for transformers
    return tokenizer
