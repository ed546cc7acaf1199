"""Why a job is over: every ending that was seen on a real Slurm gets its true cause."""

from __future__ import annotations

import pytest

from cluster import squeue
from cluster.squeue import Account, AwayError, Entry, judge, stuck

ENDINGS = [
    (Account("COMPLETED", "0:0"), "", None, 0),
    (Account("FAILED", "3:0"), "", None, 3),
    (Account("FAILED", "11:0"), "", None, -11),
    (Account("FAILED", "0:9"), "", None, -9),
    # killed for memory: by polling, by a cgroup (the job itself says FAILED), by the state
    (Account("FAILED", "9:0"), "slurmstepd: error: Step 1.0 exceeded memory limit", "memory", -9),
    (Account("FAILED", "1:0", "0:125"), "", "memory", -9),
    (Account("FAILED", "1:0", steps=["OUT_OF_MEMORY"]), "", "memory", -9),
    (Account("OUT_OF_MEMORY", "0:125"), "", "memory", -9),
    (Account("FAILED", "1:0"), "Detected 1 oom-kill event(s) in step 7.0", "memory", -9),
    (Account("TIMEOUT", "0:0"), "", "timeout", None),
    (Account("DEADLINE", "0:0"), "", "timeout", None),
    (Account("NODE_FAIL", "0:0"), "", "lost", None),
    (Account("PREEMPTED", "0:0"), "", "lost", None),
    (Account("CANCELLED by 1000", "0:0"), "", "cancelled", None),
    (Account("CANCELLED", "0:0"), "", "cancelled", None),
]


@pytest.mark.parametrize(("account", "log", "kind", "code"), ENDINGS)
def test_an_ending_has_its_cause(
    account: Account, log: str, kind: str | None, code: int | None
) -> None:
    verdict = judge(account, log, 64)
    assert (verdict.kind, verdict.code) == (kind, code)
    assert (verdict.cause is None) == (kind is None)


def test_causes_name_what_to_change() -> None:
    assert "64 GB; raise resources.mem_gb" in str(judge(Account("OUT_OF_MEMORY", ""), "", 64).cause)
    assert "by user 1000" in str(judge(Account("CANCELLED by 1000", "0:0"), "", 1).cause)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (Entry("PENDING", "JobHeldUser"), "scontrol release"),
        (Entry("SUSPENDED", "None"), "scontrol resume"),
        (Entry("PENDING", "PartitionDown"), "cannot start"),
        (Entry("PENDING", "DependencyNeverSatisfied"), "cannot start"),
        (Entry("PENDING", "Priority"), ""),
        (Entry("RUNNING", "None"), ""),
    ],
)
def test_what_only_a_person_can_change_is_said(entry: Entry, said: str) -> None:
    assert said in stuck({"12_3": entry})
    assert bool(stuck({"12_3": entry})) == bool(said)


def test_suspended_and_held_jobs_are_not_over() -> None:
    for state in ("SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "PREEMPTED", "COMPLETING", "PENDING"):
        assert Entry(state).live
    for state in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"):
        assert not Entry(state).live


def test_steps_are_read_with_their_job(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["7_1|FAILED|1:0|0:125", "7_1.batch|FAILED|1:0|", "7_1.0|OUT_OF_MEMORY|0:125|"]
    lines += ["8|COMPLETED|0:0|0:0", "9_[1,3-4%2]|CANCELLED by 0|0:0|0:0"]
    text = "\n".join(lines)
    monkeypatch.setattr(squeue, "ask", lambda _: text)
    found = squeue.accounts(["7", "8"])
    assert found["7_1"] == Account("FAILED", "1:0", "0:125", ["FAILED", "OUT_OF_MEMORY"])
    assert found["8"].steps == []
    assert {job for job in found if job.startswith("9")} == {"9_1", "9_3", "9_4"}


def test_no_accounting_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: object) -> str:
        raise AwayError("Slurm accounting storage is disabled")

    monkeypatch.setattr(squeue, "ask", away)
    assert squeue.accounts(["7"]) == {}
    with pytest.raises(AwayError):  # its limit is asked for again, rather than guessed
        squeue.max_array_size()
    assert squeue.submit_limit(None, None) is None


@pytest.mark.parametrize(
    ("assoc", "qos", "asked", "limit"),
    [
        ("|||normal", "normal|||", None, None),
        ("500||normal", "normal|200|\nfew|4|", None, 200),
        ("500||normal", "normal|200|\nfew|4|", "few", 4),
        ("|50|", "normal||", None, 50),
    ],
)
def test_the_least_submit_limit_holds(
    monkeypatch: pytest.MonkeyPatch, assoc: str, qos: str, asked: str | None, limit: int | None
) -> None:
    monkeypatch.setattr(squeue, "ask", lambda c: assoc if "assoc" in c else qos)
    assert squeue.submit_limit(None, asked) == limit
