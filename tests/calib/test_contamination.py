"""Shared runs of thirteen words are found, shorter ones are not."""

from __future__ import annotations

import random
from pathlib import Path

from calib.contamination import TaskGrams
from calib.shingles import words


def text(seed: object, count: int) -> list[str]:
    choose = random.Random(str(seed))
    return [f"w{choose.randrange(10_000)}" for _ in range(count)]


def test_thirteen_words_in_a_row_count_and_twelve_do_not() -> None:
    task = [text(i, 30) for i in range(20)]
    grams = TaskGrams.of([" ".join(t) for t in task])
    assert grams.documents == 20
    for shared, found in ((13, [3]), (12, []), (30, [3])):
        hidden = [*text("x", 50), *task[3][:shared], *text("y", 50)]
        texts = [" ".join(text(i, 90)) for i in range(500, 803)]
        texts[300] = " ".join(hidden).upper() + "!"
        result = grams.within(texts)
        assert (result.documents, result.found, result.texts) == (
            20, len(found), [300] if found else [],
        )  # fmt: skip


def test_plain_sets_agree() -> None:
    choose = random.Random(0)
    task = [" ".join(choose.choices("ab", k=14)) for _ in range(30)]
    texts = [" ".join(choose.choices("ab", k=60)) for _ in range(300)]

    def plain(one: str) -> set[tuple[str, ...]]:
        own = words(one)
        return {tuple(own[i : i + 13]) for i in range(len(own) - 12)}

    known = [plain(t) for t in task]
    found = TaskGrams.of(task).within(texts)
    assert found.texts == [i for i, t in enumerate(texts) if any(plain(t) & k for k in known)]
    everything = set().union(*map(plain, texts))
    assert found.found == sum(bool(k & everything) for k in known)
    assert 0 < found.found < 30


def test_short_documents_are_not_looked_for() -> None:
    grams = TaskGrams.of(["only five words are here", " ".join(text(0, 13))])
    assert grams.documents == 1
    assert grams.within(["only five words are here"]).found == 0
    assert TaskGrams.of([]).within(["a"]).documents == 0


def test_they_come_back_as_they_were_saved(tmp_path: Path) -> None:
    task = [" ".join(text(i, 30)) for i in range(5)]
    TaskGrams.of(task).save(tmp_path / "g")
    assert TaskGrams.load(tmp_path / "g").within(task) == TaskGrams.of(task).within(task)
