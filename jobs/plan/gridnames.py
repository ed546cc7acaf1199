"""The names in a grid that stand for nothing, and other conflicts between its parts."""

from __future__ import annotations

from collections.abc import Iterator

from calib.selectors import SELECTORS
from calib.spec import builtin_datasets
from cluster.yamlfile import Place, Problem, choices
from jobs.evaluate.tasks import perplexity_texts
from jobs.plan.grid import AXES, Block, Grid
from jobs.store.views import TAKEN, perplexity_columns
from prune.recipe import DENSE

RENAME = "give it another name, a task in its file, a text under datasets"


def name_problems(grid: Grid) -> Iterator[Problem]:
    """Every problem that no single value has: unknown names, circles, axes that do not fit."""
    named = {*builtin_datasets(), *grid.datasets}
    names = sorted(v for name in named for v in grid.variants(name))
    for name, spec in grid.datasets.items():
        for parent in spec.parents:
            if parent not in names:
                yield Problem(
                    ("datasets", name), f"unknown dataset {parent!r}; " + choices(parent, names)
                )
    yield from _cycles(grid)
    yield from _selections(grid)
    references = grid.reference if isinstance(grid.reference, dict) else {"": grid.reference}
    for model, reference in references.items():
        if reference is not None and reference not in names:
            yield Problem(
                ("reference", model) if model else ("reference",),
                f"unknown dataset {reference!r}; " + choices(reference, names),
            )
        if model and model not in grid.model:
            yield Problem(("reference", model), "unknown model; " + choices(model, grid.model))
    for i, block in enumerate(grid.cells):
        at: Place = ("cells",) if len(grid.cells) == 1 else ("cells", i)
        yield from _check_block(grid, block, at, sorted(named.union(names)))
    for i, rule in enumerate(grid.exclude):
        if not rule:
            yield Problem(
                ("exclude", i), "an empty rule matches every cell; name an axis and value"
            )
        for key in rule:
            if key not in AXES:
                yield Problem(("exclude", i, key), "unknown key; " + choices(key, AXES))
    texts = perplexity_texts()
    for i, name in enumerate(grid.evaluate.perplexity):
        if name not in texts and name not in names:
            yield Problem(
                ("evaluate", "perplexity", i),
                f"unknown text {name!r}; " + choices(name, sorted({*texts, *names})),
            )

    yield from _columns(grid)
    yield from _primary(grid)


def _columns(grid: Grid) -> Iterator[Problem]:
    """Figures that would share a column of the results: SQL tells no capitals from small letters.

    A text counts with both columns that it may have.
    """
    figures: list[tuple[Place, str, tuple[str, ...]]] = [
        (("evaluate", "tasks", i), task.name, (task.name,))
        for i, task in enumerate(grid.evaluate.tasks)
    ]
    figures += [
        (("evaluate", "perplexity", i), name, perplexity_columns(name))
        for i, name in enumerate(grid.evaluate.perplexity)
    ]
    owner: dict[str, str] = {}
    for place, name, columns in figures:
        for column in map(str.lower, columns):
            if column in TAKEN:
                yield Problem(place, f"{name!r} is a column that all results have; {RENAME}")
            elif column in owner:
                yield Problem(
                    place,
                    f"{name!r} and {owner[column]!r} would both be the column {column} of the "
                    f"results, whatever their capitals; {RENAME}",
                )
            else:
                owner[column] = name
                continue
            break


def _primary(grid: Grid) -> Iterator[Problem]:
    """A comparison by a figure that the grid does not measure."""
    scores = [task.name for task in grid.evaluate.tasks]
    figures = ["mean_accuracy", *scores, *(f"ppl_{name}" for name in grid.evaluate.perplexity)]
    primary = grid.compare.primary
    known = primary in figures or primary.removesuffix("_corpus") in figures
    if "primary" in grid.compare.model_fields_set and not known:
        yield Problem(
            ("compare", "primary"),
            f"{grid.compare.primary!r} is not measured here; " + choices(primary, figures),
        )


def _check_block(grid: Grid, block: Block, at: Place, names: list[str]) -> Iterator[Problem]:
    for axis, known in (("dataset", names), ("model", grid.model)):
        for j, value in enumerate(getattr(block, axis) or []):
            if value not in known:
                yield Problem((*at, axis, j), f"unknown {axis} {value!r}; " + choices(value, known))
    for name in block.dataset or []:
        if "dataset" in (block.zip or []) and len(grid.variants(name)) > 1:
            listed = ", ".join(grid.variants(name))
            yield Problem(
                (*at, "zip"),
                f"{name} stands for a dataset a seed and cannot be zipped; list {listed} instead",
            )
    if block.dataset is None and any(r.needs_data for r in block.pruner):
        yield Problem(at, "dataset is missing, and a pruner here needs calibration data")
    if block.sparsity is None and any(
        p == "unstructured" and r.name != DENSE for p in block.pattern for r in block.pruner
    ):
        yield Problem(at, "sparsity is missing, and pattern unstructured does not imply one")
    if block.zip is not None:
        axes = grid.axes(block)
        lengths = {axis: len(axes[axis]) for axis in block.zip}
        if len(set(lengths.values())) > 1 or len(lengths) < 2 or max(lengths.values()) < 2:
            yield Problem(
                (*at, "zip"),
                "zip pairs two or more axes that list equally many values, at least two, not "
                + ", ".join(f"{axis} ({n})" for axis, n in lengths.items()),
            )
    folds = grid.calibration.folds
    if folds is not None and len(block.seed) > folds:
        yield Problem(
            (*at, "seed"),
            f"{len(block.seed)} seeds and calibration.folds: {folds}; every seed takes a fold of "
            "its own, so list at most as many seeds, or use more folds",
        )


def _cycles(grid: Grid) -> Iterator[Problem]:
    """Datasets that are made from themselves."""

    def reaches(name: str, start: str, seen: frozenset[str]) -> bool:
        spec = grid.dataset_spec(name)
        return spec is not None and any(
            p == start or (p not in seen and reaches(p, start, seen | {p})) for p in spec.parents
        )

    for name in grid.datasets:
        if reaches(name, name, frozenset({name})):
            yield Problem(("datasets", name), "is made from itself; break the circle")


def _selections(grid: Grid) -> Iterator[Problem]:
    """Datasets chosen by nearness to a reference that is not there, or that they are part of."""
    for name, spec in grid.datasets.items():
        if spec.select is None or not SELECTORS[spec.select.by].reference:
            continue
        for model in grid.model:
            reference = grid.reference_of(model)
            if reference is None:
                yield Problem(
                    ("datasets", name),
                    f"select.by: {spec.select.by} needs a reference for model {model}; set "
                    "`reference:`, or choose by something else",
                )
            elif name in grid.with_parents([reference]):
                yield Problem(
                    ("datasets", name),
                    f"is chosen by its nearness to the reference {reference}, which is made from "
                    "it; break the circle",
                )
