"""A real Slurm on one Debian machine, as root: three nodes, fake GPUs, accounting, preemption.

    eval "$(python3 tests/real/slurm_engine.py up)"     # installs what is missing, starts, exports
    python3 tests/real/slurm_engine.py down              # stops it and removes its folder

Everything lives in one folder (CALGRID_SLURM_ROOT, /var/tmp/calgrid-slurm): configuration, keys,
sockets, database, logs. Needs nothing but the standard library, so that it runs before the project
is installed. Each node is a slurmd of its own on this host; nodes claim more CPUs than there are.
Memory limits are Slurm's own, which looks every two seconds; on n3, where this machine has cgroups
of version 1, they are the kernel's, as at most sites.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server-core", "mariadb-client-core")
PROGRAMS = ("munged", "mariadbd", "mariadb", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacct")
DAEMONS = ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged")

SLURM_CONF = """\
ClusterName=calgrid
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also the time that a requeued job waits before it starts again; 5 is the least
AuthInfo=socket={root}/munge/socket,cred_expire=5
StateSaveLocation={root}/state
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmctldParameters=preempt_send_user_signal
# %n is the node: each has a daemon of its own
SlurmdPidFile={root}/run/slurmd-%n.pid
SlurmdSpoolDir={root}/spool/%n
SlurmdLogFile={root}/log/slurmd-%n.log
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin={task}
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
# with munge, this is the socket's path
AccountingStoragePass={root}/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,qos
AccountingStoreFlags=job_comment
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
{polling}
# quick reactions, so that tests need not wait
SlurmdTimeout=8
SlurmctldTimeout=30
KillWait=5
MinJobAge=300
BatchStartTimeout=20
MessageTimeout=20
InactiveLimit=0
MaxArraySize={max_array}
MaxJobCount=40000
# ids do not start from 1 again with every fresh cluster
FirstJobId={first_job}
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=5,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-3] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{node_ports}] CPUs=16 \
RealMemory=8000 Gres=gpu:fake:4 State=UNKNOWN
PartitionName=gpu Nodes=n[1-3] Default=YES MaxTime=INFINITE PriorityTier=1 \
PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=n[1-3] MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
LogFile={root}/log/slurmdbd.log
PidFile={root}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageLoc=accounting
StorageUser=slurm
StoragePass=slurm
"""

POLLING = "JobAcctGatherParams=OverMemoryKill"

CGROUP_CONF = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainRAMSpace={constrain}
ConstrainDevices=no
"""

CGROUP = Path("/sys/fs/cgroup/memory")


class Engine:
    """The daemons of one cluster, each found by its pid file."""

    nodes = ("n1", "n2", "n3")

    def __init__(self, root: Path, port: int = 26817, max_array: int = 1001) -> None:
        self.root = root
        self.port = port
        self.max_array = max_array
        self.environment = os.environ | {"SLURM_CONF": str(root / "etc" / "slurm.conf")}
        self.kernel_limits = os.access(CGROUP / "cgroup.procs", os.W_OK)

    # -- up and down

    def up(self) -> None:
        """Start a fresh cluster; what a former one left in the folder is stopped and removed."""
        self.down()
        self._write_files()
        self._start_munge()
        self._start_database()
        self.start_accounting()
        for what in (
            ("cluster", "calgrid"),
            ("account", "study", "Description=study", "Organization=study"),
            ("user", "root", "Account=study", "DefaultAccount=study"),
            ("qos", "few", "MaxSubmitJobsPerUser=4"),
        ):
            self.run("sacctmgr", "--immediate", "add", *what, check=False)
        modify = ("modify", "user", "root", "set", "qos+=few")
        self.run("sacctmgr", "--immediate", *modify, check=False)
        self.start_controller("-c")
        for node in self.nodes:
            self.start_node(node)
        self.wait("three idle nodes", self._all_idle)
        self.run("srun", "--ntasks=1", "--gpus=1", "--mem=50", "--time=1", "true")
        self.wait("accounting", lambda: bool(self.run("sacct", "-X", "-n", "-o", "JobID")))

    def down(self) -> None:
        """Stop every daemon of the folder and what still runs under them; remove the folder."""
        if not self.root.exists():
            return
        marker = self.root / ".calgrid-slurm"
        if not marker.exists():
            raise SystemExit(f"{self.root} was not made by this script; it is left alone")
        if self._pid("slurmctld") is not None:
            for command in (("scancel", "--user=root"), ("scancel", "--user=root", "-sKILL")):
                self.run(*command, check=False)
        for node in self.nodes:
            self.kill_node(node)
        for name in DAEMONS[1:]:
            self._stop(name)
        for folder, _, _ in os.walk(CGROUP / "slurm_n3", topdown=False):
            with contextlib.suppress(OSError):  # another cluster uses it
                Path(folder).rmdir()
        shutil.rmtree(self.root, ignore_errors=True)

    def _all_idle(self) -> bool:
        return self.run("sinfo", "-h", "-p", "gpu", "-t", "idle", "-o", "%D").strip() == "3"

    def _write_files(self) -> None:
        folders = ("etc", "etc-n3", "run", "log", "spool", "state", "dev", "sql", "munge", "key")
        for folder in folders:
            (self.root / folder).mkdir(parents=True)
        (self.root / ".calgrid-slurm").touch()
        (self.root / "key").chmod(0o700)
        values = {
            "root": self.root,
            "host": socket.gethostname().partition(".")[0],
            "port": self.port,
            "dbd_port": self.port + 2,
            "sql_port": self.port + 3,
            "node_ports": f"{self.port + 10}-{self.port + 12}",
            "max_array": self.max_array,
            "task": "task/cgroup" if self.kernel_limits else "task/none",
            "first_job": int(time.time()) % 6_000_000 * 10 + 1,
        }
        devices = "/dev/tty[4-7]"  # any character devices do where none may be made
        try:
            for i in range(4):
                device = self.root / "dev" / f"gpu{i}"
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # a copy of /dev/null
            devices = f"{self.root}/dev/gpu[0-3]"
        except PermissionError:
            pass
        self._write_conf("etc", values | {"polling": POLLING, "constrain": "no"}, devices)
        self._write_conf("etc-n3", values | {"polling": "", "constrain": "yes"}, devices)

    def _write_conf(self, folder: str, values: dict[str, object], devices: str) -> None:
        for name, text in (
            ("slurm.conf", SLURM_CONF),
            ("slurmdbd.conf", SLURMDBD_CONF),
            ("cgroup.conf", CGROUP_CONF),
            ("gres.conf", f"Name=gpu Type=fake File={devices}\n"),
        ):
            (self.root / folder / name).write_text(text.format(**values))
        (self.root / folder / "slurmdbd.conf").chmod(0o600)

    # -- daemons

    def _start_munge(self) -> None:
        key = self.root / "key" / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        sock = self.root / "munge" / "socket"
        self.run(
            "munged",
            f"--socket={sock}",
            f"--key-file={key}",
            f"--pid-file={self.root}/run/munged.pid",
            f"--seed-file={self.root}/key/seed",
            f"--log-file={self.root}/key/munged.log",
        )
        self.wait("munged", sock.exists)

    def _start_database(self) -> None:
        data, sock = self.root / "sql", self.root / "run" / "sql"
        plain = ("--no-defaults", f"--datadir={data}", "--user=root")
        how = ("--skip-test-db", "--auth-root-authentication-method=socket")
        self.run("mariadb-install-db", *plain, *how)
        with (self.root / "log" / "mariadbd.log").open("wb") as log:
            subprocess.Popen(
                [
                    *("mariadbd", *plain, f"--socket={sock}", f"--port={self.port + 3}"),
                    f"--pid-file={self.root}/run/mariadbd.pid",
                    *("--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin"),
                    *("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"),
                    "--innodb-flush-log-at-trx-commit=0",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        client = ("mariadb", "--no-defaults", f"--socket={sock}", "-e")
        self.wait("mariadbd", lambda: self._works(*client, "select 1"))
        self.run(
            *client,
            "CREATE DATABASE accounting; CREATE USER slurm@127.0.0.1 IDENTIFIED BY 'slurm'; "
            "GRANT ALL ON accounting.* TO slurm@127.0.0.1",
        )

    def start_accounting(self) -> None:
        """Start slurmdbd, and wait until it answers."""
        self.run("slurmdbd")
        self.wait("slurmdbd", lambda: self._works("sacctmgr", "-n", "show", "cluster"))

    def stop_accounting(self) -> None:
        """Take slurmdbd away, without a word."""
        self._stop("slurmdbd", signal.SIGKILL)

    def start_controller(self, *options: str) -> None:
        """Start slurmctld, and wait until it answers."""
        self.run("slurmctld", *options)
        self.wait("slurmctld", lambda: self._works("scontrol", "ping"))

    def stop_controller(self) -> None:
        """Take slurmctld away, without a word."""
        self._stop("slurmctld", signal.SIGKILL)

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        (self.root / "spool" / node).mkdir(exist_ok=True)
        own = node == "n3" and self.kernel_limits
        folder = self.root / ("etc-n3" if own else "etc")
        self.run("slurmd", "-N", node, "-f", str(folder / "slurm.conf"))

    def lose_node(self, node: str) -> None:
        """Kill a node, and tell the controller, which would take half a minute to see it."""
        self.kill_node(node)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def kill_node(self, node: str) -> None:
        """End a node's daemon and all that runs on it at once, without a word."""
        self._stop(f"slurmd-{node}", signal.SIGKILL)
        marks = (f"{self.root}/log/slurmd-{node}.log", f"{self.root}/spool/{node}")
        for pid in _processes("slurmstepd"):
            if any(str(path).startswith(marks) for path in _open_files(pid)):
                for victim in (pid, *_descendants(pid)):
                    _kill(victim, signal.SIGKILL)

    # -- helpers

    def run(self, *command: str, check: bool = True) -> str:
        """The output of a command of the cluster."""
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def _works(self, *command: str) -> bool:
        done = subprocess.run(command, env=self.environment, capture_output=True, check=False)
        return done.returncode == 0

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 40) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {what} within {seconds} s; see {self.root}/log")
            time.sleep(0.1)

    def _pid(self, name: str) -> int | None:
        """The process of a daemon, None where it is not running."""
        try:
            pid = int((self.root / "run" / f"{name}.pid").read_text())
            running = Path(f"/proc/{pid}/comm").read_text().strip() == name.partition("-")[0]
            zombie = ") Z " in Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if running and not zombie else None

    def _stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        pid = self._pid(name)
        if pid is None:
            return
        _kill(pid, number)
        deadline = time.monotonic() + 10
        while self._pid(name) is not None:
            if time.monotonic() > deadline:
                _kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _processes(name: str) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == name:
                yield int(path.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue


def _open_files(pid: int) -> Iterator[Path]:
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            yield link.readlink()
        yield Path(f"/proc/{pid}/cwd").readlink()
    except (FileNotFoundError, ProcessLookupError):
        return


def _descendants(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in map(int, children):
            yield child
            yield from _descendants(child)


def install() -> None:
    """Install the packages that are missing."""
    if all(map(shutil.which, PROGRAMS)):
        return
    if shutil.which("apt-get") is None:
        raise RuntimeError("Slurm is not installed, and this is no Debian that has it")
    quiet = {
        "stdout": subprocess.DEVNULL,
        "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    }
    apt = ("apt-get", "-q", "-o", "DPkg::Lock::Timeout=600")
    subprocess.run([*apt, "update"], check=True, **quiet)
    subprocess.run(
        [*apt, "install", "-y", "--no-install-recommends", *PACKAGES], check=True, **quiet
    )


def main(arguments: list[str]) -> int:
    """`up` or `down`."""
    root = Path(os.environ.get("CALGRID_SLURM_ROOT", "/var/tmp/calgrid-slurm"))
    if arguments not in (["up"], ["down"]):
        print("usage, as root: python3 tests/real/slurm_engine.py up|down", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("starting or stopping a Slurm needs root", file=sys.stderr)
        return 2
    port = int(os.environ.get("CALGRID_SLURM_PORT", "26817"))
    engine = Engine(root, port, int(os.environ.get("CALGRID_SLURM_MAX_ARRAY", "1001")))
    if arguments == ["down"]:
        engine.down()
        return 0
    try:
        install()
        engine.up()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(" ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr)
        return 1
    print(f"export SLURM_CONF={root}/etc/slurm.conf CALGRID_SLURM_ROOT={root}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
