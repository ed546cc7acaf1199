"""The benchmark of generation prints its table, on a tiny model without a GPU."""

from __future__ import annotations

import pytest

from tests.bench import generation


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--shape", "tiny", "--new", "2", "--generate", "2", "--batches", "2", "--long"]
    assert generation.main([*arguments, "--static", "2", "--split", "2"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    found = [row[:3] for row in rows if row[0] in ("generate", "ours", "static")]
    assert found == [[how, "2", "2"] for how in ("generate", "ours", "static")]
    assert "sampling" in printed
