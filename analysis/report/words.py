"""What answers are made of: the form of one, and words for figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.report.findings import Findings, Row
from analysis.sentences import with_unit

SURE = 0.05


@dataclass(frozen=True)
class Answer:
    """One question and what the run says to it.

    Attributes:
        question: as a researcher would ask it.
        verdict: one or two words: yes, no, undecided, ...
        sentence: the answer. basis: what it rests on, and how far it goes.
        view: the part of the page that shows it.
    """

    question: str
    verdict: str
    sentence: str
    basis: str
    view: str


def some(things: Any, word: str) -> str:
    """How many there are."""
    return f"{len(things)} {word}" + ("" if len(things) == 1 else "s")


def place(key: tuple[str, float]) -> str:
    """A pattern and sparsity."""
    return f"{100 * key[1]:g} %" + ("" if key[0] == "unstructured" else f" {key[0]}")


def amount(f: Findings) -> str:
    """The difference that matters, as the grid gives it."""
    return with_unit(f.score.shown(f.score.delta), f.score.unit)


def signed(gain: float, f: Findings) -> str:
    """A gain in words that need no sign convention."""
    if f.score.lower_is_better:
        return f"{abs(gain):.2f} % {'lower' if gain >= 0 else 'higher'}"
    return f"{round(gain, 2) + 0.0:+.2f} points"  # no -0.00


def gain_of(row: Row, name: str) -> float:
    """How much better the arm `name` is than the other, in the row's unit."""
    ahead = row["difference"] if row["a"] == name else -row["difference"]
    return -ahead if row["unit"] == "%" else ahead
