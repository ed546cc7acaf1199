"""Large grids are planned as a whole; `tests.bench.launcher` says in what time."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import launch

ROOT = Path(__file__).parents[2]


def test_ten_thousand_cells_are_planned(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    seeds = ", ".join(map(str, range(625)))
    grid = write_grid(
        {
            "[magnitude, wanda]": "[wanda, ria]",
            "size: 4": "size: [1, 2]",
            "sparsity: 0.5": "sparsity: [0.5, 0.6]",
            "seed: [0, 1]": f"seed: [{seeds}]",
        }
    )
    command = [sys.executable, "-m", "jobs.launch", str(grid), "--dry-run", "--out", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "10,001 cells" in said.stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"text": "caf\xe9"}', "line 31 is not UTF-8"),
        (b'{"text": "unfinished', "line 31 is not one JSON object"),
        (b'{"text": 5}', "of row 31 is no text but a int"),
    ],
)
def test_a_row_that_cannot_be_read_is_told_before_anything_runs(
    write_grid: Callable[..., Path],
    corpora: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: bytes,
    said: str,
) -> None:
    rows = (corpora / "farm.jsonl").read_bytes().splitlines()[:30]
    (tmp_path / "odd.jsonl").write_bytes(b"\n".join([*rows, line, *rows]) + b"\n")
    entry = f'  odd: {{path: json, data_files: "{tmp_path}/odd.jsonl"}}\ncells:\n'
    grid = write_grid({"cells:\n": entry, "dataset: [farm, city]": "dataset: [odd]"})
    assert launch.main([str(grid), "--dry-run", "--out", str(tmp_path)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "odd.jsonl: " in told
    assert said in told


@pytest.mark.parametrize("content", ["", '{"a": ', "[]", "\0\0"])
def test_a_damaged_cache_is_made_again(
    write_grid: Callable[..., Path], tmp_path: Path, content: str
) -> None:
    grid = write_grid({"limit: 6": "tasks: [sciq]"})
    command = [str(grid), "--dry-run", "--out", str(tmp_path)]
    assert launch.main(command) == 0
    caches = sorted((tmp_path / ".fingerprints").iterdir())
    before = [path.read_text() for path in caches]
    assert len(before) == 2
    for path in caches:
        path.write_text(content)
    assert launch.main(command) == 0
    assert [path.read_text() for path in caches] == before


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_that_is_ignored_stays_so(
    write_grid: Callable[..., Path], tmp_path: Path, ignored: signal.Signals
) -> None:
    other = ({signal.SIGHUP, signal.SIGTERM} - {ignored}).pop()
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (ignored, other)}
    try:
        signal.signal(ignored, signal.SIG_IGN)  # as nohup does
        assert launch.main([str(write_grid()), "--dry-run", "--out", str(tmp_path)]) == 0
        assert signal.getsignal(ignored) is signal.SIG_IGN
        assert signal.getsignal(other) is signal.default_int_handler
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("file", ["files.json", "plan.json"])
def test_a_full_disk_is_told_in_one_line_and_no_part_stays(
    write_grid: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
) -> None:
    grid, write = write_grid(), Path.write_text

    def fail(path: Path, text: str, *more: str) -> int:
        if not path.name.startswith(f"{file}."):
            return write(path, text, *more)
        write(path, text[:10], *more)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    assert launch.main([str(grid), "--cluster", "local", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"/{file}: no space left on device; make room there" in line
    assert not list(tmp_path.rglob("*.partial"))
