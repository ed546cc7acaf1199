"""Files and folders that we may not read or write, or are none: told before anything starts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import collect, launch, prefetch, status

NOBODY = 65534


@pytest.fixture
def place(tiny_model: Path, corpora: Path, grid_text: str) -> Iterator[Path]:
    """A folder that all may enter, with a grid, its model, its corpora and a place for runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(tiny_model, folder / "model")
        shutil.copytree(corpora, folder / "texts")
        text = grid_text.replace(str(tiny_model), "model").replace(str(corpora), "texts")
        (folder / "grid.yaml").write_text(text)
        (folder / "out").mkdir()
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        (folder / "out").chmod(0o777)
        before = [str(folder / "grid.yaml"), "--dry-run", "--out", str(folder / "before")]
        assert launch.main(before) == 0  # also loads all modules, which nobody may not read either
        yield folder


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Root may read everything: here it is somebody else."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def refusal(place: Path, capsys: pytest.CaptureFixture[str], out: str = "out") -> str:
    arguments = [str(place / "grid.yaml"), "--dry-run", "--out", str(place / out)]
    assert launch.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("closed", "where"),
    [
        ("model/model.safetensors", "model"),
        ("model/config.json", "model"),
        ("model", "model"),
        ("texts/farm.jsonl", "datasets.farm"),
        ("grid.yaml", ""),
        ("out", "--out"),
    ],
)
def test_what_we_may_not_read(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    closed: str,
    where: str,
    request: pytest.FixtureRequest,
) -> None:
    (place / closed).chmod(0o000)
    try:
        request.getfixturevalue("as_nobody")
        line = refusal(place, capsys)
    finally:
        os.seteuid(os.getuid())
        (place / closed).chmod(0o755)
    assert str(place / closed) in line
    assert where in line


def test_a_folder_of_others_takes_no_runs(
    place: Path, as_nobody: None, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid() == NOBODY:
        assert "cannot be written to" in refusal(place, capsys, "runs")
    arguments = [str(place / "grid.yaml"), "--mirror", "/proc/mirror"]
    assert prefetch.main(arguments) == 2
    assert "--mirror: /proc cannot be written to" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["out/here", "out/artefacts", "out/.fingerprints", "out/tiny"])
def test_a_file_is_no_folder_for_runs(
    place: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    (place / file).write_text("")
    line = refusal(place, capsys, "out/here" if file == "out/here" else "out")
    assert f"--out: {place / file} is no folder" in line


@pytest.mark.parametrize("file", ["model/config.json", "model/tokenizer.json", "texts/farm.jsonl"])
def test_a_folder_is_no_file(place: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    (place / file).unlink()
    (place / file).mkdir()
    assert str((place / file).parent) in refusal(place, capsys)


@pytest.mark.parametrize("command", [status, collect])
def test_a_run_folder_that_is_none(
    place: Path, capsys: pytest.CaptureFixture[str], command: type[status]
) -> None:
    for run in (place / "grid.yaml", place / "out"):
        with pytest.raises(SystemExit) as stopped:
            command.main([str(run)])
        assert stopped.value.code == 2
        assert f"{run} is no run" in capsys.readouterr().err
