"""The first process of a container: signals, orphans, exit codes, and the lifeline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(*program: str, lifeline: bool = False) -> subprocess.Popen[bytes]:
    environment = os.environ | ({"CALGRID_LIFELINE": "stdin"} if lifeline else {})
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.pid1", *program],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_exit_codes_pass() -> None:
    assert start("sh", "-c", "exit 3").wait(10) == 3
    assert start("sh", "-c", "kill -9 $$").wait(10) == 137
    assert start("/no/such/program").wait(10) == 127
    assert start().wait(10) == 127


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_signals_reach_the_program(number: signal.Signals) -> None:
    script = f"trap 'echo heard; exit 7' {number.value}; echo ready; while :; do sleep 0.05; done"
    process = start("sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.wait(10) == 7
    assert process.stdout.read() == b"heard\n"


def test_the_end_of_the_lifeline_ends_the_program() -> None:
    process = start("sh", "-c", "echo ready; exec sleep 60", lifeline=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert process.stdin is not None
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(10) == 128 + signal.SIGTERM
    assert process.stderr is not None
    assert b"the launcher is gone" in process.stderr.read()


def test_without_a_lifeline_the_program_has_the_input() -> None:
    process = start("cat")
    assert process.communicate(b"text", timeout=10)[0] == b"text"


ORPHANED = """\
(sleep 0.1 &)
sleep 0.5
cat /proc/[0-9]*/stat 2>/dev/null | awk -v parent=$PPID '$4 == parent && $3 == "Z"' | wc -l
"""

ADOPTING = """\
import ctypes, sys
from cluster.pid1 import main

ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans come to us, as to process 1
sys.exit(main(sys.argv[1:]))
"""


def test_orphans_are_waited_for() -> None:
    """A zombie would stay for as long as the container does."""
    command = [sys.executable, "-c", ADOPTING, "sh", "-c", ORPHANED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=20, check=True)
    assert done.stdout.strip() == b"0"


def test_a_signal_at_the_very_start_is_not_lost() -> None:
    process = start("sh", "-c", "sleep 30")
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)
