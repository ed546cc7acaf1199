"""Verdicts on differences: differs, equivalent within delta, or undecided and what would settle it.

Within a family (all pairs of one setting) p values are Holm's, so that a family errs once in
twenty; across families the false discovery rate is Benjamini and Hochberg's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.estimate import Estimate
from analysis.power import ALPHA, detectable, draws_needed

DIFFERS, EQUIVALENT, UNDECIDED = "differs", "equivalent", "undecided"


@dataclass(frozen=True)
class Verdict:
    """What is to be made of an estimate within its family.

    Attributes:
        verdict: `differs`, `equivalent` (within delta) or `undecided`.
        p: of no difference, after Holm. p_equivalent: of a difference of delta or more, likewise.
        detectable: the smallest difference that these data find with power 0.8; None where ties
            do not tell.
        draws_needed: draws an arm that find a difference of delta with power 0.8, where it is
            undecided; None too where no number of draws would (`bound_by_documents`).
        bound_by_documents: would no number of draws settle it?
    """

    verdict: str
    p: float
    p_equivalent: float
    detectable: float | None
    draws_needed: int | None
    bound_by_documents: bool


def holm(p: Sequence[float]) -> list[float]:
    """p values after Holm's step-down correction (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(x) for x in adjusted[np.argsort(order, kind="stable")]]


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """p values that bound the false discovery rate (Benjamini and Hochberg 1995)."""
    order = np.argsort(p, kind="stable")[::-1]  # from the largest
    scaled = np.asarray(p, dtype=float)[order] * len(p) / np.arange(len(p), 0, -1)
    adjusted = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return [float(x) for x in adjusted[np.argsort(order, kind="stable")]]


def judge_family(
    estimates: Sequence[Estimate], delta: float, documents: int | None
) -> list[Verdict]:
    """The verdicts on all pairs of a family, of one estimand.

    Args:
        estimates: of each pair.
        delta: the difference that matters, in the units of the estimates.
        documents: of the benchmark, None where they are not known.
    """
    differ = holm([e.p for e in estimates])
    equal = holm([e.p_equivalent(delta) for e in estimates])
    alpha = ALPHA / max(len(estimates), 1)
    return [
        _judge(e, p, q, delta, documents, alpha)
        for e, p, q in zip(estimates, differ, equal, strict=True)
    ]


def _judge(
    estimate: Estimate, p: float, q: float, delta: float, documents: int | None, alpha: float
) -> Verdict:
    verdict = DIFFERS if p < ALPHA else EQUIVALENT if q < ALPHA else UNDECIDED
    needed, bound = None, False
    if verdict == UNDECIDED:
        if estimate.per_draw:
            needed = draws_needed(delta, lambda n: estimate.error_at(n, documents), alpha)
        # other sets may tell, and so may draws that do not tie
        bound = needed is None and estimate.estimand != "sets" and not estimate.tied
    smallest = None if estimate.tied else detectable(estimate.stderr, estimate.df, alpha)
    return Verdict(verdict, p, q, smallest, needed, bound)
