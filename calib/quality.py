"""How a document fares under the published heuristics for the quality of web text.

Gopher: Rae et al. 2021 (arXiv 2112.11446), table A1; C4: Raffel et al. 2020 (JMLR 21), section 2.2
(without its list of bad words and its language detection, which need other data). Each rule says
whether the document would have been kept; the figure is the share of rules that would keep it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
ENDS = (".", "!", "?", '"', "”", "’")
BULLETS = ("•", "●", "-", "*", "‣")


@dataclass(frozen=True)
class Quality:
    """The figures of one document.

    Attributes:
        gopher, c4: share of each list of rules that would keep it.
        failed: names of the rules that would not.
    """

    gopher: float
    c4: float
    failed: tuple[str, ...]

    @property
    def quality(self) -> float:
        """The mean of both."""
        return (self.gopher + self.c4) / 2


@dataclass(frozen=True)
class _Text:
    """A document, cut up once for all rules."""

    text: str
    words: Sequence[str]
    lines: Sequence[str]

    @classmethod
    def of(cls, text: str) -> _Text:
        return cls(text, text.split(), [s for line in text.split("\n") if (s := line.strip())])

    def share_of_lines(self, holds: Callable[[str], bool]) -> float:
        return sum(map(holds, self.lines)) / max(len(self.lines), 1)

    def share_of_words(self, holds: Callable[[str], bool]) -> float:
        return sum(map(holds, self.words)) / max(len(self.words), 1)


def _repeated(parts: Sequence[str]) -> tuple[float, float]:
    """The share of parts, and of their characters, that repeat an earlier one."""
    counts = Counter(parts)
    extra = sum(count - 1 for count in counts.values())
    characters = sum((count - 1) * len(part) for part, count in counts.items())
    return extra / max(len(parts), 1), characters / max(sum(map(len, parts)), 1)


def _top_gram(text: _Text, n: int) -> float:
    """The share of characters that the most frequent n-gram of words covers."""
    grams = Counter(zip(*(text.words[i:] for i in range(n)), strict=False))
    if not grams:
        return 0.0
    gram, count = max(grams.items(), key=lambda item: (item[1], sum(map(len, item[0]))))
    return count * sum(map(len, gram)) / sum(map(len, text.words)) if count > 1 else 0.0


def _repeated_grams(text: _Text, n: int) -> float:
    """The share of characters in words that some repeated n-gram covers again."""
    seen: set[tuple[str, ...]] = set()
    covered = 0
    free = 0  # first word not counted yet
    for i, gram in enumerate(zip(*(text.words[k:] for k in range(n)), strict=False)):
        if gram in seen:
            covered += sum(map(len, text.words[max(i, free) : i + n]))
            free = i + n
        seen.add(gram)
    return covered / max(sum(map(len, text.words)), 1)


def _mean_length(text: _Text) -> float:
    return sum(map(len, text.words)) / max(len(text.words), 1)


def _symbols(text: _Text) -> float:
    count = text.text.count("#") + text.text.count("…") + text.text.count("...")
    return count / max(len(text.words), 1)


def _stop_words(text: _Text) -> int:
    return len(STOP_WORDS & {word.lower() for word in text.words})


def _paragraphs(text: _Text) -> list[str]:
    return [p.strip() for p in re.split(r"\n{2,}", text.text) if p.strip()]


Rule = Callable[[_Text], bool]


def _most(figure: Callable[..., float], most: float, *given: int) -> Rule:
    """The rule that a figure is at most `most`."""
    return lambda text: figure(text, *given) <= most


GOPHER: dict[str, Rule] = {
    "words": lambda t: 50 <= len(t.words) <= 100_000,
    "mean_word_length": lambda t: 3 <= _mean_length(t) <= 10,
    "symbols": _most(_symbols, 0.1),
    "bullets": lambda t: t.share_of_lines(lambda s: s.startswith(BULLETS)) <= 0.9,
    "ellipses": lambda t: t.share_of_lines(lambda s: s.endswith(("...", "…"))) <= 0.3,
    "alphabetic": lambda t: t.share_of_words(lambda w: any(map(str.isalpha, w))) >= 0.8,
    "stop_words": lambda t: _stop_words(t) >= 2,
    "repeated_lines": lambda t: _repeated(t.lines)[0] <= 0.3,
    "repeated_line_characters": lambda t: _repeated(t.lines)[1] <= 0.2,
    "repeated_paragraphs": lambda t: _repeated(_paragraphs(t))[0] <= 0.3,
    "repeated_paragraph_characters": lambda t: _repeated(_paragraphs(t))[1] <= 0.2,
    **{f"top_{n}_gram": _most(_top_gram, m, n) for n, m in ((2, 0.20), (3, 0.18), (4, 0.16))},
    **{
        f"repeated_{n}_grams": _most(_repeated_grams, most, n)
        for n, most in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True)
    },
}
"""The rules by name; True keeps the document."""


def _kept(line: str) -> bool:
    """Would C4 keep this line?"""
    return line.endswith(ENDS) and len(line.split()) >= 5 and "javascript" not in line.lower()


def _sentences(text: _Text) -> int:
    """Sentences in the lines that C4 keeps."""
    return sum(len(re.findall(r"[.!?](?=\s|[\"”’]|$)", s)) for s in text.lines if _kept(s))


C4: dict[str, Rule] = {
    "sentences": lambda t: _sentences(t) >= 3,
    "lines": lambda t: t.share_of_lines(_kept) >= 0.5,
    "lorem_ipsum": lambda t: "lorem ipsum" not in t.text.lower(),
    "curly_brackets": lambda t: "{" not in t.text,
}
"""The rules by name; C4 drops single lines, for which `lines` asks that half of them stay."""


def quality(text: str) -> Quality:
    """The figures of a document."""
    cut = _Text.of(text)
    failed = [[name for name, rule in rules.items() if not rule(cut)] for rules in (GOPHER, C4)]
    gopher, c4 = (1 - len(f) / len(r) for f, r in zip(failed, (GOPHER, C4), strict=True))
    return Quality(gopher, c4, (*failed[0], *failed[1]))
