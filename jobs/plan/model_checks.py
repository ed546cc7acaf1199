"""Does a grid fit its models? Lengths, widths and names, by their files; no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from calib.spec import positions
from cluster.yamlfile import Place, Problem, choices
from jobs.files import read_json
from jobs.plan import modelfiles
from jobs.plan.cells import Cell
from jobs.plan.grid import Grid
from jobs.plan.inputs import Inputs
from prune.model.skip import OPENLM_PARTS, skipped
from prune.pattern import Pattern
from prune.recipe import Recipe


def length_problems(grid: Grid, cells: Iterable[Cell], inputs: Inputs) -> Iterator[Problem]:
    """Windows and requests longer than the model has positions for, or too short for their use."""
    cells = list(cells)
    drawn = {(c.model, c.draw.seqlen) for c in cells if c.draw is not None}
    wanted: list[tuple[Place, str, int | None]] = [
        *((("calibration", "seqlen"), model, seqlen) for model, seqlen in sorted(drawn)),
        *((("evaluate", "seqlen"), model, grid.evaluate.seqlen) for model in grid.model),
        *((("evaluate", "max_length"), model, grid.evaluate.max_length) for model in grid.model),
    ]
    for place, model, length in wanted:
        most = _positions(inputs, model)
        if length is not None and most is not None and length > most:
            yield Problem(
                place,
                f"{length} tokens, and model {model} has {most} positions; use {most} or less",
            )
    if grid.evaluate.perplexity and grid.evaluate.seqlen is None and grid.calibration.seqlen == [1]:
        yield Problem(
            ("calibration", "seqlen"),
            "windows of 1 token have no perplexity, and evaluate.seqlen defaults to this; set "
            "evaluate.seqlen to 2 or more",
        )
    for recipe in {
        c.recipe for c in cells if c.draw and c.draw.seqlen == 1 and _predicts(c.recipe)
    }:
        yield Problem(
            ("calibration", "seqlen"),
            f"{recipe.short()} needs the gradients of predicted tokens, and a window of 1 token "
            "predicts none; use 2 or more",
        )


def _predicts(recipe: Recipe) -> bool:
    return recipe.pruner is not None and "gradient" in recipe.pruner.needs


def generation_problems(grid: Grid, inputs: Inputs) -> Iterator[Problem]:
    """Tasks that have a model write so much that no prompt fits before it."""
    for model in grid.model:
        most = grid.evaluate.max_length or _positions(inputs, model)
        for i, task in enumerate(grid.evaluate.tasks):
            written = inputs.tasks[task.name].generates
            if most is not None and written >= most:
                yield Problem(
                    ("evaluate", "tasks", i),
                    f"{task.name} lets a model write {written} tokens, and with prompt and all "
                    f"{model} takes {most}; leave it out, or choose a model with more positions "
                    "(and a larger evaluate.max_length, where that is set)",
                )


def _positions(inputs: Inputs, model: str) -> int | None:
    folder = inputs.models[model].folder
    return None if folder is None else positions(read_json(folder / "config.json"))


TRANSPOSED = ("gpt2", "openai-gpt")
"""Model types that store their linears as [inputs, outputs]."""


def width_problems(grid: Grid, cells: Iterable[Cell], inputs: Inputs) -> Iterator[Problem]:
    """N:M patterns whose M does not divide the inputs of every linear that is to be pruned."""
    wanted = {(c.model, c.pattern) for c in cells if c.pattern != "unstructured"}
    for model, pattern in sorted(wanted):
        folder, m = inputs.models[model].folder, Pattern.parse(pattern).m
        widths = _matrix_widths(folder, grid.pruning.fused) if folder is not None else {}
        left = {n: w for n, w in widths.items() if not skipped(n, grid.pruning.skip)}
        wrong = {name: width for name, width in left.items() if width % m}
        if wrong:
            listed = ", ".join(f"{n} ({w})" for n, w in sorted(wrong.items())[:6])
            yield Problem(
                ("cells",),
                f"pattern {pattern} needs linears with a number of inputs that {m} divides; in "
                f"{model} it does not divide: {listed}; choose another pattern, or `pruning.skip`",
            )


def skip_problems(grid: Grid, inputs: Inputs) -> Iterator[Problem]:
    """Patterns of `pruning.skip` that match nothing in any model, or leave nothing to prune."""
    skip, fused = grid.pruning.skip, grid.pruning.fused
    folders = {name: model.folder for name, model in inputs.models.items()} if skip else {}
    for model, folder in folders.items():
        names = list(_matrix_widths(folder, fused)) if folder is not None else []
        if names and all(skipped(name, skip) for name in names):
            listed = ", ".join(names[:MOST_NAMES]) + ", ..." * (len(names) > MOST_NAMES)
            message = f"leaves nothing of {model} to prune; its projections are: {listed}"
            yield Problem(("pruning", "skip"), message)
    known: dict[str, None] = {}
    for folder in folders.values():
        found = {} if folder is None else _block_weights(folder)
        if folder is None or any(re.search(EXPERT, name) for name in found):
            return  # the names that the model will have are not known
        known |= dict.fromkeys([*_matrix_widths(folder, fused), *found])
    for i, pattern in enumerate(skip):
        if not any(skipped(n, [pattern]) or skipped(f"{n}.weight", [pattern]) for n in known):
            message = f"{pattern!r} matches no projection of a block; " + choices(pattern, [*known])
            yield Problem(("pruning", "skip", i), f"{message}; * stands for any letters")


MOST_NAMES = 12
"""Projections that a message lists."""

EXPERT = r"\.experts\.\d+\."
"""In names of experts that files hold one by one; transformers joins and renames those."""


def _matrix_widths(folder: Path, fused: str) -> dict[str, int]:
    """Inputs of every weight matrix inside a block, by its name there.

    With `fused` "split", the parts of fused projections instead of these.
    """
    kind = read_json(folder / "config.json").get("model_type")
    parts = OPENLM_PARTS if kind == "openlm" and fused == "split" else {}
    inputs = 0 if kind in TRANSPOSED else 1
    widths: dict[str, int] = {}
    for name, shape in _block_weights(folder).items():
        if len(shape) == 2:
            names = [f"{name}[{p}]" for p in parts.get(name.rpartition(".")[2], ())] or [name]
            widths |= dict.fromkeys(names, shape[inputs])
    return widths


def _block_weights(folder: Path) -> dict[str, list[int]]:
    """Shapes of all that has two dimensions or more inside a block, from the file headers."""
    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for tensor, entry in modelfiles.header(path).items():
            inside = re.search(r"\.\d+\.(.+)$", tensor)  # after the number of the block
            if inside and len(entry["shape"]) > 1:
                shapes[inside[1].removesuffix(".weight")] = entry["shape"]
    return shapes
