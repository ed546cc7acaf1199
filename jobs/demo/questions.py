"""Two multiple-choice tasks made from held-out text: how it goes on, and which order is right."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

COUNTS = (150, 200)  # documents of each task at most: a cell scores them all on one core
CONTEXT = (24, 32)  # words shown before the choice, fewest and most
ENDING = 8  # words of each choice
SENTENCE = (8, 20)  # words of an order question, fewest and most
_PLAIN = re.compile(r"[A-Za-z][A-Za-z'\-]*[,;:.]?")
_LOWER = re.compile(r"[a-z]{3,}")
_ARTICLES = frozenset(["a", "an", "each", "every", "its", "the", "these", "this", "your"])
_STOP = re.compile(r"(?<=[a-z][.!?]) +(?=[A-Z])")


def continuation_questions(texts: Sequence[str], count: int = COUNTS[0]) -> list[dict]:
    """Ask which words follow a passage: its own or those of three others.

    Args:
        texts: held-out documents, paragraphs on lines.
        count: how many questions at most.

    Returns:
        Rows of ``context``, four ``choices`` of ``ENDING`` words each, and ``answer`` (an index).

    Raises:
        ValueError: there are fewer than four passages.
    """
    passages: list[tuple[str, str]] = []
    for text in texts:
        words = max(text.split("\n"), key=len).split()
        size = CONTEXT[0] + _number(text) % (CONTEXT[1] - CONTEXT[0] + 1)
        if len(words) >= size + ENDING and _plain_share(words[: size + ENDING]) >= 0.8:
            passages.append((" ".join(words[:size]), " ".join(words[size : size + ENDING])))
    passages = passages[:count]
    if len(passages) < 4:
        raise ValueError(
            f"the demo's questions need 4 held-out passages of {CONTEXT[1] + ENDING} words and "
            f"{len(passages)} were found; install the project's dependencies in full"
        )
    rows: list[dict] = []
    for index, (context, ending) in enumerate(passages):
        others = [passages[(index + step) % len(passages)][1] for step in (1, 2, 3)]
        rows.append({"context": context, **_placed(ending, others, context)})
    return rows


def order_questions(texts: Sequence[str], count: int = COUNTS[1]) -> list[dict]:
    """Ask which of two sentences is real: one as it stands, one with two words exchanged.

    Args:
        texts: held-out documents, paragraphs on lines.
        count: how many questions at most, one a document.

    Returns:
        Rows of two ``choices`` and ``answer`` (an index).
    """
    rows: list[dict] = []
    for text in texts:
        for sentence in _sentences(text):
            words = sentence.split()
            spots = _spots(words)
            if spots:
                left, right = spots[_number(sentence) % len(spots)]
                words[left], words[right] = words[right], words[left]
                rows.append(_placed(sentence, [" ".join(words)], sentence))
                break
    return rows[:count]


def _spots(words: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of different words that could change places: both follow an article.

    So both orders are grammatical as a rule, and only the meaning tells them apart.
    """
    named = [i for i in range(1, len(words)) if words[i - 1].lower() in _ARTICLES]
    named = [i for i in named if _LOWER.fullmatch(words[i]) and words[i] not in _ARTICLES]
    pairs = ((i, j) for i in named for j in named if i < j)
    return [(i, j) for i, j in pairs if words[i] != words[j]]


def _sentences(text: str) -> Iterator[str]:
    """Yield the plain sentences of an allowed length."""
    for line in text.split("\n"):
        for sentence in _STOP.split(line):
            words = sentence.split()
            if (
                SENTENCE[0] <= len(words) <= SENTENCE[1]
                and sentence[0].isupper()
                and sentence.endswith(".")
                and _plain_share(words) == 1
            ):
                yield sentence


def _placed(right: str, wrong: Sequence[str], key: str) -> dict:
    """Put the right choice where the hash of ``key`` says."""
    answer = _number("place " + key) % (len(wrong) + 1)
    return {"choices": [*wrong[:answer], right, *wrong[answer:]], "answer": answer}


def _plain_share(words: Sequence[str]) -> float:
    """Return the share of words that are letters with at most a stop behind."""
    return sum(bool(_PLAIN.fullmatch(word)) for word in words) / len(words)


def _number(text: str) -> int:
    """Return a number that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
