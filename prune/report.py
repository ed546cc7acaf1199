"""What pruning did to a model, linear by linear and block by block."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class LinearReport:
    """What became of one linear: exact counts, errors, and what the pruner noted.

    Attributes:
        block: number of its block.
        linear: its name in the block.
        rows: outputs.
        columns: inputs.
        pruned: weights lost.
        notes: what the pruner noted.
        error: ||(W - W') X||^2 / ||W X||^2, with X what the dense block gives it on the
            calibration set; None where the recipe needs no data.
        heldout_error: the same on held-out windows; None where there were none.
        mask_sample: the mask at the linear's sampled positions (see `prune.sample`), packed
            eight a byte, the first in the lowest bit.
    """

    block: int
    linear: str
    rows: int
    columns: int
    pruned: int
    notes: dict[str, object] = field(default_factory=dict)
    error: float | None = None
    heldout_error: float | None = None
    mask_sample: bytes = b""


@dataclass
class BlockReport:
    """What became of one block.

    Attributes:
        sparsity: what its allocation asked of it.
        linears: one entry a linear, in the order they were pruned.
        zeros: weights of the block that are zero.
        error: ||dense - pruned||^2 / ||dense||^2 of its outputs on the same inputs; None where the
            recipe needs no data.
        heldout_error: the same on held-out windows; None where there were none.
        refinement: what the refiner found; None without one.
    """

    sparsity: float
    linears: list[LinearReport]
    zeros: int
    error: float | None = None
    heldout_error: float | None = None
    refinement: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        plain = asdict(self)
        for linear in plain["linears"]:
            linear["mask_sample"] = linear["mask_sample"].hex()
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> BlockReport:
        """What `to_json` wrote."""
        linears = [
            LinearReport(**{**x, "mask_sample": bytes.fromhex(x["mask_sample"])})
            for x in plain["linears"]
        ]
        return cls(**{**plain, "linears": linears})


@dataclass
class PruneReport:
    """What pruning did to a model.

    Attributes:
        linears: one entry a linear, in the order they were pruned.
        block_errors: per block, ||dense - pruned||^2 / ||dense||^2 of its outputs on the same
            inputs; empty where the recipe needs no data.
        block_heldout_errors: the same on held-out windows; empty where there were none.
        block_sparsities: per block, what its allocation asked of it.
        refinements: per block, what the refiner found; empty without one.
        weights: all weights of the model. zeros: those that are zero.
        error_tokens: tokens of the calibration set that errors of linears were measured on.
        block_error_tokens: the same for errors of blocks.
        resumed_blocks: blocks that were stored by an earlier attempt.
    """

    linears: list[LinearReport] = field(default_factory=list)
    block_errors: list[float] = field(default_factory=list)
    block_heldout_errors: list[float] = field(default_factory=list)
    block_sparsities: list[float] = field(default_factory=list)
    refinements: list[dict[str, float]] = field(default_factory=list)
    weights: int = 0
    zeros: int = 0
    error_tokens: int = 0
    block_error_tokens: int = 0
    resumed_blocks: int = field(default=0, compare=False)

    def add(self, block: BlockReport) -> None:
        """Append what became of the next block."""
        self.linears += block.linears
        self.block_sparsities.append(block.sparsity)
        self.zeros += block.zeros
        if block.error is not None:
            self.block_errors.append(block.error)
        if block.heldout_error is not None:
            self.block_heldout_errors.append(block.heldout_error)
        if block.refinement is not None:
            self.refinements.append(block.refinement)

    @property
    def achieved_sparsity(self) -> float:
        """Fraction of the prunable weights that was pruned."""
        total = sum(x.rows * x.columns for x in self.linears)
        return sum(x.pruned for x in self.linears) / total if total else 0.0

    @property
    def model_sparsity(self) -> float:
        """Fraction of zeros among all weights of the model, embeddings included."""
        return self.zeros / self.weights
