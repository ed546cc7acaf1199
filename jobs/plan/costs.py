"""What a cell costs: products of counts that the grid fixes and of rates, each with its source.

They are meant to be right within a factor of two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from calib.measures import MODEL_MEASURES
from calib.spec import GenerateSpec
from jobs.plan.cells import Cell
from jobs.plan.planning import Planned
from jobs.plan.sizes import PACKED, TOKEN_BYTES, UNKNOWN_TASK, UNKNOWN_TEXT, shape, table
from prune.recipe import DENSE, Recipe

PRUNE_RATE, CPU_PRUNE_RATE = 6.8e-15, 7.4e-11
"""Seconds a parameter and calibration token, Wanda. On one H200, blocks of 7B width on 128 x 2,048
tokens in bfloat16 take 0.36 s. On one core, 15.5 M parameters on 32 x 256 tokens in float32 take
9.4 s."""

PASS_RATE, CPU_PASS_RATE = 2.7e-15, 2.4e-11
"""Seconds a parameter and token scored. On one H200, 6.7 G parameters answer 910 requests of
HellaSwag a second. On one core, 15.5 M parameters see 32 x 256 tokens in 3.0 s."""

PRUNER_COST = {"wanda": 1.0, "magnitude": 0.0, "random": 0.0, "ria": 1.05, "dsnot": 1.07}
PRUNER_COST |= {"sparsegpt": 1.75, "pruner-zero": 5.0}
"""Beside Wanda's time, on one H200."""

ALLOCATION_COST, EPOCH_COST = 0.5, 6.0
"""Beside Wanda's time: by counting passes and products, not measured on a GPU. An epoch is one of
reconstruction: forward and backward in float32."""

MEMORY_RATE, WRITE_RATE = 3.8e12, 5.4e-15
"""Bytes of weights a second that a decoding step reads, and seconds a parameter and token written.
On one H200, 6.7 G parameters write 16 + 256 tokens of 64 texts at 11,000 tokens/s, of 768 at
24,200."""

START_SECONDS, READ_RATE = 15.0, 1e9
"""Of a cell: importing and looking up; bytes a second when a model is loaded."""

HELDOUT_TOKENS = 32
"""Windows of the reference that errors are measured on as well."""

BLOCKS_HELD, ACTIVATION_BYTES = 3, 2**31
"""On a GPU while a model is pruned: blocks, and activations at most; the rest is on the host."""

GRADIENT_TOKENS = 65_536
"""That go through the blocks together for gradients; the host keeps their inputs of every block."""

RECORD_BYTES, OUTCOME_BYTES, MASK_BYTES = 50_000, 24, 600
"""On disk: of a cell's records; of a document of an evaluation (two metrics of 12 bytes, as
measured on 200-row files); of a linear's mask sample."""

GIB = 2**30
LINEARS_PER_BLOCK = 7


@dataclass(frozen=True)
class CellCost:
    """Seconds of one cell by kind of work, and what it needs in GiB; from these all else is."""

    load: float
    prune: float
    evaluate: float
    gpu_gib: float
    cache_gib: float  # of that, keys and values of texts that are written
    host_gib: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.load + self.prune + self.evaluate


class Estimator:
    """Estimates for the cells of one plan."""

    def __init__(self, planned: Planned) -> None:
        self.planned = planned
        self.plan = planned.plan
        self.bytes = 4 if planned.plan.dtype == "float32" else 2
        self.unknown: set[str] = set()
        self._costs: dict[tuple[Any, ...], CellCost | None] = {}
        self.shapes = {name: shape(name, m) for name, m in self.plan.inputs.models.items()}
        self.evaluated = {name: self._evaluation_tokens(name) for name in self.shapes}

    def _evaluation_tokens(self, model: str) -> tuple[float, float]:
        """Tokens that go through the model, and documents, of all evaluations of one cell."""
        tokens, documents, limit = 0.0, 0.0, self.plan.evaluate.limit
        for evaluation in self.plan.evaluations(model):
            if evaluation.kind == "task":
                known = table()["tasks"].get(evaluation.name)
                if known is None:
                    self.unknown.add(evaluation.name)
                count, length = known or UNKNOWN_TASK
                count = min(count, limit or count)
                tokens, documents = tokens + count * length, documents + count
            else:
                total = self._text_tokens(evaluation.name)
                windows = total / (evaluation.settings.get("seqlen") or 170)
                share = min(1.0, (limit or windows) / windows)
                tokens, documents = tokens + total * share, documents + windows * share
        return tokens, documents

    def _text_tokens(self, name: str) -> float:
        """Tokens of a perplexity text: no more than its files, where they are here, can hold."""
        inputs = self.plan.inputs
        source = (inputs.texts.get(name) or inputs.datasets[name]).source
        known = float(table()["texts"].get(name, UNKNOWN_TEXT))
        if source is None:
            return known
        plain = (".jsonl", ".json", ".csv", ".txt")
        held = sum(f.stat().st_size * (1 if f.suffix in plain else PACKED) for f in source.files)
        return min(known, held / TOKEN_BYTES)

    def cost(self, cell: Cell) -> CellCost | None:
        """What a cell takes; None where nothing is known of its model."""
        tokens = cell.draw.size * cell.draw.seqlen if cell.draw else 0
        written = self._written(cell.draw.dataset, cell.draw.seqlen) if cell.draw else {}
        at_once = max((s.batch * length for s, length in written.values()), default=0)
        key = (cell.model, id(cell.recipe), tokens, at_once)  # cells share their recipes
        if key not in self._costs:
            self._costs[key] = self._cost(cell, tokens, at_once)
        return self._costs[key]

    def _written(self, dataset: str, seqlen: int) -> dict[str, tuple[GenerateSpec, int]]:
        """What the model writes for a dataset, its parents' too, and the tokens of each text."""
        spec = self.plan.inputs.datasets[dataset].spec
        found = {}
        if spec.generate is not None:
            found[dataset] = spec.generate, spec.generate.max_tokens or seqlen
        for parent in spec.parents:
            found |= self._written(parent, seqlen)
        return found

    def _cost(self, cell: Cell, calibration: int, at_once: int) -> CellCost | None:
        known = self.shapes[cell.model]
        if known is None:
            return None
        weights = known.parameters * self.bytes
        cache = 2 * known.blocks * known.keys * at_once * self.bytes
        gradients = cell.recipe.pruner is not None and "gradient" in cell.recipe.pruner.needs
        heldout = HELDOUT_TOKENS * self.plan.seqlen if self.plan.reference[cell.model] else 0
        prune, working, kept = 0.0, 0.0, 0.0
        if cell.recipe.name != DENSE:
            tokens = calibration * passes(cell.recipe) + heldout
            prune = known.parameters * PRUNE_RATE * tokens
            activations = 2 * (calibration + heldout) * known.width * self.bytes
            block = known.parameters / known.blocks
            working = min(activations, ACTIVATION_BYTES)
            working += 24 * known.widest**2 + (16 * block if cell.recipe.refiner else 0)
            if gradients:  # before that: a block's squares, inputs that come and slopes that go
                inputs = min(calibration, GRADIENT_TOKENS) * known.width * self.bytes
                working = max(working, 8 * block + 8 * inputs)
                kept = 4 * known.parameters + known.blocks * inputs
            working += min(BLOCKS_HELD, known.blocks) * block * self.bytes
        tokens, _ = self.evaluated[cell.model]
        if set(self.plan.similarity.measures) & set(MODEL_MEASURES) and cell.draw is not None:
            working += weights  # the dense model measured the text, and is still there
        return CellCost(
            load=START_SECONDS / self.plan.resources.cells_per_job + weights / READ_RATE,
            prune=prune,
            evaluate=known.parameters * PASS_RATE * tokens,
            gpu_gib=(max(weights + cache, working) + 2e9) / GIB,  # it writes and answers whole
            cache_gib=cache / GIB,
            host_gib=(weights + kept + 4e9) / GIB,
        )

    def disk(self, cells: Collection[Cell]) -> dict[str, float]:
        """Bytes that cells write, by what they are."""
        sizes: dict[str, float] = defaultdict(float)
        draws = set()
        for cell in cells:
            known = self.shapes[cell.model]
            _, documents = self.evaluated[cell.model]
            sizes["records and outcomes"] += RECORD_BYTES + OUTCOME_BYTES * documents
            if cell.draw is not None:
                draws.add((cell.model, cell.draw))
            if known is None or cell.recipe.name == DENSE:
                continue
            sizes["records and outcomes"] += MASK_BYTES * LINEARS_PER_BLOCK * known.blocks
            if self.plan.keep != "none":
                each = known.parameters * (self.bytes if self.plan.keep == "models" else 1 / 8)
                sizes[f"kept {self.plan.keep}"] += each
        sizes["calibration sets"] = sum(4.0 * d.size * d.seqlen for _, d in draws)
        for name, model in self.plan.inputs.models.items():
            known = self.shapes[name]
            if model.folder is None and known is not None:
                sizes["models to fetch"] += known.parameters * 2
        return {name: size for name, size in sizes.items() if size}

    def generation(self, cells: Collection[Cell]) -> tuple[float, float]:
        """Seconds of reading weights for steps, and of arithmetic: each pool of text once."""
        steps = arithmetic = 0.0
        drawn = {(c.model, c.draw.dataset, c.draw.seqlen) for c in cells if c.draw}
        pools = {
            (model, name, seqlen): written
            for model, dataset, seqlen in drawn
            for name, written in self._written(dataset, seqlen).items()
        }
        for (model, _, _), (spec, length) in pools.items():
            known = self.shapes[model]
            if known is not None:
                weights = known.parameters * self.bytes
                steps += -(-spec.texts // spec.batch) * length * weights / MEMORY_RATE
                arithmetic += spec.texts * length * known.parameters * WRITE_RATE
        return steps, arithmetic


def passes(recipe: Recipe) -> float:
    """A recipe's time on the calibration set, in times of plain Wanda."""
    cost = PRUNER_COST.get(recipe.name, 1.0)
    cost += ALLOCATION_COST if recipe.allocation else 0.0
    epochs = getattr(recipe.refiner, "epochs", 0)
    return cost + EPOCH_COST * epochs
