"""The local backend: so many processes at a time, each with its log, all of them stopped."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import local
from cluster.backend import Ended, Job
from cluster.local import LocalBackend
from cluster.profile import Profile


def backend_of(slots: int, folder: Path) -> LocalBackend:
    return LocalBackend(Profile(backend="local", concurrency=slots), folder)


def job(folder: Path, code: str, name: str = "a") -> Job:
    return Job(name, ["-S", "-c", code], folder / "logs" / f"{name}.log")


def wait(backend: LocalBackend) -> list[Ended]:
    ended: list[Ended] = []
    deadline = time.monotonic() + 20
    while backend.live() and time.monotonic() < deadline:
        ended += backend.poll()
        time.sleep(0.01)
    return ended


def test_output_goes_to_the_log_and_the_code_comes_back(tmp_path: Path) -> None:
    backend = backend_of(1, tmp_path)
    assert backend.submit([job(tmp_path, "import sys; print('out'); sys.exit('err')")]) == []
    assert [e.code for e in wait(backend)] == [1]
    assert (tmp_path / "logs" / "a.log").read_text().split() == ["out", "err"]


def test_a_signal_is_a_negative_code(tmp_path: Path) -> None:
    backend = backend_of(1, tmp_path)
    backend.submit([job(tmp_path, "import os; os.kill(os.getpid(), 9)")])
    assert [e.code for e in wait(backend)] == [-9]


LOGGED = (
    "import time, sys; print(time.time()); sys.stdout.flush(); time.sleep(0.3); print(time.time())"
)


def spans(folder: Path, names: str) -> list[tuple[float, ...]]:
    logs = [(folder / "logs" / f"{n}.log").read_text() for n in names]
    return sorted(tuple(map(float, log.split())) for log in logs)


def test_no_more_than_its_number_run_at_once(tmp_path: Path) -> None:
    backend = backend_of(2, tmp_path)
    backend.submit([job(tmp_path, LOGGED, name) for name in "abc"])
    assert {e.job.name for e in wait(backend)} == set("abc")
    first, second, third = spans(tmp_path, "abc")
    assert third[0] >= min(first[1], second[1])


def test_a_job_starts_after_those_it_needs_and_others_meanwhile(tmp_path: Path) -> None:
    backend = backend_of(2, tmp_path)
    slow = job(tmp_path, LOGGED + "; sys.exit(3)", "a")  # however it ends
    backend.submit(
        [slow, replace(job(tmp_path, LOGGED, "b"), after=["a"]), job(tmp_path, LOGGED, "c")]
    )
    wait(backend)
    a, b, c = (spans(tmp_path, name)[0] for name in "abc")
    assert b[0] >= a[1]
    assert c[0] < a[1]


def test_a_job_gets_its_variables_and_its_share_of_cores_and_no_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "cores", lambda: 6)
    for name in ("HF_TOKEN", "WANDB_API_KEY", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "secret")
    backend = backend_of(2, tmp_path)
    code = "import os; print(os.environ)"
    backend.submit([replace(job(tmp_path, code), env={"MINE": "yes"})])
    wait(backend)
    said = (tmp_path / "logs" / "a.log").read_text()
    assert "'OMP_NUM_THREADS': '3'" in said
    assert "'MINE': 'yes'" in said
    assert "secret" not in said


def test_jobs_take_turns_on_the_gpus_that_are_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "gpu_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    backend = backend_of(2, tmp_path)
    code = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.2)"
    backend.submit([job(tmp_path, code, n) for n in "ab"])
    wait(backend)
    assert [(tmp_path / "logs" / f"{n}.log").read_text().strip() for n in "ab"] == ["5", "7"]


def test_stopping_interrupts_and_then_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "STOP_SECONDS", 0.5)
    backend = backend_of(2, tmp_path)
    sleep = "print(1, flush=True)\nimport time\ntry: time.sleep(60)\n"
    deaf = "import signal; signal.signal(2, signal.SIG_IGN)\n" + sleep + "finally: pass"
    gentle = sleep + "except KeyboardInterrupt: print('kept')"
    jobs = [job(tmp_path, deaf, "deaf"), job(tmp_path, gentle, "gentle")]
    backend.submit([*jobs, job(tmp_path, "print('never')", "waiting")])
    while not all(j.log.exists() and j.log.read_text() for j in jobs):
        time.sleep(0.01)
    started = time.monotonic()
    backend.stop()
    assert time.monotonic() - started < 5
    assert not backend.live()
    assert "kept" in jobs[1].log.read_text()
    assert not (tmp_path / "logs" / "waiting.log").exists()


def test_a_preview_is_the_very_command_of_the_first_of_those_alike(tmp_path: Path) -> None:
    jobs = [replace(job(tmp_path, f"print({i})"), env={"A": "b c"}) for i in range(3)]
    larger = replace(jobs[0], mem_gb=64)
    first, more, last = backend_of(1, tmp_path).preview([*jobs, larger])
    assert first.endswith(f"'A=b c' {sys.executable} -S -c 'print(0)'")
    assert more == "# and 2 more alike"
    assert last == first
    assert list(tmp_path.iterdir()) == []


def test_a_job_is_told_that_its_time_is_nearly_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "signal_seconds", lambda minutes: 60 * minutes - 1)
    code = (
        "import os, signal, sys, time\n"
        "late = float(os.environ['CALGRID_LATE'])\n"
        "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(3 if time.time() >= late else 4))\n"
        "time.sleep(60)"
    )
    backend = backend_of(2, tmp_path)
    backend.submit([job(tmp_path, code), job(tmp_path, "import time; time.sleep(60)", "deaf")])
    ended = {e.job.name: e for e in wait(backend)}
    assert (ended["a"].code, ended["a"].kind) == (3, None)  # it says by itself why it stopped
    assert ended["deaf"].kind == "timeout"


def test_a_job_that_goes_on_beyond_its_time_is_killed(tmp_path: Path) -> None:
    backend = backend_of(1, tmp_path)
    backend.submit([replace(job(tmp_path, "import time; time.sleep(60)"), timeout_min=0)])
    (ended,) = wait(backend)
    assert (ended.code, ended.kind) == (-9, "timeout")
    assert "raise resources.timeout_min" in str(ended.cause)
