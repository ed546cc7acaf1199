"""What a grid file may say; see section 5 of the design and `jobs/grids/` for examples."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from calib.measures import MEASURES, MODEL_MEASURES
from calib.spec import DatasetSpec, Strict, builtin_datasets
from cluster.yamlfile import Place, Problem, choices, problems_of
from jobs.evaluate.tasks import PRESETS, Task
from jobs.plan.gridfile import GridFile
from prune.pattern import Pattern
from prune.recipe import Recipe, parse

AxisName = Literal[
    "model", "dataset", "pruner", "sparsity", "pattern", "size", "seed", "seqlen", "sampler"
]
AXES: tuple[str, ...] = get_args(AxisName)


MOST_DECIMALS = 12
"""Of a sparsity; no linear is so large that more would make a difference."""


def as_list(value: Any) -> Any:
    """A single value of an axis as a list of one."""
    return value if isinstance(value, list) or value is None else [value]


def _sparsity(value: Any) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is no sparsity; write a fraction such as 0.5")
    try:
        exact = Fraction(Decimal(str(value)))  # 0.6 is three fifths, not the nearest double
    except (ArithmeticError, ValueError):  # ValueError: not a number
        raise ValueError(f"{value!r} is no sparsity; write a fraction such as 0.5") from None
    if exact.denominator > 10**MOST_DECIMALS:
        raise ValueError(f"{value!r} is no sparsity; write at most {MOST_DECIMALS} decimals")
    if not 0 <= exact < 1:
        hint = f"; {value} % is {float(exact) / 100:g}" if 1 < exact < 100 else ""
        raise ValueError(f"{value!r} is no sparsity; allowed: 0 or more and less than 1{hint}")
    return exact


def _recipe(value: Any) -> Recipe:
    written = {"name": value} if isinstance(value, str) else value
    if not isinstance(written, dict) or not isinstance(written.get("name"), str):
        raise ValueError(
            f"{value!r} is no pruner; write a name such as wanda, or {{name: wanda, ...}} with "
            "its options"
        )
    for part in ("allocation", "refine"):
        if not isinstance(written.get(part), str | dict | None):
            raise ValueError(
                f"{part}: {written[part]!r} is not allowed; write a name, or {{name: ...}} with "
                "its options"
            )
    return parse(value)


def _pattern(value: Any) -> str:
    if isinstance(value, int):
        raise ValueError(f"{value!r} is no pattern; write N:M, for example 2:4, or 'unstructured'")
    return str(Pattern.parse(str(value)))


def _once(values: list[Any]) -> list[Any]:
    repeated = [str(v) for i, v in enumerate(values) if v in values[:i]]
    if repeated:
        raise ValueError(f"listed twice: {', '.join(repeated)}; list every value once")
    return values


def _some(values: list[Any]) -> list[Any]:
    if not values:
        raise ValueError("an empty list makes no cell; list at least one value, or leave it out")
    return values


T = TypeVar("T")
Values = Annotated[list[T], BeforeValidator(as_list), AfterValidator(_some)]
"""One value, or a list of them."""

Axis = Annotated[Values[T], AfterValidator(_once)]
"""One value of an axis, or a list of them without repeats."""

PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # a BIGINT of the database
Sampler = Literal["stream", "document"]


class Block(Strict):
    """One block of cells: the product of its axes, those under `zip` taken side by side."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    zip: list[AxisName] | None = None
    model: Values[str] | None = None
    dataset: Values[str] | None = None
    pruner: Values[Annotated[Recipe, BeforeValidator(_recipe)]]
    sparsity: Values[Annotated[Fraction, BeforeValidator(_sparsity)]] | None = None
    pattern: Values[Annotated[str, BeforeValidator(_pattern)]] = ["unstructured"]
    size: Values[PositiveInt] = [128]
    seed: Values[Seed] = [0]
    seqlen: Values[PositiveInt] | None = None
    sampler: Values[Sampler] | None = None
    replicate: PositiveInt | None = None

    @field_validator(*AXES)
    @classmethod
    def _each_once(cls, values: list[Any] | None, info: ValidationInfo) -> list[Any] | None:
        beside_others = info.field_name in (info.data.get("zip") or ())  # these may repeat
        return values if values is None or beside_others else _once(values)


class Calibration(Strict):
    """Windows and how they are drawn; a list is an axis."""

    seqlen: Axis[PositiveInt] = [2048]
    sampler: Axis[Sampler] = ["stream"]
    folds: PositiveInt | None = None


class Pruning(Strict):
    """How a model is walked through; see `prune.block_loop.PruningOptions`."""

    propagate: Literal["pruned", "dense"] = "pruned"
    skip: list[str] = []
    fused: Literal["split", "whole"] = "split"


def _measure(name: str) -> str:
    allowed = [*MEASURES, *MODEL_MEASURES]
    if name not in allowed:
        raise ValueError(f"{name!r} is no measure; " + choices(name, allowed))
    return name


class Similarity(Strict):
    """How datasets are compared to the reference.

    Attributes:
        unit, n: what a shingle is made of, and how many of them.
        tokens: most words or tokens of either side.
        num_perm, seed: of MinHash sketches.
        documents: documents looked at one by one, on either side.
        measures: names in `calib.measures`; `jaccard` is always there.
    """

    unit: Literal["word", "token"] = "word"
    n: PositiveInt = 3
    tokens: PositiveInt = 1_000_000
    num_perm: Annotated[int, Field(ge=128)] = 16_384
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    documents: PositiveInt = 1000
    measures: list[Annotated[str, AfterValidator(_measure)]] = ["jaccard"]


class Evaluate(Strict):
    """What every pruned model is measured on."""

    tasks: list[Task] = []
    perplexity: Annotated[list[str], BeforeValidator(as_list), AfterValidator(_once)] = []
    seqlen: Annotated[int, Field(ge=2)] | None = None  # of one token none is predicted
    max_length: Annotated[int, Field(ge=2)] | None = None
    bos: Literal["none", "add"] = "none"
    limit: PositiveInt | None = None
    gate: Literal["warn", "refuse"] = "warn"

    @field_validator("tasks", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str) and value in PRESETS:
            return list(PRESETS[value])
        return as_list(value) or []

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: list[Task]) -> list[Task]:
        _once([task.name for task in tasks])  # the results have one column a name
        return tasks


class Compare(Strict):
    """The comparison that the grid is made for, and the difference that matters."""

    primary: str = "mean_accuracy"
    delta: Annotated[float, Field(gt=0)] = 0.5


class Resources(Strict):
    """What a job asks for; in no key."""

    gpus: Annotated[int, Field(ge=0)] = 1
    mem_gb: PositiveInt = 64
    timeout_min: PositiveInt = 240
    cells_per_job: PositiveInt = 1


class Grid(Strict):
    """A whole grid file."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str
    model: Axis[str]
    reference: str | dict[str, str | None] | None = None
    datasets: dict[str, DatasetSpec] = {}
    cells: Annotated[list[Block], BeforeValidator(as_list), AfterValidator(_some)]
    exclude: list[dict[str, Any]] = []
    calibration: Calibration = Calibration()
    replicate: PositiveInt = 1
    pruning: Pruning = Pruning()
    similarity: Similarity = Similarity()
    evaluate: Evaluate = Evaluate()
    compare: Compare = Compare()
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    keep: Literal["none", "masks", "models"] = "none"
    mirror: str | None = None
    resources: Resources = Resources()

    @field_validator("name")
    @classmethod
    def _folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{,99}", name) or name == "artefacts":
            raise ValueError(
                f"{name!r} cannot name a run; use at most 100 letters, digits, '.', '_' and '-' "
                "(it names a folder; 'artefacts' is taken)"
            )
        return name

    def reference_of(self, model: str) -> str | None:
        """The dataset that similarity is measured against for a model, or None."""
        return self.reference.get(model) if isinstance(self.reference, dict) else self.reference

    def axes(self, block: Block) -> dict[str, list[Any]]:
        """The values of every axis of a block, the seed first; [None] where none is written.

        A dataset with several pool seeds is one of each, unless it is zipped (which
        `jobs.plan.gridnames` refuses).
        """
        named, zipped = block.dataset or [], "dataset" in (block.zip or [])
        datasets = named if zipped else [v for name in named for v in self.variants(name)]
        return {
            "seed": block.seed,
            "model": block.model or self.model,
            "dataset": datasets or [None],
            "pruner": block.pruner,
            "sparsity": block.sparsity or [None],
            "pattern": block.pattern,
            "size": block.size,
            "seqlen": block.seqlen or self.calibration.seqlen,
            "sampler": block.sampler or self.calibration.sampler,
        }

    def dataset_spec(self, name: str) -> DatasetSpec | None:
        """A dataset by name, the grid's own before the built-in ones; `name@seed` is a variant."""
        known = self.datasets.get(name) or builtin_datasets().get(name)
        if known is not None or name not in self.variants(base := name.rpartition("@")[0]):
            return known
        spec = self.datasets[base]
        assert spec.generate is not None
        one = spec.generate.model_copy(update={"seed": int(name.rpartition("@")[2])})
        return spec.model_copy(update={"generate": one})

    def with_parents(self, names: Iterable[str]) -> set[str]:
        """Some datasets, and all that they are made from."""
        found = set(names)
        queue = list(found)
        while queue:
            spec = self.dataset_spec(queue.pop())
            fresh = [p for p in (spec.parents if spec else []) if p not in found]
            found.update(fresh)
            queue += fresh
        return found

    def variants(self, name: str) -> list[str]:
        """A dataset, or one name for each seed where it lists several: `name@seed`."""
        spec = self.datasets.get(name)
        seeds = None if spec is None or spec.generate is None else spec.generate.seed
        return [f"{name}@{seed}" for seed in seeds] if isinstance(seeds, list) else [name]


def load_grid(path: Path, overrides: list[str] | None = None) -> tuple[Grid, GridFile]:
    """Read a grid file and check its keys and values; names are checked by `jobs.plan.gridnames`.

    Raises:
        InputError: with every problem found.
    """
    file = GridFile(path, overrides or [])
    try:
        grid = Grid.model_validate(file.data)
    except ValidationError as error:
        single = isinstance(file.data.get("cells"), dict)
        raise file.error(
            Problem(_unlisted(p.place, single), p.message) for p in problems_of(error, Grid)
        ) from None
    return grid, file


def _unlisted(place: Place, single: bool) -> Place:
    """The place as the file has it, where a single block was made a list of one."""
    return ("cells", *place[2:]) if single and place[:2] == ("cells", 0) else place
