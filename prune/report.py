"""What pruning did to a model, linear by linear and block by block."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    """

    block: int
    linear: str
    rows: int
    columns: int
    pruned: int
    notes: dict[str, object] = field(default_factory=dict)
    error: float | None = None
    heldout_error: float | None = None


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
    """

    linears: list[LinearReport] = field(default_factory=list)
    block_errors: list[float] = field(default_factory=list)
    block_heldout_errors: list[float] = field(default_factory=list)
    block_sparsities: list[float] = field(default_factory=list)
    refinements: list[dict[str, float]] = field(default_factory=list)
    weights: int = 0
    zeros: int = 0

    @property
    def achieved_sparsity(self) -> float:
        """Fraction of the prunable weights that was pruned."""
        total = sum(x.rows * x.columns for x in self.linears)
        return sum(x.pruned for x in self.linears) / total if total else 0.0

    @property
    def model_sparsity(self) -> float:
        """Fraction of zeros among all weights of the model, embeddings included."""
        return self.zeros / self.weights
