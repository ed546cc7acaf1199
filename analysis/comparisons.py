"""Pairs of arms, in families: what is compared with what, and from which cells.

Datasets have draws of their own and are paired by document alone. Pruners, sparsities, patterns
and sizes (which nest) are paired by draw and document; they are compared on each dataset, and
averaged over the datasets that both were run on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from analysis.blocks import Block
from analysis.scores import Cell, Outcomes

SETTING = ("model", "recipe", "pattern", "sparsity", "size", "seqlen", "sampler", "dataset")
"""What a comparison holds fixed, but for the axis that it compares."""

BUT_DATA = tuple(n for n in SETTING if n not in ("sampler", "dataset"))
"""The same without the text and how it is drawn."""

PAIRED = ("recipe", "sparsity", "pattern", "size")
"""Axes that share their draws."""

SAME_TEXT = "same text"
"""The flag of two datasets that hold the same documents, and so are no two."""

ON_EACH_DATASET = ("recipe", "size")
"""Of those, the axes that are compared on every single dataset too."""


@dataclass(frozen=True)
class Pair:
    """Two arms and the cells behind them.

    Attributes:
        axis: what differs between the arms. a, b: its values.
        setting: what is equal, by name; `dataset` None = averaged over those that both have.
        cells_a, cells_b: the cells, replicates left out.
    """

    axis: str
    a: Any
    b: Any
    setting: dict[str, Any]
    cells_a: tuple[Cell, ...]
    cells_b: tuple[Cell, ...]

    @property
    def family(self) -> tuple[Any, ...]:
        """Equal for pairs that are judged together."""
        return self.axis, *map(self.setting.get, SETTING)

    @property
    def siblings(self) -> tuple[Any, ...]:
        """Equal for the same comparison on one dataset and another."""
        on_one = self.setting.get("dataset") is not None
        return self.a, self.b, on_one, *self.family[:-1]

    @property
    def flags(self) -> list[str]:
        """In what else, beside the axis, the arms' cells differ; or that they are one text."""
        mixed = [
            n for n in ("gpu", "image", "commit") if len({getattr(c, n) for c in self.cells}) > 1
        ]
        damped = {c.damped for c in self.cells}
        mixed += ["sampler"] * (len(self.samplers) > 1) + ["damping"] * (len(damped) > 1)
        one = self.axis == "dataset" and len({c.text for c in self.cells} - {None}) == 1
        return mixed + [SAME_TEXT] * (one and all(c.text for c in self.cells))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Those of both arms."""
        return *self.cells_a, *self.cells_b

    @property
    def samplers(self) -> list[str]:
        """Of the cells of both arms."""
        return sorted({c.sampler for c in self.cells if c.sampler is not None})

    def blocks(self, outcomes: Outcomes | None) -> list[Block]:
        """The draws behind the difference a - b."""
        if self.axis == "dataset":
            return [as_block(self.cells_a, 1.0, outcomes), as_block(self.cells_b, -1.0, outcomes)]
        return _paired_blocks(self.cells_a, self.cells_b, outcomes)


def pairs(cells: Sequence[Cell]) -> Iterator[Pair]:
    """Every comparison that some cells allow."""
    once = [c for c in cells if c.replicate == 0 and c.pruner != "dense"]
    yield from _dataset_pairs([c for c in once if c.dataset is not None])
    for axis in PAIRED:
        yield from _paired_axis(axis, once)
        if axis != "size":
            yield from _free_pairs(axis, [c for c in once if c.dataset is None])


def strata(cells: Sequence[Cell], names: Sequence[str]) -> dict[tuple[Any, ...], list[Cell]]:
    """Cells by their values of some columns."""
    found: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        found[tuple(getattr(cell, name) for name in names)].append(cell)
    return found


def _dataset_pairs(cells: Sequence[Cell]) -> Iterator[Pair]:
    for values, members in strata(cells, BUT_DATA).items():
        arms = strata(members, ("dataset", "sampler"))
        together = {  # datasets that were drawn with one sampler both
            frozenset((d, e)) for (d, s), (e, t) in combinations(arms, 2) if s == t
        }
        groups = by_sampler(members)
        for (a, s), (b, t) in combinations(arms, 2):
            if a == b or (s != t and frozenset((a, b)) in together):
                continue
            label = _joined((s, t)) if len(groups) > 1 else next(iter(groups))
            setting = dict(zip(BUT_DATA, values, strict=True)) | {"sampler": label}
            a_name, b_name = (a, b) if s == t else (f"{a} ({s})", f"{b} ({t})")
            yield Pair("dataset", a_name, b_name, setting, tuple(arms[a, s]), tuple(arms[b, t]))


def by_sampler(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells whose datasets are compared with each other, by sampler.

    Where each dataset has one sampler but not all the same, as in the study's own mix, they are
    compared across samplers; where a dataset was drawn in several ways, within each.
    """
    ways = {(c.dataset, c.sampler) for c in cells}
    if len(ways) > len({dataset for dataset, _ in ways}):
        return {str(sampler): group for (sampler,), group in strata(cells, ("sampler",)).items()}
    return {_joined(sampler for _, sampler in ways): list(cells)}


def _joined(samplers: Iterable[str | None]) -> str:
    return ", ".join(sorted({str(sampler) for sampler in samplers}))


def _free_pairs(axis: str, cells: Sequence[Cell]) -> Iterator[Pair]:
    """Pairs of arms that need no data, neither of them: once, whatever the others are run on."""
    names = [n for n in ("model", *PAIRED) if n not in (axis, "size")]
    for values, members in strata(cells, names).items():
        arms = strata(members, (axis,))
        for (a,), (b,) in combinations(arms, 2):
            setting = dict(zip(names, values, strict=True))
            yield Pair(axis, a, b, setting, tuple(arms[a,]), tuple(arms[b,]))


def _paired_axis(axis: str, cells: Sequence[Cell]) -> Iterator[Pair]:
    names = [n for n in SETTING if n not in (axis, "dataset")]
    with_data = [c for c in cells if c.dataset is not None]
    free = [c for c in cells if c.dataset is None]  # stands for every dataset, size and seqlen
    for values, members in strata(with_data, names).items():
        setting = dict(zip(names, values, strict=True))
        same = [n for n in names if n not in ("size", "seqlen", "sampler")]
        fitting = [c for c in free if all(getattr(c, n) == setting[n] for n in same)]
        arms = strata([*members, *(fitting if axis != "size" else [])], (axis,))
        for (a,), (b,) in combinations(arms, 2):
            both = _shared_datasets(arms[a,], arms[b,])
            if not both:
                continue
            pair = Pair(axis, a, b, setting, _of(arms[a,], both), _of(arms[b,], both))
            yield pair
            if axis in ON_EACH_DATASET:
                for dataset in both:
                    yield replace(
                        pair,
                        setting=setting | {"dataset": dataset},
                        cells_a=_of(arms[a,], [dataset]),
                        cells_b=_of(arms[b,], [dataset]),
                    )


def _shared_datasets(a: Sequence[Cell], b: Sequence[Cell]) -> list[str]:
    """Datasets that both arms were run on; an arm that needs no data was run on all."""
    found: list[set[str]] = []
    for arm in (a, b):
        datasets = {c.dataset for c in arm if c.dataset is not None}
        if datasets:
            found.append(datasets)
    return sorted(set.intersection(*found)) if found else []


def _of(cells: Sequence[Cell], datasets: Sequence[str]) -> tuple[Cell, ...]:
    return tuple(c for c in cells if c.dataset is None or c.dataset in datasets)


def as_block(cells: Sequence[Cell], sign: float, outcomes: Outcomes | None) -> Block:
    """The draws of one arm, as they are."""
    fixed = all(c.seed is None for c in cells)
    rows = [None if outcomes is None else outcomes.of(c.cell) for c in cells]
    known = [row for row in rows if row is not None]
    if outcomes is None or len(known) < len(rows):
        return Block(sign * np.array([c.value for c in cells]), None, fixed, abs(sign))
    values = sign * np.stack(known)
    return Block(values @ outcomes.documents.each, values, fixed, abs(sign))


def _paired_blocks(a: Sequence[Cell], b: Sequence[Cell], outcomes: Outcomes | None) -> list[Block]:
    """One block a dataset, of the draws that both arms have; an arm without data is its own."""
    blocks: list[Block] = []
    by_a, by_b = _by_dataset(a), _by_dataset(b)
    datasets = sorted({d for d in (*by_a, *by_b) if d is not None})
    share = 1 / max(len(datasets), 1)
    for by_dataset, sign in ((by_a, 1.0), (by_b, -1.0)):
        if None in by_dataset:
            blocks.append(as_block(list(by_dataset[None].values()), sign, outcomes))
    for dataset in datasets:
        mine, other = by_a.get(dataset, {}), by_b.get(dataset, {})
        if mine and other:
            seeds = [seed for seed in mine if seed in other]
            if not seeds:
                return []
            first = as_block([mine[s] for s in seeds], share, outcomes)
            second = as_block([other[s] for s in seeds], -share, outcomes)
            blocks.append(_sum(first, second))
        else:
            sign = share if mine else -share
            blocks.append(as_block(list((mine or other).values()), sign, outcomes))
    return blocks


def _sum(a: Block, b: Block) -> Block:
    documents = None if a.documents is None or b.documents is None else a.documents + b.documents
    return Block(a.scores + b.scores, documents, weight=a.weight)


def _by_dataset(cells: Sequence[Cell]) -> dict[str | None, dict[int | None, Cell]]:
    found: dict[str | None, dict[int | None, Cell]] = defaultdict(dict)
    for cell in cells:
        found[cell.dataset][cell.seed] = cell
    return found
