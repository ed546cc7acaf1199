"""What Slurm says: its limits, the state of jobs, and why one is over."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from submitit.slurm.slurm import read_job_id

from cluster.backend import Kind

ANSWER_SECONDS = 60
"""Slurm itself gives up on a controller that is away after about 20 s."""

LIVE = {
    *("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "PREEMPTED", "SUSPENDED", "CONFIGURING"),
    *("SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED", "SPECIAL_EXIT", "REQUEUE_HOLD"),
    *("REQUEUE_FED", "RESV_DEL_HOLD"),
}
"""States of squeue of jobs that are not over; suspended and held ones among them."""

LOST = {"NODE_FAIL", "BOOT_FAIL", "REVOKED", "PREEMPTED"}

MEMORY_WORDS = re.compile(
    r"exceeded (step |job )?memory limit|oom[-_ ]?kill|out of memory|memory limit was reached",
    re.IGNORECASE,
)
"""What Slurm and containers print where a job was killed for memory and its state says FAILED."""

AWAY_WORDS = re.compile(
    r"contact slurm controller|timed out|connection refused|zero bytes|communication|"
    r"standby mode|temporarily unable|try again|socket",
    re.IGNORECASE,
)
"""What commands print when Slurm itself is away; the same command works later."""

FULL_WORDS = re.compile(r"MaxSubmitJob|job submit limit|Reached maximum job", re.IGNORECASE)
"""What sbatch prints when a user has as many jobs as allowed."""


STUCK = {
    *("BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS"),
    *("PartitionDown", "PartitionInactive", "PartitionNodeLimit", "PartitionTimeLimit"),
    *("ReqNodeNotAvail", "AccountNotAllowed", "QOSNotAllowed", "NodeDown"),
}
"""Reasons of the queue that do not go away by themselves."""


class AwayError(Exception):
    """Slurm does not answer for the moment."""


LAUNCH_FAILED = re.compile("launch.failed", re.IGNORECASE)
"""Why Slurm holds a job by itself: a node could not start it, another one may."""

NOT_STARTED = re.compile(
    r"^srun: error: (.*(create step|launch|confirm allocation|credential).*)$",
    re.IGNORECASE | re.MULTILINE,
)
"""What Slurm prints in a job's log where it could not start the work: a controller that has just
come back knows no GPUs of its nodes yet, for example."""

SIGNALS = {6, 9, 11, 15}
"""Exit codes that stand for signals: a job that ends by itself says so in its own file."""


@dataclass(frozen=True)
class Entry:
    """One line of the queue: a state, and the reason why a job waits."""

    state: str
    reason: str = ""
    comment: str = ""

    @property
    def live(self) -> bool:
        """Is the job not over?"""
        return self.state in LIVE


@dataclass
class Account:
    """What accounting says of a job: its state, exit code, and the states of its steps."""

    state: str
    exit: str
    derived: str = ""
    steps: list[str] = field(default_factory=list)


def ask(command: Sequence[str]) -> str:
    """What a command of Slurm prints.

    Raises:
        AwayError: it failed, as they do when a daemon is away.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise AwayError(str(error)) from error
    if done.returncode:
        raise AwayError(" ".join(done.stderr.split()) or f"{command[0]} failed")
    return done.stdout


def tell(*command: str) -> None:
    """Run a command of Slurm whose failure changes nothing here."""
    subprocess.run(command, capture_output=True, check=False, timeout=ANSWER_SECONDS)


def queue(name: str | None = None) -> dict[str, Entry]:
    """This user's jobs by id (array elements as 12_3): those queued, running or just over.

    Args:
        name: only jobs of this name.

    Raises:
        AwayError: Slurm does not answer.
    """
    only = [] if name is None else ["--name", name]
    fields = ["--format", "%i|%T|%r|%k"]
    who = ["--user", getpass.getuser()]
    text = ask(["squeue", "--noheader", "--array", "--states", "all", *who, *only, *fields])
    entries = {}
    for line in text.splitlines():
        job, state, reason, comment = line.split("|", 3)
        entries[job] = Entry(state, reason, comment)
    return entries


def accounts(ids: Iterable[str]) -> dict[str, Account]:
    """What accounting says of jobs and their steps, by id of the job; nothing where it is away."""
    fields = "JobID,State,ExitCode,DerivedExitCode"
    command = ["sacct", "--noheader", "--parsable2", "--format", fields, "--jobs", ",".join(ids)]
    try:
        text = ask(command)
    except AwayError:
        return {}
    found: dict[str, Account] = {}
    for line in text.splitlines():
        job, state, code, derived = line.split("|")[:4]
        job, _, step = job.partition(".")
        if step and job in found:
            found[job].steps.append(state)
        elif not step:
            found |= {element: Account(state, code, derived) for element in _elements(job)}
    return found


def _elements(job: str) -> list[str]:
    """The ids that a line of accounting is about: of waiting elements one line tells of many."""
    found = []
    for array, *indices in read_job_id(job):
        if not indices:
            return [array]
        found += [f"{array}_{i}" for i in range(int(indices[0]), int(indices[-1]) + 1)]
    return found


def stuck(entries: dict[str, Entry]) -> str:
    """What jobs wait for that only a person can give, in words; empty where nothing is amiss."""
    said = []
    for (state, reason), count in Counter((e.state, e.reason) for e in entries.values()).items():
        ids = [job for job, e in entries.items() if (e.state, e.reason) == (state, reason)]
        some = ",".join(ids[:3]) + (",..." if count > 3 else "")
        if state == "SUSPENDED":
            said.append(f"{count} suspended ({some}); scontrol resume lets them go on")
        elif state == "PENDING" and "held" in reason.lower():
            said.append(f"{count} held ({some}: {reason}); scontrol release lets them start")
        elif state == "PENDING" and reason in STUCK:
            said.append(f"{count} cannot start ({some}: {reason})")
    return "; ".join(said)


@dataclass(frozen=True)
class Verdict:
    """Why a job is over: as `cluster.backend.Ended` has it."""

    code: int | None
    kind: Kind | None = None
    cause: str | None = None


def judge(account: Account, log: str, mem_gb: int) -> Verdict:
    """Why a job is over, from what accounting says of it and what Slurm printed in its log."""
    state = account.state.split()[0] if account.state else ""
    code, _, number = account.exit.partition(":")
    killed = int(number or 0)
    memory = account.derived == "0:125" or any(s.startswith("OUT_OF_ME") for s in account.steps)
    if state == "OUT_OF_MEMORY" or memory or (state == "FAILED" and MEMORY_WORDS.search(log)):
        more = f"killed for memory: it asked for {mem_gb} GB; raise resources.mem_gb"
        return Verdict(-9, "memory", more)
    if state in ("TIMEOUT", "DEADLINE"):
        return Verdict(None, "timeout", "the time limit was reached; raise resources.timeout_min")
    if state in LOST:
        return Verdict(None, "lost", f"lost with its node or place: Slurm says {state}")
    if state == "CANCELLED":
        by = account.state.partition(" by ")[2]
        who = f" by user {by}" if by else ""
        return Verdict(None, "cancelled", f"cancelled{who} with scancel; launch again to run it")
    if not account.exit and state != "COMPLETED":
        return Verdict(None, "killed", f"Slurm says {state}, and no record says more")
    status = int(code or 0)
    if killed or status in SIGNALS:
        return Verdict(-(killed or status))
    return Verdict(status)


MAX_ARRAY_SIZE = 1001
"""Slurm's default of its setting MaxArraySize."""


def max_array_size() -> int:
    """The cluster's MaxArraySize.

    Raises:
        AwayError: Slurm does not answer.
    """
    text = ask(["scontrol", "show", "config"])
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else MAX_ARRAY_SIZE


def submit_limit(account: str | None, qos: str | None) -> int | None:
    """How many jobs this user may have queued and running at once; None where nothing limits it.

    Looks at the user's associations and at the QOS that applies.
    """
    user = ["user=" + getpass.getuser(), *([f"account={account}"] if account else [])]
    show = ["sacctmgr", "--noheader", "--parsable2", "show"]
    limits: list[int] = []
    wanted = {qos} if qos else set()
    try:
        text = ask([*show, "assoc", *user, "format=MaxSubmitJobs,GrpSubmitJobs,DefaultQOS"])
        for line in text.splitlines():
            *numbers, default = line.split("|")
            limits += [int(n) for n in numbers if n]
            wanted |= {default} if default and not qos else set()
        text = ask([*show, "qos", "format=Name,MaxSubmitJobsPerUser,MaxSubmitJobsPerAccount"])
    except AwayError:
        return None  # no accounting, or it is away: sbatch itself will say
    for line in text.splitlines():
        name, *numbers = line.split("|")
        if name in (wanted or {"normal"}):
            limits += [int(n) for n in numbers if n]
    return min(limits, default=None)


def largest_memory_gb(partition: str | None) -> int | None:
    """The memory of a partition's largest node; None where Slurm does not say."""
    where = [] if partition is None else ["--partition", partition]
    try:
        text = ask(["sinfo", "--noheader", "--format", "%m", *where])
    except AwayError:
        return None
    sizes = [int(n) for n in re.findall(r"\d+", text)]
    return max(sizes) // 1024 if sizes else None
