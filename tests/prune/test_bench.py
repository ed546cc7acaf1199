"""The benchmark runs anywhere; its figures mean something on a GPU alone."""

from __future__ import annotations

import pytest

from tests.bench import pruning


def test_the_table_has_a_row_for_each_method_and_pattern(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        pruning.main(
            ["--shape", "tiny", "--size", "4", "--seqlen", "16", "--methods", *pruning.METHODS]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.split()[0] in pruning.METHODS]
    assert [row[:2] for row in rows] == [
        [method, pattern] for method in pruning.METHODS for pattern in pruning.PATTERNS
    ]
    for _, _, each, whole, _, _, _, ratio in rows:
        assert float(whole) == pytest.approx(2 * float(each), abs=2e-4)
        assert float(ratio) > 0
