"""The local backend: so many processes at a time, each with its log, all of them stopped."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from cluster import local
from cluster.local import Ended, Job, LocalBackend


def job(folder: Path, code: str, name: str = "a") -> Job:
    return Job(name, [sys.executable, "-S", "-c", code], folder / "logs" / f"{name}.log")


def wait(backend: LocalBackend) -> list[Ended]:
    ended: list[Ended] = []
    deadline = time.monotonic() + 20
    while backend.busy and time.monotonic() < deadline:
        ended += backend.poll()
        time.sleep(0.01)
    return ended


def test_output_goes_to_the_log_and_the_code_comes_back(tmp_path: Path) -> None:
    backend = LocalBackend(1)
    code = "import sys; print('out'); sys.exit('err')"
    assert backend.start(job(tmp_path, code))
    assert [e.code for e in wait(backend)] == [1]
    assert (tmp_path / "logs" / "a.log").read_text().split() == ["out", "err"]


def test_a_signal_is_a_negative_code(tmp_path: Path) -> None:
    backend = LocalBackend(1)
    backend.start(job(tmp_path, "import os; os.kill(os.getpid(), 9)"))
    assert [e.code for e in wait(backend)] == [-9]


def test_no_more_than_its_number_run_at_once(tmp_path: Path) -> None:
    backend = LocalBackend(2)
    jobs = [job(tmp_path, "import time; time.sleep(0.3)", str(i)) for i in range(3)]
    assert [backend.start(j) for j in jobs] == [True, True, False]
    assert {e.job.name for e in wait(backend)} == {"0", "1"}
    assert backend.start(jobs[2])
    wait(backend)


def test_a_job_gets_its_variables_and_its_share_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "cores", lambda: 6)
    backend = LocalBackend(2)
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['MINE'])"
    started = job(tmp_path, code)
    backend.start(Job("a", started.command, started.log, {"MINE": "yes"}))
    wait(backend)
    assert started.log.read_text() == "3 yes\n"


def test_jobs_take_turns_on_the_gpus_that_are_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "gpu_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    backend = LocalBackend(2)
    jobs = [job(tmp_path, "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])", n) for n in "ab"]
    assert all(backend.start(j) for j in jobs)
    wait(backend)
    assert [j.log.read_text().strip() for j in jobs] == ["5", "7"]


def test_stopping_interrupts_and_then_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "STOP_SECONDS", 0.5)
    backend = LocalBackend(2)
    sleep = "print(1, flush=True)\nimport time\ntry: time.sleep(60)\n"
    deaf = "import signal; signal.signal(2, signal.SIG_IGN)\n" + sleep + "finally: pass"
    gentle = sleep + "except KeyboardInterrupt: print('kept')"
    jobs = [job(tmp_path, deaf, "deaf"), job(tmp_path, gentle, "gentle")]
    for each in jobs:
        backend.start(each)
    while not all(j.log.read_text() for j in jobs):
        time.sleep(0.01)
    started = time.monotonic()
    backend.stop()
    assert time.monotonic() - started < 5
    assert not backend.busy
    assert "kept" in jobs[1].log.read_text()
