"""What a grid will cost, before it runs: GPU-hours, disk and memory, and what cannot fit.

Every figure is a product of counts that the grid fixes and of rates in this file, each of which
says where it comes from. They are meant to be right within a factor of two.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from jobs.files import read_json
from jobs.plan.cells import Cell
from jobs.plan.inputs import ModelInput
from jobs.plan.planning import Planned
from prune.recipe import DENSE, Recipe

PRUNE_RATE, CPU_PRUNE_RATE = 1.2e-14, 7.4e-11
"""Seconds a parameter and calibration token, Wanda with error figures. On one H200, blocks of 7B
width on 128 x 2,048 tokens in bfloat16 take 0.53 s (2:4: 0.80 s). On one core, 15.5 M parameters
on 32 x 256 tokens in float32 take 9.4 s."""

PASS_RATE, CPU_PASS_RATE = 3.0e-15, 2.4e-11
"""Seconds a parameter and token scored. On one H200, 6.7 G parameters answer 835 requests of
HellaSwag a second. On one core, 15.5 M parameters see 32 x 256 tokens in 3.0 s."""

PRUNER_COST = {"wanda": 1.0, "magnitude": 0.0, "random": 0.0, "ria": 1.0, "dsnot": 1.5}
PRUNER_COST |= {"sparsegpt": 4.0, "pruner-zero": 3.0}
ALLOCATION_COST, EPOCH_COST = 0.5, 6.0
"""Beside Wanda's time: by counting passes and products, not measured on a GPU. An epoch is one of
reconstruction: forward and backward in float32."""

STEP_SECONDS = 0.03
"""A decoding step of a batch of texts; not measured on a GPU."""

START_SECONDS, READ_RATE = 15.0, 1e9
"""Of a cell: importing and looking up; bytes a second when a model is loaded."""

CPU_WRITING, MOST_CORE_HOURS = 3.0, 500.0
"""A token written takes a core so many times as long as one read. Core-hours are said up to so
many; nobody runs more on CPUs."""

HELDOUT_TOKENS = 32
"""Windows of the reference that errors are measured on as well."""

RECORD_BYTES, OUTCOME_BYTES, MASK_BYTES = 50_000, 24, 600
"""On disk: of a cell's records; of a document of an evaluation (two metrics of 12 bytes, as
measured on 200-row files); of a linear's mask sample."""

CARDS = {"24 GiB": 24, "48 GiB": 48, "80 GiB (A100, H100)": 79, "141 GB (H200)": 139}
"""Memory of the GPUs in use, as their drivers count it, in GiB."""

UNKNOWN_TASK = (2000, 100)
"""Documents, and tokens each, of a task that the table does not have."""

UNKNOWN_TEXT = 500_000
"""Tokens of a perplexity text that the table does not have."""

TOKEN_BYTES, PACKED = 4, 2.5
"""Bytes of text a token, and of text a byte of a compressed file."""

GIB = 2**30
LINEARS_PER_BLOCK = 7


@dataclass(frozen=True)
class Shape:
    """What an estimate needs to know of a model; `basis` says from where it is known."""

    parameters: float
    blocks: int
    width: int
    widest: int
    basis: str


@dataclass(frozen=True)
class CellCost:
    """Seconds of one cell by kind of work, and what it needs in GiB; from these all else is."""

    load: float
    prune: float
    evaluate: float
    gpu_gib: float
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
        self._costs: dict[tuple[str, int, int], CellCost | None] = {}
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
        key = (cell.model, id(cell.recipe), tokens)  # cells of a grid share their recipes
        if key not in self._costs:
            self._costs[key] = self._cost(cell, tokens)
        return self._costs[key]

    def _cost(self, cell: Cell, calibration: int) -> CellCost | None:
        known = self.shapes[cell.model]
        if known is None:
            return None
        weights = known.parameters * self.bytes
        heldout = HELDOUT_TOKENS * self.plan.seqlen if self.plan.reference[cell.model] else 0
        prune, working = 0.0, 0.0
        if cell.recipe.name != DENSE:
            tokens = calibration * passes(cell.recipe) + heldout
            prune = known.parameters * PRUNE_RATE * tokens
            activations = 2 * (calibration + heldout) * known.width * self.bytes
            block = known.parameters / known.blocks
            working = activations + 24 * known.widest**2 + 4 * block
            working += 16 * block if cell.recipe.refiner else 0
        tokens, _ = self.evaluated[cell.model]
        gradients = 4 * known.parameters if cell.recipe.name == "pruner-zero" else 0
        return CellCost(
            load=START_SECONDS / self.plan.resources.cells_per_job + weights / READ_RATE,
            prune=prune,
            evaluate=known.parameters * PASS_RATE * tokens,
            gpu_gib=(weights + working + 2e9) / GIB,
            host_gib=(weights + gradients + 4e9) / GIB,
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
        """Seconds of decoding steps and of arithmetic, each pool once for a model and seqlen."""
        steps = arithmetic = 0.0
        for model, dataset, seqlen in {
            (c.model, c.draw.dataset, c.draw.seqlen) for c in cells if c.draw
        }:
            spec, known = self.plan.inputs.datasets[dataset].spec.generate, self.shapes[model]
            if spec is not None and known is not None:
                length = spec.max_tokens or seqlen
                steps += -(-spec.texts // spec.batch) * length * STEP_SECONDS
                arithmetic += known.parameters * PASS_RATE * spec.texts * length
        return steps, arithmetic


Costs = list[tuple[Cell, CellCost]]


def lines(planned: Planned, todo: Collection[str], out: Path) -> Iterator[str]:
    """The estimate of the cells of `todo`, for people, line by line."""
    estimator = Estimator(planned)
    cells = [planned.cells[key] for key in todo]
    if not cells:
        return
    costs = [(cell, cost) for cell in cells if (cost := estimator.cost(cell)) is not None]
    strangers = sorted(name for name, known in estimator.shapes.items() if known is None)
    for name in strangers:
        yield f"no estimate for {name}: its size is not known before it is fetched"
    if costs:
        yield from _time(estimator, cells, costs)
    yield from _disk(estimator.disk(cells), out)
    yield from _misfits(estimator, cells, costs)


def _time(estimator: Estimator, cells: Collection[Cell], costs: Costs) -> Iterator[str]:
    parts = {kind: sum(getattr(c, kind) for _, c in costs) for kind in ("prune", "evaluate")}
    parts["load"] = sum(c.load for _, c in costs)
    steps, writing = estimator.generation(cells)
    parts["generate"] = steps + writing
    total = sum(parts.values())
    listed = ", ".join(f"{kind} {_hours(s)}" for kind, s in parts.items() if s)
    slowest = max(c.seconds for _, c in costs)
    yield (
        f"estimate: {_hours(total)} GPU-hours for {len(costs):,} cells to run ({listed}); the "
        f"longest cell {slowest / 60:.1f} min"
    )
    basis = {known.basis for known in estimator.shapes.values() if known}
    yield (
        f"  basis: one H200 in bfloat16, {PRUNE_RATE:.1e} s a parameter and calibration token "
        f"(Wanda, measured; other methods by counting their passes) and {PASS_RATE:.0e} s a "
        f"parameter and token scored (measured); parameters from {', '.join(basis)}; "
        "an A100 takes about 3 times as long; queueing and waiting not counted"
    )
    scored = parts["evaluate"] + CPU_WRITING * writing
    work = CPU_PRUNE_RATE / PRUNE_RATE * parts["prune"] + CPU_PASS_RATE / PASS_RATE * scored
    work += parts["load"]
    if work < MOST_CORE_HOURS * 3600:
        yield f"  without a GPU: about {_hours(work)} core-hours, measured on a small model"
    if estimator.unknown:
        yield (
            f"  not in the table, taken as {UNKNOWN_TASK[0]:,} documents of {UNKNOWN_TASK[1]} "
            f"tokens: {', '.join(sorted(estimator.unknown))}"
        )


def _disk(sizes: dict[str, float], out: Path) -> Iterator[str]:
    total = sum(sizes.values())
    listed = ", ".join(f"{name} {_size(size)}" for name, size in sizes.items())
    yield (
        f"disk: {_size(total)} ({listed}); basis: {RECORD_BYTES // 1000} kB a record, "
        f"{OUTCOME_BYTES} bytes a document scored, 4 bytes a calibration token, 2 a parameter; "
        "the text of datasets and tasks not counted"
    )
    place = next(p for p in (out.resolve(), *out.resolve().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if total > free:
        yield f"does not fit: {_size(total)} on disk; {place} has {_size(free)} free"


def _misfits(estimator: Estimator, cells: Collection[Cell], costs: Costs) -> Iterator[str]:
    if not costs:
        return
    resources = estimator.plan.resources
    need = Counter(_card(cost.gpu_gib) for _, cost in costs)
    known = [f"{need[card]:,} cells on {card}" for card in CARDS if need[card]]
    most = max(cost.gpu_gib for _, cost in costs)
    yield f"GPU memory: at most {most:.0f} GiB; smallest card that fits: " + ", ".join(known)
    large = [(cell, cost) for cell, cost in costs if _card(cost.gpu_gib) is None]
    if large:
        yield f"does not fit one GPU: {len(large):,} cells, {_which(large)}"
    host = max(cost.host_gib for _, cost in costs)
    if host > resources.mem_gb * 1e9 / GIB:
        yield (
            f"does not fit: a cell needs about {host:.0f} GiB of memory beside the GPU's, and "
            f"resources.mem_gb is {resources.mem_gb}; raise it"
        )
    longest = max(cost.seconds for _, cost in costs) * resources.cells_per_job / 60
    if longest > resources.timeout_min:
        yield (
            f"does not fit: a job of {resources.cells_per_job} cells takes up to {longest:.0f} "
            f"min, and resources.timeout_min is {resources.timeout_min}; raise it"
        )
    yield from _short_pools(estimator, cells)


def _short_pools(estimator: Estimator, cells: Collection[Cell]) -> Iterator[str]:
    """Draws that a pool not yet fetched is unlikely to fill."""
    largest: dict[tuple[str, str], int] = defaultdict(int)
    for cell in cells:
        if cell.draw and cell.draw.dataset in table()["datasets"]:
            folds = cell.draw.fold[1] if cell.draw.fold else 1
            tokens = cell.draw.size * cell.draw.seqlen * folds
            key = (cell.draw.dataset, cell.draw.sampler)
            largest[key] = max(largest[key], tokens)
    for (dataset, sampler), wanted in sorted(largest.items()):
        spec = estimator.plan.inputs.datasets[dataset].spec
        length, share = table()["datasets"][dataset]
        documents = spec.max_documents
        held = documents * (length if sampler == "stream" else share * 2048)
        if spec.path is not None and held < wanted:
            yield (
                f"may not fit: {dataset} with sampler {sampler} needs {wanted:,.0f} tokens, and "
                f"its {documents:,} documents hold about {held:,.0f} ({length} tokens a document, "
                f"{100 * share:.0f} % of them reach 2,048); raise max_documents and shards"
            )


def _which(large: Costs) -> str:
    """The cells that are too large, by what makes them so."""
    most: dict[str, float] = defaultdict(float)
    for cell, cost in large:
        data = f" with {cell.draw.size} windows" if cell.draw else ""
        name = f"{cell.model} {cell.recipe.name}{data}"
        most[name] = max(most[name], cost.gpu_gib)
    return "; ".join(f"{name}: {gib:.0f} GiB" for name, gib in most.items())


def _card(gib: float) -> str | None:
    """The smallest GPU that has room for so much."""
    return next((card for card, size in CARDS.items() if gib <= size), None)


def passes(recipe: Recipe) -> float:
    """A recipe's time on the calibration set, in times of plain Wanda."""
    cost = PRUNER_COST.get(recipe.name, 1.0)
    cost += ALLOCATION_COST if recipe.allocation else 0.0
    epochs = getattr(recipe.refiner, "epochs", 0)
    return cost + EPOCH_COST * epochs


def shape(name: str, model: ModelInput) -> Shape | None:
    """A model's size: from its files, the table, or the number in its name; None if unknown."""
    if model.folder is not None:
        return _from_files(model.folder)
    bare = name.split("@")[0]
    if bare in table()["models"]:
        parameters, blocks, width, widest = table()["models"][bare]
        return Shape(float(parameters), blocks, width, widest, "published configurations")
    found = re.search(r"(\d+(?:\.\d+)?)([bm])(?![a-z])", bare.lower())
    if found is None:
        return None
    parameters = float(found[1]) * (1e9 if found[2] == "b" else 1e6)
    width = round((parameters / 32 / 12) ** 0.5)  # a block of 12 width^2, 32 of them
    return Shape(parameters, 32, width, 4 * width, f"the name of {bare}")


def _from_files(folder: Path) -> Shape:
    config = read_json(folder / "config.json")
    sizes: list[list[int]] = []
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length))
        sizes += [e["shape"] for name, e in header.items() if name != "__metadata__"]
    parameters = 0.0
    for dimensions in sizes:
        count = 1
        for dimension in dimensions:
            count *= dimension
        parameters += count
    width = next((config[k] for k in ("hidden_size", "n_embd", "dim") if config.get(k)), 1024)
    blocks = next(
        (config[k] for k in ("num_hidden_layers", "n_layer", "n_layers") if config.get(k)), 1
    )
    widest = config.get("intermediate_size") or 4 * width
    return Shape(parameters, int(blocks), int(width), int(widest), "the files of the models")


@cache
def table() -> dict[str, Any]:
    """Known sizes of models, tasks, texts and datasets."""
    text = (files("jobs.plan") / "estimates.yaml").read_text("utf-8")
    found: dict[str, Any] = YAML(typ="safe").load(text)
    return found


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 0.1 else f"{hours:.3f}"


def _size(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
