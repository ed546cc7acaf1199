"""Which projections of a block a grid's `pruning.skip` leaves alone; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

OPENLM_PARTS = {"in_proj": ("q", "k", "v"), "w12": ("gate", "up")}
"""The parts of OpenLM's fused projections, as `prune.model.openlm` names them."""


def skipped(name: str, patterns: Iterable[str]) -> bool:
    """Does a pattern (`*`, `?`) match a projection, or the fused one that it is a part of?

    A bracket stands for itself too, so that `*.in_proj[q]` names the queries of a fused projection.
    """
    names = {name, name.partition("[")[0]}
    spelled = [s for p in patterns for s in (p, p.replace("[", "[[]"))]
    return any(fnmatchcase(n, s) for n in names for s in spelled)
