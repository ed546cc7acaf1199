"""What a number of draws can tell: power of a t test, and the smallest gap that it detects.

    python -m analysis.power --draws 3 --datasets 4 [--unit points|%] [--sd 0.2] [--delta 0.5]

prints the smallest gap between two datasets that a grid can detect, for the launch's dry run.
Accuracies differ by points, perplexities by percent.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import lru_cache

from scipy.special import nctdtr, stdtrit

from analysis.command import run

POWER = 0.8
"""How often a difference of the size in question is to be found."""

ALPHA = 0.05

MOST_DRAWS = 100_000
"""Numbers of draws beyond this are not worth telling apart."""

ASSUMED = {
    "points": (
        0.2,
        "published of mean accuracies of 7B models at 2:4 with 128 windows of 2,048 tokens "
        "(Ji et al. 2025)",
    ),
    "%": (
        0.5,
        "the small reproduction has 0.3 to 0.7 %, a model of 15 million parameters with 32 windows "
        "of 256 tokens",
    ),
}
"""unit -> standard deviation between draws of a dataset that is taken where none is given, and
where it is from: Wanda and DSnoT on DCLM-7B and LLaMA-3-8B, 20 draws each (figure data: 0.19 to
0.27 points); medians over datasets at 50 and 60 % (analysis/small-reproduction.csv)."""


@lru_cache(maxsize=10_000)  # a family's pairs often share their errors
def power(difference: float, stderr: float, df: float, alpha: float = ALPHA) -> float:
    """Probability that a two-sided t test at `alpha` finds a true `difference`."""
    critical = stdtrit(df, 1 - alpha / 2)
    shift = min(abs(difference) / stderr, 1e3) if stderr > 0 else 1e3
    below, above = nctdtr(df, shift, -critical), nctdtr(df, shift, critical)
    if math.isnan(above):  # scipy gives up far in the tails, where the answer is plain
        return 1.0 if shift > critical else 0.0
    return float(1 - above + (0.0 if math.isnan(below) else below))


def detectable(stderr: float, df: float, alpha: float = ALPHA) -> float:
    """The smallest true difference that is found with power 0.8."""
    return stderr * _detectable(df, alpha)


@lru_cache(maxsize=10_000)  # pooled variances have few degrees of freedom, families few levels
def _detectable(df: float, alpha: float) -> float:
    """The same in standard errors."""
    low, high = 0.0, 1.0
    while power(high, 1.0, df, alpha) < POWER:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, 1.0, df, alpha) < POWER else (low, middle)
    return high


def draws_needed(
    difference: float, error: Callable[[int], tuple[float, float]], alpha: float = ALPHA
) -> int | None:
    """The least number of draws that finds `difference` with power 0.8, None where none would.

    Args:
        difference: the difference that matters.
        error: standard error and degrees of freedom at a number of draws, from 2.
        alpha: level of the test.
    """

    def enough(draws: int) -> bool:
        return power(difference, *error(draws), alpha) >= POWER

    if not enough(MOST_DRAWS):
        return None
    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def smallest_gap(draws: int, datasets: int, sd: float) -> float | None:
    """The smallest gap between two datasets that shows, after Holm's correction for all pairs.

    Args:
        draws: draws a dataset. datasets: compared with each other.
        sd: standard deviation between draws of one dataset, of the score.

    Returns:
        The gap in the units of `sd`; None for a single draw, which says nothing of others.
    """
    if draws < 2 or datasets < 2:
        return None
    pairs = datasets * (datasets - 1) / 2
    return detectable(sd * math.sqrt(2 / draws), 2 * (draws - 1), ALPHA / pairs)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.power",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--draws", type=int, required=True, help="draws a dataset")
    parser.add_argument("--datasets", type=int, required=True, help="datasets compared")
    parser.add_argument("--unit", choices=list(ASSUMED), default="points", help="of the score")
    parser.add_argument("--sd", type=float, help="standard deviation between draws of a dataset")
    parser.add_argument("--delta", type=float, help="the difference that matters")
    options = parser.parse_args(arguments)
    if options.sd is not None and options.sd <= 0:
        parser.error(f"--sd must be positive, not {options.sd:g}")
    print(describe(options.draws, options.datasets, options.unit, options.sd, options.delta))
    return 0


def describe(
    draws: int, datasets: int, unit: str, known_sd: float | None, delta: float | None
) -> str:
    """What a person is told before a grid runs."""
    if datasets < 2:
        return "One dataset: there is no gap between datasets to detect."
    pairs = datasets * (datasets - 1) // 2
    assumed_sd, source = ASSUMED[unit]
    sd = assumed_sd if known_sd is None else known_sd
    gap = smallest_gap(draws, datasets, sd)
    of = "points of accuracy" if unit == "points" else "% of perplexity"
    assumed = f"if draws of a dataset differ by {sd:g} {of} (standard deviation)"
    if known_sd is None:
        assumed += f", which is assumed: {source}; `python -m analysis.power --sd` takes yours"
    if gap is None:
        text = "One draw a dataset: results hold for these calibration sets alone, whatever the gap"
    else:
        text = (
            f"{draws} draws a dataset detect a gap of {gap:.2g} {unit} between two of {datasets} "
            f"datasets 8 times in 10 ({pairs} pairs, Holm), {assumed}"
        )
    if delta is not None:
        alpha = ALPHA / pairs
        needed = draws_needed(delta, lambda n: (sd * math.sqrt(2 / n), 2 * (n - 1)), alpha)
        if needed is not None and needed > draws:
            text += f"; {needed} draws would detect delta, {delta:g} {unit}"
            text += "" if gap is not None else f", {assumed}"
    return text + "."


if __name__ == "__main__":
    run(main)
