"""Every grid file that ships can be planned without a network, and says what it will cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import launch

GRIDS = Path(launch.__file__).parent / "grids"
CELLS = {
    "ji2025-gaps": 1 + 6 + 2 * 6 * 4 * 20 + 4 * 4 * 20,
    "ji2025-amount": 1 + 6 * 4 * 20,
    "ji2025-synthetic": 1 + 1 + 3 * 5 * 20,
    "williams2024-sizes": 1 + 10 * 10,
    "wanda2024": 3 * (1 + 3 + 2 * 3),
}
"""Cells of some packs, counted by hand: dense, magnitude, and the draws."""


@pytest.mark.parametrize("grid", sorted(GRIDS.glob("*.yaml")), ids=lambda p: p.stem)
def test_a_pack_is_planned_offline(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))
    assert launch.main([str(grid), "--dry-run", "--out", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(f"{grid.stem}: ")
    if grid.stem in CELLS:
        assert f"{grid.stem}: {CELLS[grid.stem]:,} cells" in said
    for part in ("GPU-hours", "basis:", "disk:", "GPU memory:"):
        assert part in said, part


def test_what_cannot_fit_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = str(GRIDS / "wanda2024.yaml")
    assert launch.main([grid, "--dry-run", "--out", str(tmp_path), "--set", "dtype=float32"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "does not fit one GPU: 10 cells" in said
    assert "Llama-2-70b-hf" in said.split("does not fit one GPU")[1]
    small = ["--set", "resources.mem_gb=8", "--set", "resources.timeout_min=1"]
    assert launch.main([grid, "--dry-run", "--out", str(tmp_path), *small]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "resources.mem_gb is 8; raise it" in said
    assert "resources.timeout_min is 1; raise it" in said
