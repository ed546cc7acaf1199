"""Real engines, where this machine has them running; otherwise these tests are skipped, and say so.

`.ci/run` starts them. By hand: eval "$(python3 tests/real/slurm_engine.py up)"
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import slurm
from tests.real.slurm_engine import Engine


@pytest.fixture(scope="session")
def cluster() -> Engine:
    """The Slurm that `slurm_engine.py up` started."""
    root = os.environ.get("CALGRID_SLURM_ROOT")
    if root is None:
        pytest.skip('no Slurm: eval "$(python3 tests/real/slurm_engine.py up)" starts one, as root')
    return Engine(Path(root), int(os.environ.get("CALGRID_SLURM_PORT", "26817")))


@pytest.fixture
def engine(cluster: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The cluster, empty and whole again after each test; silence is short here."""
    monkeypatch.setattr(slurm, "QUIET_SECONDS", 2.0)
    monkeypatch.setattr(slurm, "MOST_QUIET_SECONDS", 4.0)
    monkeypatch.setattr(slurm, "ABSENT_SECONDS", 3.0)
    monkeypatch.setattr(slurm, "VANISHED_SECONDS", 8.0)
    monkeypatch.setattr(slurm, "RETRY_SECONDS", 2.0)
    yield cluster
    cluster.run("scancel", "--user=root", check=False)
    cluster.run("scancel", "--user=root", "--signal=KILL", "--full", check=False)
    cluster.wait("empty queue", lambda: not cluster.run("squeue", "-h"))
    cluster.run("scontrol", "update", "nodename=n[1-3]", "state=resume", check=False)
