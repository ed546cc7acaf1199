"""Jobs on a real Slurm: every way to end is told apart, and nothing that goes on is taken for over.

The jobs are small scripts; what cells do on Slurm is in test_slurm_runs.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from submitit.slurm.slurm import SlurmJob

from cluster import slurm, task
from cluster.backend import Ended, Job
from cluster.profile import Profile
from cluster.slurm import SlurmBackend
from cluster.yamlfile import InputError
from tests.real.slurm_engine import Engine

GENTLE = """
import signal, sys, time, pathlib
def stop(*_): sys.exit(130)
for n in (signal.SIGTERM, signal.SIGUSR2): signal.signal(n, stop)
starts = pathlib.Path({starts!r})
starts.open("a").write("x")
if len(starts.read_text()) < {times}: time.sleep(600)
"""
"""Stops when it is asked to, and comes to an end when it is started often enough."""


def make(folder: Path, name: str, code: str, minutes: int = 10, **more: object) -> Job:
    log = folder / "logs" / f"{name}.log"
    job = Job(name, ("-c", code), log, mem_gb=1, timeout_min=minutes)
    return replace(job, **more)  # type: ignore[arg-type]


def gentle(folder: Path, name: str, minutes: int = 10, times: int = 2) -> Job:
    code = GENTLE.format(starts=str(folder / f"{name}.starts"), times=times)
    return make(folder, name, code, minutes)


def open_slurm(folder: Path, **keys: object) -> SlurmBackend:
    return SlurmBackend(Profile(backend="slurm", **keys), folder)  # type: ignore[arg-type]


def finish(
    backend: SlurmBackend,
    jobs: Sequence[Job] = (),
    meanwhile: Callable[[], object] = lambda: None,
    seconds: float = 240,
) -> dict[str, Ended]:
    """Submit jobs, wait until all are over; calls `meanwhile` about once a second."""
    ended: dict[str, Ended] = {}
    left = backend.submit(jobs) if jobs else []
    deadline = time.monotonic() + seconds
    while left or backend.live():
        for one in backend.poll():
            assert one.job.name not in ended, "told of twice"
            ended[one.job.name] = one
        left = backend.submit(left) if left else []
        meanwhile()
        assert time.monotonic() < deadline, (ended.keys(), backend.live(), backend.note)
        time.sleep(0.3)
    return ended


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def started(folder: Path, name: str, times: int = 1) -> Callable[[], bool]:
    path = folder / f"{name}.starts"
    return lambda: path.is_file() and len(path.read_text()) >= times


def test_every_ending_is_told_apart(engine: Engine, tmp_path: Path) -> None:
    codes = {
        "fine": "print('fine')",
        "three": "raise SystemExit(3)",
        "killed": "import os; os.kill(os.getpid(), 9)",
        "crash": "import os; os.kill(os.getpid(), 11)",
        "memory": "import time; x = b'x' * 1_400_000_000; time.sleep(60)",
    }
    backend = open_slurm(tmp_path, exclude="n3")  # where the kernel would be faster
    ended = finish(backend, [make(tmp_path, n, c) for n, c in codes.items()])
    assert {n: e.code for n, e in ended.items()} == {
        "fine": 0,
        "three": 3,
        "killed": -9,
        "crash": -11,
        "memory": -9,
    }
    assert [n for n, e in ended.items() if e.kind] == ["memory"]
    assert ended["memory"].kind == "memory"
    assert "1 GB" in str(ended["memory"].cause)
    assert "fine" in (tmp_path / "logs" / "fine.log").read_text()
    assert "exceeded memory limit" in (tmp_path / "logs" / "memory.log").read_text()
    asked = SlurmJob.watcher.num_calls  # by submitit: of every job that it ever submitted
    assert asked == 0


def test_one_pending_element_is_cancelled_alone(engine: Engine, tmp_path: Path) -> None:
    backend = open_slurm(tmp_path, concurrency=1)
    jobs = [make(tmp_path, n, "import time; time.sleep(3)") for n in "abc"]
    assert backend.submit(jobs) == []
    engine.run("scancel", backend.arrays[0].element(2))  # Slurm keeps no record of it
    ended = finish(backend)
    assert [ended[n].kind for n in "abc"] == [None, None, "cancelled"]


def test_running_jobs_are_cancelled(engine: Engine, tmp_path: Path) -> None:
    backend = open_slurm(tmp_path)
    backend.submit([gentle(tmp_path, "a", times=9), gentle(tmp_path, "b", times=1)])
    until(started(tmp_path, "a"))
    engine.run("scancel", backend.arrays[0].element(0))
    ended = finish(backend)
    assert ended["a"].kind == "cancelled"
    assert "by user 0" in str(ended["a"].cause)
    assert ended["b"].code == 0
    assert (tmp_path / "a.starts").read_text() == "x"


def test_what_is_preempted_goes_on(engine: Engine, tmp_path: Path) -> None:
    backend = open_slurm(tmp_path, gpu_type="fake")
    names = ("x", "y", "z")  # together they take every GPU
    slow = {n: gentle(tmp_path, n) for n in names}
    codes = {n: job.command[1].replace("600", "14") for n, job in slow.items()}
    backend.submit([replace(slow[n], command=("-c", codes[n]), gpus=4) for n in names])
    until(lambda: all(started(tmp_path, n)() for n in names))
    engine.run("srun", "-p", "high", "-G", "4", "--mem=50", "-t", "1", "true")
    assert {n: e.code for n, e in finish(backend).items()} == dict.fromkeys(names, 0)
    assert sorted((tmp_path / f"{n}.starts").read_text() for n in names) == ["x", "x", "xx"]


def test_what_is_told_that_time_is_up_goes_on_and_what_does_not_listen_is_over(
    engine: Engine, tmp_path: Path
) -> None:
    backend = open_slurm(tmp_path)
    deaf = (
        "import signal, time; signal.signal(12, 1); signal.signal(15, 1); "
        "print('deaf', flush=True); time.sleep(600)"
    )
    backend.submit([gentle(tmp_path, "a", minutes=1), make(tmp_path, "deaf", deaf, minutes=1)])
    until(started(tmp_path, "a"))
    until(lambda: (tmp_path / "logs" / "deaf.log").is_file())
    engine.run("scancel", "--signal=USR2", backend.arrays[0].id)  # as Slurm does near the end
    ended = finish(backend)
    assert ended["a"].code == 0
    assert (tmp_path / "a.starts").read_text() == "xx"
    assert ended["deaf"].kind == "timeout"
    assert not hasattr(task.run, "checkpoint")  # submitit looks for that: it has no part


def test_a_requeue_from_outside_runs_it_again_and_tells_once(
    engine: Engine, tmp_path: Path
) -> None:
    backend = open_slurm(tmp_path)
    backend.submit([gentle(tmp_path, "a"), make(tmp_path, "b", "print(1)")])
    until(started(tmp_path, "a"))
    stale = backend.arrays[0].folder / f"{backend.arrays[0].element(0)}_0_result.pkl.save_tmp"
    stale.write_text("half")  # as left by a start that was killed while it wrote its result
    engine.run("scontrol", "requeue", backend.arrays[0].element(0))
    assert {n: e.code for n, e in finish(backend).items()} == {"a": 0, "b": 0}
    assert (tmp_path / "a.starts").read_text() == "xx"


def test_a_lost_node_loses_nothing(engine: Engine, tmp_path: Path) -> None:
    backend = open_slurm(tmp_path, sbatch={"nodelist": "n2"})
    backend.submit([gentle(tmp_path, "a")])
    until(started(tmp_path, "a"))
    engine.lose_node("n2")
    restarted: list[int] = []

    def bring_back() -> None:
        if not restarted and "down" in engine.run("sinfo", "-h", "-n", "n2", "-o", "%t"):
            engine.start_node("n2")
            restarted.append(1)

    assert finish(backend, meanwhile=bring_back)["a"].code == 0
    assert (tmp_path / "a.starts").read_text() == "xx"


def test_held_and_suspended_jobs_are_not_over(engine: Engine, tmp_path: Path) -> None:
    backend = open_slurm(tmp_path, sbatch={"hold": True})
    other = open_slurm(tmp_path / "other")
    backend.submit([make(tmp_path, "held", "print(1)")])
    other.submit([gentle(tmp_path, "b", times=9)])
    until(started(tmp_path, "b"))
    engine.run("scontrol", "suspend", other.arrays[0].id)
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        assert [*backend.poll(), *other.poll()] == []
        time.sleep(0.5)
    assert "scontrol release" in backend.note
    assert "scontrol resume" in other.note
    engine.run("scontrol", "release", backend.arrays[0].id)
    engine.run("scontrol", "resume", other.arrays[0].id)
    assert finish(backend)["held"].code == 0
    other.stop()
    assert finish(other) == {}  # it was stopped from here: no news


def test_without_its_controller_jobs_run_on_and_new_ones_wait(
    engine: Engine, tmp_path: Path
) -> None:
    backend = open_slurm(tmp_path)
    backend.submit([make(tmp_path, "a", "import time; time.sleep(3)")])
    until(lambda: (tmp_path / "logs" / "a.log").is_file())
    engine.stop_controller()
    late = make(tmp_path, "late", "print(1)")
    assert backend.submit([late]) == [late]
    assert "does not answer" in backend.note
    engine.start_controller()
    ended = finish(backend, [late])
    assert {n: e.code for n, e in ended.items()} == {"a": 0, "late": 0}


def test_a_launch_with_nothing_queued_gives_up_on_a_controller_that_stays_away(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.stop_controller()
    back = threading.Timer(5, engine.start_controller)
    try:
        monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.0)
        with pytest.raises(InputError, match=r"does not answer.*launch again.*--cluster local"):
            open_slurm(tmp_path).prepare(print)
        monkeypatch.undo()
    finally:
        back.start()
    open_slurm(tmp_path).prepare(print)  # it is back before the patience is at an end
    back.join()


def test_accounting_is_killed_while_jobs_run_and_endings_are_known_all_the_same(
    engine: Engine, tmp_path: Path
) -> None:
    backend = open_slurm(tmp_path)
    codes = {"fine": "print(1)", "killed": "import os; os.kill(os.getppid(), 9)"}
    slow = {n: f"import time; print(0, flush=True); time.sleep(3); {c}" for n, c in codes.items()}
    backend.submit([make(tmp_path, n, c) for n, c in slow.items()])
    until(lambda: all((tmp_path / "logs" / f"{n}.log").is_file() for n in slow))
    engine.stop_accounting()
    try:
        ended = finish(backend)
    finally:
        engine.start_accounting()
    assert ended["fine"].code == 0
    assert ended["killed"].kind == "killed"


def test_arrays_keep_to_the_limits(engine: Engine, tmp_path: Path) -> None:
    backend = open_slurm(tmp_path, qos="few", max_array_size=2)
    most = 0

    def count() -> None:
        nonlocal most
        most = max(most, len(engine.run("squeue", "-h", "-r", "-q", "few").splitlines()))

    jobs = [make(tmp_path, str(i), "print(1)") for i in range(6)]
    ended = finish(backend, jobs, count)
    assert {e.code for e in ended.values()} == {0}
    assert len(ended) == 6
    assert most <= 4


def test_an_array_whose_id_never_arrived_is_taken_over(engine: Engine, tmp_path: Path) -> None:
    first = open_slurm(tmp_path)
    first.submit([make(tmp_path, n, "print(1)") for n in "ab"])
    folder = first.arrays[0].folder
    (folder / "id").unlink()  # the launcher died before it wrote it down
    unsent = Job("c", ("-c", ""), tmp_path / "c.log")
    type(first.arrays[0]).create(tmp_path / "slurm", [unsent], first.profile)  # or before sbatch
    second = open_slurm(tmp_path)
    second.resume(anew=True)
    assert {job.name for job in second.live()} == {"a", "b"}
    assert set(finish(second)) == {"a", "b"}


def test_later_jobs_wait_for_those_they_need_however_these_end(
    engine: Engine, tmp_path: Path
) -> None:
    stamp = "import time; print(time.time())"
    jobs = [
        make(tmp_path, "first", f"{stamp}; time.sleep(2); print(time.time()); raise SystemExit(1)"),
        make(tmp_path, "second", stamp, after=["first"]),
    ]
    ended = finish(open_slurm(tmp_path), jobs)
    assert {n: e.code for n, e in ended.items()} == {"first": 1, "second": 0}
    first, second = (
        (tmp_path / "logs" / f"{n}.log").read_text().splitlines() for n in ("first", "second")
    )
    assert float(second[0]) >= float(first[1])


@pytest.mark.parametrize("keys", [{"partition": "nowhere"}, {"account": "nobody"}])
def test_what_slurm_refuses_is_wrong_input(
    engine: Engine, tmp_path: Path, keys: dict[str, str]
) -> None:
    from cluster.yamlfile import InputError

    backend = open_slurm(tmp_path, **keys)
    with pytest.raises(InputError, match="Slurm refuses the jobs"):
        backend.submit([make(tmp_path, "a", "print(1)")])
    assert backend.live() == []


def test_a_probe_finds_that_signals_arrive(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster import probe

    assert probe.main(["slurm", "--folder", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "yes  signals: SIGTERM arrived" in said
    assert "SIGTERM did not arrive" not in said
    assert not list(tmp_path.iterdir())

    def ended() -> list[str]:
        jobs = engine.run("sacct", "-X", "-n", "-D", "-P", "-o", "JobName,State").splitlines()
        probes = [job for job in jobs if job.startswith("calgrid-.probe")]
        return [job for job in probes if not job.endswith(("PENDING", "RUNNING"))]

    until(ended)  # accounting hears of a job some time after its end
    assert ended()[-1].endswith("COMPLETED")


def test_what_slurm_could_not_start_is_lost_and_no_failure_of_the_job(
    engine: Engine, tmp_path: Path
) -> None:
    backend = open_slurm(tmp_path, srun_args=["--gpus=99"])  # as where a node forgot its GPUs
    ended = finish(backend, [make(tmp_path, "a", "print(1)")])["a"]
    assert ended.kind == "lost"
    assert "Slurm could not start it: Unable to create step" in str(ended.cause)
