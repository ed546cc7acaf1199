"""Each published rule fails on a text made to break it, and on no other reason."""

from __future__ import annotations

import pytest

from calib.quality import C4, GOPHER, quality

SENTENCES = [
    "The committee met on Tuesday to discuss the new bridge that engineers have proposed.",
    "Most members agreed with the plan and asked for a second estimate of its cost.",
    "Residents of the eastern district will be invited to a hearing before winter.",
    "Nobody expects that construction begins earlier than the following spring.",
]
GOOD = "\n".join(SENTENCES)
LONG = "\n".join(
    f"Paragraph {i} tells of {word}, and that is what it has to be about."
    for i, word in enumerate(["rivers", "harbours", "forests", "islands", "valleys", "caves"])
)


def test_plain_prose_passes_every_rule() -> None:
    found = quality(GOOD)
    assert (found.gopher, found.c4, found.quality, found.failed) == (1, 1, 1, ())


BROKEN = {
    "words": SENTENCES[0],
    "mean_word_length": GOOD + "\n" + " ".join("incomprehensibilities" + str(i) for i in range(60)),
    "symbols": GOOD + "\n" + " ".join("#tag" + str(i) for i in range(12)),
    "bullets": "\n".join("- " + line for line in SENTENCES),
    "ellipses": "\n".join([*SENTENCES[:2], SENTENCES[2][:-1] + "...", SENTENCES[3][:-1] + "…"]),
    "alphabetic": GOOD + "\n" + " ".join(str(i) for i in range(100, 130)),
    "stop_words": " ".join(f"word{chr(97 + i)} number{chr(97 + i)}" for i in range(26)),
    "repeated_lines": "\n".join([*SENTENCES, *SENTENCES]),
    "repeated_paragraphs": "\n\n".join([*SENTENCES, *SENTENCES]),
    "top_2_gram": GOOD + "\n" + " ".join(f"green apples {w}" for w in GOOD.split()[:20]),
    "repeated_5_grams": " ".join([GOOD.replace("\n", " "), SENTENCES[0], SENTENCES[1]]),
    "sentences": "\n".join(line[:-1] for line in SENTENCES),
    "lines": GOOD + "\nHome\nAbout us\nContact\nImprint\nLog in",
    "lorem_ipsum": GOOD + "\nLorem ipsum dolor sit amet, as printers say to each other.",
    "curly_brackets": GOOD + "\nThe function returns { nothing } to those who call it.",
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_rule_fails_where_it_is_broken(rule: str) -> None:
    assert rule in quality(BROKEN[rule]).failed
    for other in ("lorem_ipsum", "curly_brackets"):
        assert (other in quality(BROKEN[rule]).failed) == (other == rule)


@pytest.mark.parametrize("text", ["", " ", "...", "\n\n", "a", "!" * 50])
def test_any_text_has_figures(text: str) -> None:
    found = quality(text)
    assert 0 <= found.quality < 1
    assert len(found.failed) == round((1 - found.gopher) * len(GOPHER) + (1 - found.c4) * len(C4))


def test_repetition_lowers_quality() -> None:
    assert quality(LONG + "\n" + LONG).quality < quality(LONG).quality
