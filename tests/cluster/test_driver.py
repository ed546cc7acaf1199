"""The driver against torch's CUDA; compile caches by GPU and versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.caches import compile_caches
from cluster.driver import misfit


@pytest.mark.parametrize(
    ("built_for", "driver", "said"),
    [
        ("13.0", (13, 1), None),
        ("13.3", (13, 0), None),  # every minor version of a major one
        ("12.6", (13, 0), None),
        ("13.0", (12, 8), "torch was built for CUDA 13.0"),
        (None, (12, 8), "torch was built without CUDA"),
        (None, None, None),
        ("13.0", None, None),  # no GPU here: a notice of the launcher's, no misfit
    ],
)
def test_a_driver_that_is_too_old_is_named(
    built_for: str | None, driver: tuple[int, int] | None, said: str | None
) -> None:
    problem = misfit(built_for, lambda: driver)
    assert (problem is None) == (said is None)
    assert said is None or said in str(problem)


def test_caches_are_apart_by_gpu(tmp_path: Path) -> None:
    for i, model in enumerate(["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"]):
        card = tmp_path / f"driver{i}/gpus/0000:07:00.0"
        card.mkdir(parents=True)
        (card / "information").write_text(f"Model: \t\t {model}\nIRQ:   0\n")
    found = [compile_caches(tmp_path, tmp_path / f"driver{i}") for i in range(3)]
    assert len({c["TRITON_CACHE_DIR"] for c in found}) == 3
    assert "NVIDIA_H100_80GB_HBM3-python" in found[0]["TRITON_CACHE_DIR"]
    assert "torch" in found[2]["TORCHINDUCTOR_CACHE_DIR"]
