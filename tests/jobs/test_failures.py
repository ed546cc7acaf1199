"""Failures: what is worth another attempt, what is charged to a cell, when a run is held."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.backend import Ended, Job
from jobs import cell, claims, status
from jobs.cell import alike, describe_failure
from jobs.drive import Driver, State
from jobs.failures import (
    IN_A_ROW,
    death,
    gave_up,
    keeps_failing,
    memory_gb,
    old_failures,
    record_failure,
    worth_another,
)
from jobs.files import write_json
from jobs.heartbeat import Heartbeat
from jobs.run import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "x")


def failure(kind: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "stage": "prune", "cause": kind, "signature": kind, "log": None, **more}


def attempts(run: RunFolder, key: str, *failures: dict[str, Any]) -> None:
    for each in failures:
        record_failure(run, key, each)


LATE = failure("timeout", done=10, total=32)
ATTEMPTS: list[tuple[list[dict[str, Any]], bool]] = [
    ([failure("error")], False),
    ([failure("killed")], False),
    ([failure("cancelled")], False),
    ([failure("memory")], True),
    ([failure("memory"), failure("memory")], False),
    ([failure("error"), failure("memory")], True),
    ([failure("lost")], True),
    ([failure("lost")] * 3, False),
    ([LATE], True),
    ([LATE, LATE | {"done": 11}], False),  # as far as before, give or take
    ([LATE, LATE | {"done": 20}], True),
    ([LATE, LATE | {"stage": "arc_easy", "done": 0}], True),
    ([LATE, LATE | {"stage": "arc_easy", "done": 0}] + [LATE | {"stage": "arc_easy"}] * 2, False),
]


@pytest.mark.parametrize(("failures", "again"), ATTEMPTS)
def test_what_is_worth_another_attempt(
    run: RunFolder, failures: list[dict[str, Any]], again: bool
) -> None:
    attempts(run, "a", *failures)
    assert worth_another(run, "a") is again


@pytest.mark.parametrize("kind", ["killed", "cancelled", "error", "lost"])
def test_what_failed_since_the_launch_is_not_tried_by_the_job_that_settles(
    run: RunFolder, kind: str
) -> None:
    write_json(run.launch, {})
    assert not gave_up(run, "a")
    attempts(run, "a", failure(kind))
    assert gave_up(run, "a") is (kind != "lost")
    later = time.time() + 60
    os.utime(run.launch, (later, later))  # a person launched it again: its failure is an old one
    assert not gave_up(run, "a")


@pytest.mark.parametrize(
    ("failures", "keeps"),
    [
        ([failure("error")], False),
        ([failure("error")] * 2, True),
        ([failure("error"), failure("error", signature="other")], False),
        ([failure("memory")] * 2, True),
        ([failure("lost")] * 3, False),
        ([failure("killed")] * 3, False),
        ([failure("disk")] * 3, False),
        ([failure("error"), failure("lost"), failure("error")], True),
    ],
)
def test_what_keeps_failing_is_not_run_unasked(
    run: RunFolder, failures: list[dict[str, Any]], keeps: bool
) -> None:
    attempts(run, "a", *failures)
    assert keeps_failing(run, "a") is keeps


def test_what_was_not_tried_again_is_said(run: RunFolder) -> None:
    attempts(run, "a", *[failure("error")] * 2)
    attempts(run, "b", failure("error"))
    write_json(run.launch, {})
    later = time.time() + 60
    os.utime(run.launch, (later, later))
    assert old_failures(run, ["b"]) == ""
    assert old_failures(run, ["a", "b"]).startswith("1 of these failed twice alike")
    assert "--retry-failed" in old_failures(run, ["a"])
    os.utime(run.launch, (0, 0))  # they failed in the latest launch: that is no old failure
    assert old_failures(run, ["a", "b"]) == ""


DISKS = [
    (OSError(errno.ENOSPC, "No space left on device", "/x"), "disk"),
    (RuntimeError("I/O error: No space left on device (os error 28)"), "disk"),
    (OSError(errno.ENOENT, "No such file or directory", "/x"), "error"),
    (ValueError("no"), "error"),
]


@pytest.mark.parametrize(("error", "kind"), DISKS, ids=str)
def test_a_disk_that_is_full_is_not_the_cells_own_failure(
    run: RunFolder, error: Exception, kind: str
) -> None:
    assert describe_failure(error, Heartbeat(run.heartbeat("a"), "a"))["kind"] == kind


def test_a_memory_kill_asks_for_more_next_time(run: RunFolder) -> None:
    assert memory_gb(run, "a", 64) == 64
    attempts(run, "a", failure("memory"))
    assert memory_gb(run, "a", 64) == 128
    assert memory_gb(run, "b", 64) == 64


def fail_in_order(run: RunFolder, signatures: str) -> None:
    """Cells that fail one after another, each with the signature of a letter; `+` is a success."""
    now = time.time() - 1000
    for i, signature in enumerate(signatures):
        if signature == "+":
            path = run.record(f"cell{i}")
            write_json(path, {})
        else:
            path = run.write_failure(f"cell{i}", failure("error", signature=signature))
        os.utime(path, (now + i, now + i))
    record_failure(run, "last", failure("error", signature=signatures[-1]))


@pytest.mark.parametrize(
    ("signatures", "held"),
    [
        ("aaaa", True),
        ("aaa", False),
        ("aaabaaa", False),
        ("bbbaaaa", True),
        ("aa+aaa", False),
        ("a+aaaa", True),
    ],
)
def test_five_alike_in_a_row_hold_the_run(run: RunFolder, signatures: str, held: bool) -> None:
    fail_in_order(run, signatures)
    stop = run.read_stop()
    assert (stop is not None) == held
    if stop is not None:
        assert stop["reason"] == "held"
        assert len(stop["cells"]) == IN_A_ROW


def test_what_failed_before_this_launch_does_not_hold_it(run: RunFolder) -> None:
    run.path.mkdir(parents=True)
    run.launch.write_text("{}")  # now; the failures are older
    fail_in_order(run, "aaaaaa")
    assert run.read_stop() is None


def test_cancelled_and_lost_work_holds_nothing(run: RunFolder) -> None:
    for i in range(9):
        record_failure(run, f"cell{i}", failure("lost"))
        record_failure(run, f"cell{i}", failure("cancelled"))
    assert run.read_stop() is None


def test_a_death_is_told_with_the_stage_it_came_in(run: RunFolder) -> None:
    log = run.log("a")
    log.parent.mkdir(parents=True)
    log.write_text("first\nImportError: no module\n")
    beat = {"stage": "prune", "done": 3, "total": 8}
    for ended, kind, said in (
        (Ended(Job("a", (), log), 3), "error", "exit code 3: ImportError: no module"),
        (Ended(Job("a", (), log), -11), "killed", "signal 11"),
        (Ended(Job("a", (), log), -9, "memory", "for memory"), "memory", "for memory"),
        (Ended(Job("a", (), log), None, "lost", "with its node"), "lost", "with its node"),
    ):
        write_json(run.heartbeat("a"), beat)
        record = death(run, "a", ended)
        assert record["kind"] == kind
        assert said in record["cause"]
        assert (record["stage"], record["done"], record["log"]) == ("prune", 3, "logs/a.log")


class Recorder:
    """A backend that notes what it is given; `ended` is what it tells of."""

    interval, stays, note, slots = 0.0, False, "", 2

    def __init__(self) -> None:
        self.given: list[Job] = []
        self.ended: list[Ended] = []

    def submit(self, jobs: list[Job]) -> list[Job]:
        self.given += jobs
        return []

    def live(self) -> list[Job]:
        return list(self.given)

    def poll(self) -> list[Ended]:
        told, self.ended = self.ended, []
        for each in told:
            self.given.remove(each.job)
        return told

    def resume(self, anew: bool) -> None: ...

    def at_last(self, job: Job) -> None: ...


@pytest.fixture
def driver(finished_run: Path, run: RunFolder) -> Callable[[int], tuple[Driver, Recorder]]:
    """A driver of the six cells of the finished run, of which none is done here."""

    def make(per_job: int) -> tuple[Driver, Recorder]:
        plan = RunFolder(finished_run).read_plan()
        resources = plan.resources.model_copy(update={"cells_per_job": per_job})
        plan = plan.model_copy(update={"resources": resources})
        run.write_plan(plan)
        cells = {key: plan.cell(key) for key in plan.cells}
        backend = Recorder()
        state = State(queued=list(cells))
        made = Driver(run, plan, cells, state, backend)  # type: ignore[arg-type]
        made.start()
        return made, backend

    return make


def test_six_cells_on_two_workers_are_two_processes(driver: Callable[..., Any]) -> None:
    _, backend = driver(9)
    assert [len(job.command) - 3 for job in backend.given] == [3, 3]


def test_the_cell_that_a_dead_job_claimed_is_charged_and_no_other(
    driver: Callable[..., Any], run: RunFolder
) -> None:
    made, backend = driver(9)
    job = backend.given[0]
    first, second, third = job.command[3:]
    claim = {"host": "elsewhere", "pid": 1, "nonce": "x"}
    run.claims.mkdir(parents=True)
    run.claim(first).write_text(json.dumps(claim | {"job": "another launch's"}))
    run.claim(second).write_text(json.dumps(claim | {"job": job.env["CALGRID_JOB"]}))
    backend.ended = [Ended(job, -9)]
    assert made.step()
    assert [path.name for path in (run.path / "failures").iterdir()] == [f"{second}.1.json"]
    assert made.state.failed == {second}
    assert set(made.elsewhere) == {first}  # left to who runs it
    assert [list(j.command[3:]) for j in backend.given[1:]] == [[third]]  # the rest goes on
    assert not claims.is_held(run.claim(second))


def test_lost_work_runs_again_at_once(driver: Callable[..., Any], run: RunFolder) -> None:
    made, backend = driver(1)
    job = backend.given[0]
    write_json(run.heartbeat(job.command[3]), {"stage": "prune"})
    backend.ended = [Ended(job, None, "lost", "with its node")]
    made.step()
    assert made.state.failed == set()
    assert [j.command[3:] for j in backend.given].count(job.command[3:]) == 1
    assert run.failures(job.command[3])[0]["kind"] == "lost"


def test_what_slurm_could_not_start_waits_before_it_is_tried_again(
    driver: Callable[..., Any], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, backend = driver(1)
    job = backend.given[0]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for losses in (1, 2):
        backend.ended = [Ended(j, None, "lost", "no") for j in backend.given if j.name == job.name]
        backend.given[:] = [each.job for each in backend.ended]  # nothing else holds the run up
        for passed, tried in ((0, 0), (29.0 * losses, 0), (1.0 * losses, 1)):
            now += passed
            assert made.step()
            assert [j.name for j in backend.given].count(job.name) == tried
    backend.ended = [Ended(j, None, "lost", "no") for j in backend.given]
    assert not made.step()
    assert made.state.failed == {job.command[3]}


def test_a_cell_that_never_comes_to_an_end_is_a_failure(driver: Callable[..., Any]) -> None:
    made, backend = driver(1)
    key = backend.given[0].command[3]
    for _ in range(9):
        backend.ended = [Ended(job, 0) for job in backend.given if job.command[3] == key]
        made.step()
    assert made.state.failed == {key}


def test_a_stopped_run_starts_nothing(driver: Callable[..., Any], run: RunFolder) -> None:
    made, backend = driver(1)
    backend.stop = backend.drop = backend.given.clear
    write_json(run.stop, {"reason": "cancelled", "cause": "by a test"})
    assert not made.step()
    assert len(made.state.queued) == 6


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("OSError: [Errno 28] No space left on device: '/runs/a/b'", "", True),
        (
            "OutOfMemoryError: tried to allocate 2.50 GiB",
            "OutOfMemoryError: tried to allocate 8 GiB",
            True,
        ),
        ("RuntimeError: /data/a-1.jsonl changed", "RuntimeError: texts/b.jsonl changed", True),
        ("ValueError: block 3, linear q_proj: NaN", "ValueError: experts cannot be pruned", False),
    ],
)
def test_causes_are_alike_but_for_paths_names_and_numbers(one: str, other: str, same: bool) -> None:
    assert (alike(one) == alike(other or one.replace("/a/b", "/c"))) is same


def test_a_damaged_record_of_a_failure_is_of_unknown_cause(run: RunFolder) -> None:
    attempts(run, "a", failure("error"))
    path = run.failure("a", 1)
    path.write_text(path.read_text()[:-10])
    (found,) = run.failures("a")
    assert str(path) in found["cause"]
    assert not keeps_failing(run, "a")
    attempts(run, "a", failure("error"))
    assert len(run.failures("a")) == 2


def test_a_damaged_plan_or_stop_is_said_to_be_so(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    run.path.mkdir(parents=True)
    (run.path / "plan.json").write_text("{")
    for command in (status.main, lambda a: cell.main([*a, "x"])):
        with pytest.raises(SystemExit) as end:
            command([str(run.path)])
        assert end.value.code == 2
    assert "launching the grid again writes it" in capsys.readouterr().err
    for text in ("", "[]", "5", '"held"', "{}", '{"reason": 1, "cause": "x"}'):
        run.stop.write_text(text)
        stop = run.read_stop()
        assert stop is not None
        assert stop["reason"] == "held"
        assert "stop.json is damaged" in stop["cause"]
