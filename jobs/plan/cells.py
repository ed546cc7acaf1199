"""Cells: what a grid expands to, and the key that identifies each by its science alone."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from cluster.yamlfile import Place, Problem
from jobs.plan.grid import AXES, Block, Grid, as_list
from prune.pattern import Pattern, Target
from prune.recipe import DENSE, Recipe, parse

STAGE_VERSIONS = {"draw": 1, "prune": 1}
"""Raised when a stage computes something else than before, so that old results are not reused."""

KEY_LENGTH = 16


@dataclass(frozen=True)
class Draw:
    """The calibration set of a cell.

    Attributes:
        dataset, sampler, size, seqlen, seed: as in the grid.
        fold: (index, folds) where seeds are disjoint.
    """

    dataset: str
    sampler: str
    size: int
    seqlen: int
    seed: int
    fold: tuple[int, int] | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Draw | None:
        """Read the plain data of one, None where there is none."""
        if data is None:
            return None
        return cls(**{**data, "fold": tuple(data["fold"]) if data["fold"] else None})


@dataclass(frozen=True)
class Cell:
    """One experiment: a model, what is done to it, and the text it is done with.

    Attributes:
        model: its name in the grid.
        recipe: what is done. sparsity, pattern: how much goes, and in what shape.
        draw: the calibration set; None where the recipe needs no data.
        seed: None where nothing depends on it.
        replicate: 0, or the number of a repetition of the very same cell: what the grid's
            `replicate` measures the noise floor with. It enters the key only where it is not 0.
    """

    model: str
    recipe: Recipe
    sparsity: Fraction
    pattern: str
    draw: Draw | None = None
    seed: int | None = None
    replicate: int = 0

    @property
    def target(self) -> Target:
        """What the cell asks of every linear."""
        return Target(self.sparsity, Pattern.parse(self.pattern))

    def to_json(self) -> dict[str, Any]:
        """The cell as plain data."""
        repeated = {"replicate": self.replicate} if self.replicate else {}
        return {
            "model": self.model,
            "recipe": self.recipe.canonical(),
            "sparsity": str(self.sparsity),
            "pattern": self.pattern,
            "draw": None if self.draw is None else vars(self.draw),
            "seed": self.seed,
            **repeated,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        """Read what `to_json` made."""
        return cls(
            data["model"],
            parse(data["recipe"]),
            Fraction(data["sparsity"]),
            data["pattern"],
            Draw.from_json(data["draw"]),
            data["seed"],
            data.get("replicate", 0),
        )

    def label(self, varied: Collection[str] = ()) -> str:
        """A short name for people, for logs and progress; see `varied_axes`."""
        parts = [self.recipe.short(), f"{float(self.sparsity):g}", self.pattern]
        if self.draw:
            parts = [self.draw.dataset, *parts, f"n{self.draw.size}"]
            parts += [f"l{self.draw.seqlen}"] if "seqlen" in varied else []
            parts += [self.draw.sampler] if "sampler" in varied else []
        if "model" in varied:
            parts = [f"{self.model}:", *parts]
        if self.seed is not None:
            parts.append(f"s{self.seed}")
        if self.replicate:
            parts.append(f"r{self.replicate}")
        return " ".join(parts)


def varied_axes(cells: Iterable[Mapping[str, Any]]) -> set[str]:
    """Which axes a label has to name, of those that most grids have one value of.

    Args:
        cells: as plain data.
    """
    seen: dict[str, set[Any]] = {"model": set(), "seqlen": set(), "sampler": set()}
    for cell in cells:
        seen["model"].add(cell["model"])
        for axis in ("seqlen", "sampler"):
            if cell["draw"] is not None:
                seen[axis].add(cell["draw"][axis])
    return {axis for axis, values in seen.items() if len(values) > 1}


def labels(cells: Mapping[str, Cell]) -> dict[str, str]:
    """Short names of cells, by key, that tell them apart."""
    varied = varied_axes(cell.to_json() for cell in cells.values())
    return {key: cell.label(varied) for key, cell in cells.items()}


def digest(data: Any) -> str:
    """The key of plain data: the first 64 bits of the SHA-256 of its canonical JSON."""
    return digest_of_text(canonical(data))


def canonical(data: Any) -> str:
    """Plain data as the one JSON text that its key is made from."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest_of_text(text: str) -> str:
    """The key of what `canonical` gave."""
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def science(
    cell: Cell, model: str | None, pool: str | None, dtype: str, pruning: Mapping[str, Any]
) -> dict[str, Any]:
    """All that a cell's pruned model depends on, as plain data.

    Args:
        cell: the cell.
        model: content hash of the model, or None where it is not fetched yet.
        pool: identity of the dataset's pool, likewise.
        dtype: what the weights are computed in.
        pruning: the grid's `pruning` section.
    """
    data: dict[str, Any] = {
        "model": model,
        "dtype": dtype,
        "recipe": cell.recipe.canonical(),
        "sparsity": str(cell.sparsity),
        "pattern": cell.pattern,
    }
    if cell.recipe.name != DENSE:
        walk = {k: v for k, v in pruning.items() if cell.recipe.needs_data or k != "propagate"}
        data |= {"pruning": walk, "seed": cell.seed, "version": STAGE_VERSIONS["prune"]}
    if cell.draw is not None:
        data["calibration"] = calibration_science(cell.draw, pool)
    if cell.replicate:
        data["replicate"] = cell.replicate
    return data


def calibration_science(draw: Draw, pool: str | None) -> dict[str, Any]:
    """All that a calibration set depends on beside the tokenizer; no name of a dataset."""
    drawn = {k: v for k, v in vars(draw).items() if k != "dataset"}
    return drawn | {"pool": pool, "version": STAGE_VERSIONS["draw"]}


def expand(grid: Grid) -> tuple[list[Cell], int, list[Problem]]:
    """The cells of a grid, dense baselines first, then seed by seed.

    Cells that need no data, or no seed, stand for all datasets, sizes and seeds.

    Returns:
        The cells; how many combinations made them; and those that cannot run.
    """
    cells: dict[Cell, None] = {
        Cell(model, Recipe(DENSE), Fraction(0), "unstructured"): None for model in grid.model
    }
    problems: dict[Problem, None] = {}
    products = 0
    single = len(grid.cells) == 1
    rules = [{axis: _wanted(axis, value) for axis, value in r.items()} for r in grid.exclude]
    idle = set(range(len(rules)))  # that matched nothing yet
    for i, block in enumerate(grid.cells):
        place: Place = ("cells",) if single else ("cells", i)
        for values in _products(grid, block):
            matching = [n for n, rule in enumerate(rules) if _matches(values, rule)]
            idle.difference_update(matching)
            if matching:
                continue
            products += 1
            cell = _cell(grid, block, values)
            try:
                cell.recipe.check(cell.target)
            except ValueError as error:
                message = f"{cell.recipe}: {error} (or leave it out with `exclude`)"
                problems[Problem((*place, "sparsity"), message)] = None
            repeats = 1 if cell.recipe.name == DENSE else block.replicate or grid.replicate
            cells |= {replace(cell, replicate=i): None for i in range(repeats)}
    problems |= {p: None for n in sorted(idle) if (p := _idle_rule(grid, n)) is not None}
    if not products and not problems:
        problems[Problem(("exclude",), "leaves no cell; drop a rule, or list more cells")] = None

    def rank(cell: Cell) -> tuple[bool, int, int]:
        return cell.recipe.name != DENSE, cell.replicate, -1 if cell.seed is None else cell.seed

    order = sorted(cells, key=rank)
    return order, products, list(problems)


def _products(grid: Grid, block: Block) -> Iterator[dict[str, Any]]:
    """Every combination of a block's axes, zipped ones side by side."""
    axes = grid.axes(block)
    zipped = block.zip or []
    if len({len(axes[a]) for a in zipped}) > 1:
        return  # `name_problems` says so
    rows = list(zip(*(axes[a] for a in zipped), strict=True)) if zipped else [()]
    free = [a for a in axes if a not in zipped]
    for row in rows:
        for values in itertools.product(*(axes[a] for a in free)):
            yield dict(zip(free, values, strict=True)) | dict(zip(zipped, row, strict=True))


def _matches(values: Mapping[str, Any], rule: Mapping[str, set[str]]) -> bool:
    """Does a combination have, for every key of the rule, one of the values spelled there?"""
    return all(axis in values and _spelled(values[axis], axis) & rule[axis] for axis in rule)


def _spelled(value: Any, axis: str = "") -> set[str]:
    """How a value of an axis may be written in a rule of `exclude`.

    A pruner's name is every recipe of it, and `{name: ...}` with its options that recipe alone.
    """
    if isinstance(value, Recipe):
        return {value.name, value.short(), str(value), _alone(value)}
    if axis == "dataset" and "@" in str(value):  # one pool seed of several: that one, or all
        return {value, value.rpartition("@")[0]}
    return {f"{float(value):g}" if isinstance(value, float | Fraction) else str(value)}


def _wanted(axis: str, values: Any) -> set[str]:
    """The spellings that a rule wants on one axis: one value, or any of a list."""
    spellings: set[str] = set()
    for value in as_list(values) or [None]:
        spellings |= _spelled(value)
        if axis == "pruner" and isinstance(value, str | dict):  # `owl`, or a recipe with options
            with suppress(ValueError):
                recipe = parse(value)
                spellings.add(_alone(recipe) if isinstance(value, dict) else str(recipe))
    return spellings


def _alone(recipe: Recipe) -> str:
    """A spelling that no other recipe has; plain ones print as the name of all of their kind."""
    return f"{recipe} alone"


def _idle_rule(grid: Grid, number: int) -> Problem | None:
    """A rule of `exclude` that matches no combination: most often a value misspelt."""
    rule = grid.exclude[number]
    if not rule or any(axis not in AXES for axis in rule):
        return None  # `name_problems` says so
    listed = {axis: [v for b in grid.cells for v in grid.axes(b)[axis]] for axis in rule}
    known = "; ".join(f"{axis} {_listed(values)}" for axis, values in listed.items())
    message = f"matches no combination of this grid, which has {known}; mend the rule or drop it"
    if "pruner" in rule:
        message += " (a pruner's name is all of its recipes, {name: ...} with its options one)"
    return Problem(("exclude", number), message)


def _listed(values: list[Any]) -> str:
    """Distinct values of an axis as a grid writes them."""

    def written(value: Any) -> str:
        if isinstance(value, Recipe):
            return value.short()
        return f"{float(value):g}" if isinstance(value, Fraction) else str(value)

    return ", ".join(dict.fromkeys(map(written, values)))


def _cell(grid: Grid, block: Block, values: Mapping[str, Any]) -> Cell:
    """The cell of one combination, without the axes that its recipe does not depend on."""
    recipe: Recipe = values["pruner"]
    if recipe.name == DENSE:
        return Cell(values["model"], recipe, Fraction(0), "unstructured")
    pattern = Pattern.parse(values["pattern"])
    sparsity = pattern.least_sparsity if values["sparsity"] is None else values["sparsity"]
    draw = None
    if recipe.needs_data:
        folds = grid.calibration.folds
        fold = None if folds is None else (block.seed.index(values["seed"]), folds)
        drawn = {k: values[k] for k in ("dataset", "sampler", "size", "seqlen", "seed")}
        draw = Draw(**drawn, fold=fold)
    seed = values["seed"] if recipe.needs_seed else None
    return Cell(values["model"], recipe, sparsity, str(pattern), draw, seed)
