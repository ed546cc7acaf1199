"""Draws are crossed with pruners, sparsities, patterns and sizes: what those tell of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.scores import Cell
from analysis.spread import Noise, noise

CROSSED = ("recipe", "pattern", "sparsity", "size")


class Crossing:
    """The scores of each dataset's draws in every setting that they were run in."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._scores: dict[Any, dict[Any, dict[int, float]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        self._known: dict[Any, Noise | None] = {}
        for c in cells:
            if c.seed is not None and c.replicate == 0:
                setting = tuple(getattr(c, name) for name in CROSSED)
                self._scores[_arm(c)][setting][c.seed] = c.value

    def noise(self, arms: Sequence[Sequence[Cell]]) -> Noise | None:
        """How far apart the draws of some datasets are, in all settings that have these draws.

        Args:
            arms: the cells of each dataset in one setting, two or more draws each.
        """
        drawn = tuple((_arm(group[0]), tuple(sorted(_seeds(group)))) for group in arms)
        if drawn not in self._known:
            self._known[drawn] = self._noise(drawn)
        return self._known[drawn]

    def _noise(self, drawn: Sequence[tuple[Any, tuple[int, ...]]]) -> Noise | None:
        every = list(self._scores[drawn[0][0]])
        shared = [
            setting
            for setting in every
            if all(set(seeds) <= set(self._scores[arm].get(setting, {})) for arm, seeds in drawn)
        ]
        if len(shared) < 2:
            return None
        return noise(
            [
                np.array([[self._scores[arm][s][seed] for seed in seeds] for s in shared])
                for arm, seeds in drawn
            ]
        )


def _arm(cell: Cell) -> tuple[Any, ...]:
    return cell.model, cell.dataset, cell.sampler, cell.seqlen


def _seeds(group: Sequence[Cell]) -> list[int]:
    return [c.seed for c in group if c.seed is not None]
