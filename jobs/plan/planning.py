"""From a grid file to a plan: everything is looked up, expanded, keyed and checked first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from jobs.plan.cells import Cell, digest, expand, science
from jobs.plan.generate_checks import generate_problems
from jobs.plan.grid import Grid, load_grid
from jobs.plan.gridnames import name_problems
from jobs.plan.inputs import Inputs
from jobs.plan.lookup import look_up
from jobs.plan.model_checks import (
    generation_problems,
    length_problems,
    skip_problems,
    width_problems,
)
from jobs.plan.plan import OtherName, Plan
from jobs.plan.text_checks import (
    SmallTexts,
    perplexity_problems,
    selection_problems,
    shortages,
    unreadable,
)
from jobs.plan.token_checks import token_problems


@dataclass
class Planned:
    """A plan, and what a person may want to know of it.

    Attributes:
        plan: the plan; its keys hold only where nothing is unresolved.
        grid: the grid.
        cells: by key, in the order they run.
        products: combinations that the grid's blocks spell out, before sharing.
        notices: what a person should know before it runs.
    """

    plan: Plan
    grid: Grid
    cells: dict[str, Cell]
    products: int
    notices: list[str] = field(default_factory=list)

    @property
    def unresolved(self) -> list[str]:
        """What is not on this machine yet."""
        return self.plan.inputs.unresolved


def plan_grid(path: Path, overrides: list[str], out: Path) -> Planned:
    """Read, look up and check a grid; writes nothing but remembered file hashes.

    Raises:
        InputError: with every problem found.
    """
    grid, file = load_grid(path, overrides)
    cells, products, problems = expand(grid)
    inputs = look_up(grid, path.resolve().parent, out)
    problems += [*name_problems(grid), *inputs.problems]
    if not problems:
        problems += skip_problems(grid, inputs)
        problems += width_problems(grid, cells, inputs)
        problems += length_problems(grid, cells, inputs)
        problems += generation_problems(grid, inputs)
        problems += token_problems(grid, inputs)
        problems += unreadable(inputs)
    if not problems:  # the texts can be counted with these tokenizers
        texts = SmallTexts(inputs, out / "artefacts" / "pools")
        problems += shortages(cells, inputs, texts)
        problems += selection_problems(inputs, texts)
        problems += perplexity_problems(grid, texts)
        problems += generate_problems(cells, inputs, texts)
    if problems:
        raise file.error(problems)
    walk = grid.pruning.model_dump()
    keyed: dict[str, Cell] = {}
    twins: dict[str, list[OtherName]] = {}
    for cell in cells:
        pool = None
        if cell.draw is not None:
            pool = inputs.pool(cell.draw.dataset, cell.model, grid.dtype, cell.draw.seqlen)
        data = science(cell, inputs.models[cell.model].content, pool, grid.dtype, walk)
        if inputs.unresolved:
            data["names"] = cell.to_json()  # keeps cells apart whose identity is not known yet
        key = digest(data)
        if keyed.setdefault(key, cell) != cell:
            other = OtherName(model=cell.model, dataset=cell.draw.dataset if cell.draw else None)
            twins.setdefault(key, []).append(other)
    plan = _plan(grid, path, inputs, keyed, twins)
    return Planned(plan, grid, keyed, products, list(_equal_texts(grid, cells, inputs)))


def _equal_texts(grid: Grid, cells: list[Cell], inputs: Inputs) -> Iterator[str]:
    """Models, and datasets, of several names and one content, which share their cells."""
    models: dict[str, str] = {}
    for name, model in inputs.models.items():
        if model.content is not None and models.setdefault(model.content, name) != name:
            yield f"model {name} is the same as {models[model.content]}: they share cells"
    names: dict[str, list[str]] = {}
    for cell in cells:
        if cell.draw is not None:
            pool = inputs.pool(cell.draw.dataset, cell.model, grid.dtype, cell.draw.seqlen)
            same = names.setdefault(pool or cell.draw.dataset, [])
            if cell.draw.dataset not in same:
                same.append(cell.draw.dataset)
    for first, *others in names.values():
        if others:
            yield (
                f"dataset {', '.join(others)} has the same text as {first}: they share cells, each "
                "with a row under every name"
            )


def _plan(
    grid: Grid,
    path: Path,
    inputs: Inputs,
    cells: dict[str, Cell],
    twins: dict[str, list[OtherName]],
) -> Plan:
    return Plan(
        name=grid.name,
        grid=path.read_text("utf-8"),
        dtype=grid.dtype,
        keep=grid.keep,
        reference={m: grid.reference_of(m) for m in grid.model},
        seqlen=grid.evaluate.seqlen or max(grid.calibration.seqlen),
        harness=version("lm-eval"),
        pruning=grid.pruning,
        similarity=grid.similarity,
        evaluate=grid.evaluate,
        compare=grid.compare,
        resources=grid.resources,
        inputs=inputs,
        cells={key: cell.to_json() for key, cell in cells.items()},
        other_names=twins,
    )
