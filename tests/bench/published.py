"""The published pruning loops, run from clones of their repositories.

Their arithmetic is theirs, unchanged; adapted is only how today's layers are called, where data
come from, and what of their imports is not there. Pruner-Zero's gradients, which a script of its
own computes beforehand, are made up: their time is no part of the loop's.
"""

from __future__ import annotations

import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LOOPS = {
    "wanda": "prune_wanda",  # github.com/locuslab/wanda
    "sparsegpt": "prune_sparsegpt",  # there, too
    "magnitude": "prune_magnitude",  # there, too
    # github.com/biomedical-cybernetics/Relative-importance-and-activation-pruning
    "ria": "prune_ria",
    "dsnot": "prune_DSnoT",  # github.com/zyxxmu/DSnoT
    "pruner-zero": "prune_pruner_zero",  # github.com/pprp/Pruner-Zero
}
"""The function of `lib/prune.py` that prunes by each method."""

OPTIONS = {
    "sparsity_ratio": 0.5,
    "use_variant": False,
    # RIA: its saliency alone
    "model": "llama",
    "prune_method": "ria",
    "a": 0.5,
    "calib_dataset": "c4",
    "reconstruction": False,
    "reallocation": False,
    "gptq": False,
    "lsa": False,
    "per_outneuron": False,
    "semi_sparse_acc": False,
    "layer_wise": False,
    # DSnoT: its defaults, and no linear left out
    "initial_method": "wanda",
    "max_cycle_time": 50,
    "update_threshold": 0.1,
    "pow_of_var_regrowing": 1,
    "pow_of_var_pruning": 1,
    "skip_layer": "no_skip",
    "skip_sub_layer": "no_skip",
    "without_same_sign": True,
    "without_DSnoT": False,
    "get_time_overhead": False,
}
"""What their command lines would set."""

NOT_THERE = {"lib.ablate": "AblateGPT", "scipy.optimize": "linear_sum_assignment"}
"""What they import and these loops do not use: module and name."""


class TodaysLayer(nn.Module):
    """A block of today's transformers, to be called as blocks were in 2023."""

    def __init__(self, block: nn.Module, rotations: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.block = block
        self.rotations = rotations

    def forward(self, x: Tensor, **_: Any) -> tuple[Tensor]:
        return (self.block(x, attention_mask=None, position_embeddings=self.rotations),)


def clone_of(method: str, clones: Sequence[Path]) -> Path | None:
    """The first clone that has the loop of a method; None where none has."""
    wanted = f"def {LOOPS.get(method, '?')}("
    return next((c for c in clones if wanted in (c / "lib/prune.py").read_text("utf-8")), None)


@contextmanager
def loop_of(
    method: str, clone: Path, model: Any, windows: Tensor, pattern: str
) -> Iterator[Callable[[], None]]:
    """The published loop of a method as a function that prunes `model` in place.

    Args:
        method: one of `LOOPS`.
        clone: see `clone_of`.
        model: a Llama, all on one device.
        windows: the calibration set, [size, seqlen].
        pattern: "unstructured" or N:M.
    """
    size, seqlen = windows.shape
    blocks, device = model.model.layers, model.device
    places = torch.arange(seqlen, device=device)[None]
    rotations = model.model.rotary_emb(model.model.embed_tokens.weight[None, :1], places)
    arguments = types.SimpleNamespace(**OPTIONS, nsamples=size, seed=0, seqlen=seqlen)
    n, m = (0, 0) if pattern == "unstructured" else map(int, pattern.split(":"))
    model.seqlen, model.hf_device_map = seqlen, {}
    layers = nn.ModuleList(TodaysLayer(block, rotations) for block in blocks)
    with (
        _modules(clone, [(window[None],) for window in windows]) as lib,
        tempfile.TemporaryDirectory() as folder,
    ):
        keywords: dict[str, Any] = {"prune_n": n, "prune_m": m}
        if method == "pruner-zero":
            tree = import_module("lib.gptree").GPTree
            keywords["engine"] = tree.load_tree(clone / "data/best_tree.json")
            arguments.gradient_path = Path(folder) / "gradients.pth"
            torch.save(_gradients(lib, layers), arguments.gradient_path)
        model.model.layers = layers
        try:
            with torch.no_grad(), redirect_stdout(StringIO()):
                yield lambda: getattr(lib, LOOPS[method])(
                    arguments, model, None, device, **keywords
                )
        finally:
            model.model.layers = blocks


def _gradients(lib: Any, layers: nn.ModuleList) -> dict[str, Tensor]:
    """Made up: as many numbers, of the kind and under the names that the file would have."""
    return {
        f"{name}_layer_{i}": torch.rand(linear.weight.shape, dtype=torch.float16)
        for i, layer in enumerate(layers)
        for name, linear in lib.find_layers(layer).items()
    }


@contextmanager
def _modules(clone: Path, loader: Any) -> Iterator[Any]:
    """The clone's `lib.prune`, whose data loader gives `loader`."""
    before = set(sys.modules)
    data = types.ModuleType("lib.data")
    data.get_loaders = lambda *_, **__: (loader, None)  # type: ignore[attr-defined]
    sys.path.insert(0, str(clone))
    sys.modules["lib.data"] = data
    try:
        for name, what in NOT_THERE.items():
            try:
                import_module(name)
            except ImportError:
                sys.modules[name] = types.ModuleType(name)
                setattr(sys.modules[name], what, None)
        yield import_module("lib.prune")
    finally:
        sys.path.remove(str(clone))
        for name in set(sys.modules) - before:
            if name == "lib" or name.startswith("lib."):
                del sys.modules[name]
