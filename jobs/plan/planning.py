"""From a grid file to a plan: everything is looked up, expanded, keyed and checked first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from calib import draw
from calib.pool import Pool
from calib.readers import read_pool, read_rows
from calib.sources import Source
from cluster.yamlfile import Problem
from jobs.plan.cells import Cell, digest, expand, science
from jobs.plan.generate_checks import MOST_BYTES, generate_problems
from jobs.plan.grid import Grid, load_grid
from jobs.plan.gridnames import name_problems
from jobs.plan.inputs import DatasetInput, Inputs
from jobs.plan.lookup import look_up
from jobs.plan.model_checks import (
    bos_problems,
    generation_problems,
    length_problems,
    skip_problems,
    width_problems,
)
from jobs.run import OtherName, Plan


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
        problems += bos_problems(grid, inputs)
        problems += _unreadable(inputs)
        problems += _shortages(cells, inputs, out / "artefacts" / "pools")
        problems += generate_problems(cells, inputs)
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
    """Datasets of several names and one text, which share their cells."""
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


def _unreadable(inputs: Inputs) -> Iterator[Problem]:
    """Datasets and texts with a row that cannot be read; of large files the first row is tried."""
    for kind, entries in (("datasets", inputs.datasets), ("texts", inputs.texts)):
        for name, entry in entries.items():
            if entry.source is not None:
                few = _bytes(entry.source) <= MOST_BYTES
                try:
                    for _ in islice(read_rows(entry.source), None if few else 1):
                        pass
                except (ValueError, OSError) as error:
                    yield Problem((kind, name), f"{name}: {error}")


BYTES_PER_TOKEN = 16
"""No tokenizer of natural text needs more: a pool of so many bytes a token asked for is enough."""


def _shortages(cells: list[Cell], inputs: Inputs, pools: Path) -> Iterator[Problem]:
    """Draws that ask for more text than a dataset has, where that can be counted here.

    Counts tokens only where the files are so small that they may not be enough.
    """
    largest: dict[tuple[str, str, str, int, int], int] = {}
    for cell in cells:
        if cell.draw is not None:
            d = cell.draw
            folds = 1 if d.fold is None else d.fold[1]
            key = (cell.model, d.dataset, d.sampler, d.seqlen, folds)
            largest[key] = max(largest.get(key, 0), d.size)
    counted: dict[tuple[str, str], list[int]] = {}
    for (model, dataset, sampler, seqlen, folds), size in largest.items():
        entry = inputs.datasets[dataset]
        text = _text(entry, pools)
        tokenizer = (inputs.models[model].folder or Path()) / "tokenizer.json"
        wanted = size * seqlen * folds
        if text is None or not tokenizer.is_file():
            continue
        enough = wanted * BYTES_PER_TOKEN if sampler == "stream" else MOST_BYTES
        size_of_text, read = text
        if size_of_text > min(enough, MOST_BYTES):
            continue
        lengths = counted.get((model, dataset))
        if lengths is None:
            try:
                lengths = counted[model, dataset] = _document_tokens(read(), tokenizer)
            except ValueError as error:
                yield Problem(("datasets", dataset), f"{dataset}: {error}")
                counted[model, dataset] = []
                continue
        try:
            if sampler == "stream":
                draw.check_stream(sum(lengths) // folds, size, seqlen)
            else:
                draw.check_documents(sum(n >= seqlen for n in lengths) // folds, size, seqlen)
        except draw.TooLittleTextError as error:
            yield Problem(("cells", "size"), f"dataset {dataset}: {error}")


def _text(entry: DatasetInput, pools: Path) -> tuple[int, Callable[[], Sequence[str]]] | None:
    """Bytes of what a dataset's pool is made of, and its texts; None where it is not made yet."""
    source = entry.source
    if source is not None:
        return _bytes(source), lambda: read_pool(source, entry.spec).texts
    kept = pools / str(entry.identity) / "documents.parquet"
    if not entry.spec.streaming or not kept.is_file():
        return None
    return kept.stat().st_size, lambda: list(Pool.load(kept.parent).texts)


def _bytes(source: Source) -> int:
    return sum(path.stat().st_size for path in source.files)


def _document_tokens(texts: Sequence[str], tokenizer: Path) -> list[int]:
    """Tokens of each document of a pool; needs the tokenizer's file only, not transformers."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.no_truncation()
    encoded = encoder.encode_batch([" " + t for t in texts], add_special_tokens=False)
    return [len(e.ids) for e in encoded]
