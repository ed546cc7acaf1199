"""The first process of a container: `python -m cluster.pid1 PROGRAM ARGUMENTS...`.

Process 1 ignores every signal that it has no handler for, and inherits the orphans. This one
passes signals on to the program, waits for orphans, ends when the program does, and with its exit
code (128 + n where signal n killed it). Where `CALGRID_LIFELINE` is `stdin`, the end of standard
input means that whoever started the container is gone: the program is then asked to end, and
killed if it does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 20.0
"""Time that the program has to end by itself once the lifeline broke."""

FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGWINCH")

EXIT_NOT_FOUND, EXIT_KILLED = 127, 128

MEMORY_MESSAGE = "the container's memory limit was reached, and the system killed a process"


def main(program: list[str]) -> int:
    """Run `program` and return its exit code."""
    if not program:
        print("usage: python -m cluster.pid1 PROGRAM ARGUMENTS...", file=sys.stderr)
        return EXIT_NOT_FOUND
    lifeline = os.environ.pop("CALGRID_LIFELINE", None) == "stdin"
    Path(os.environ.get("HOME", "/tmp")).mkdir(parents=True, exist_ok=True)
    kills = sum(memory_kills())
    child: subprocess.Popen[bytes] | None = None
    pending: list[int] = []

    def forward(number: int, frame: object) -> None:
        if child is None:
            pending.append(number)
        else:
            _send(child, number)

    for name in FORWARDED:
        signal.signal(getattr(signal, name), forward)
    try:
        child = subprocess.Popen(program, stdin=subprocess.DEVNULL if lifeline else None)
    except OSError as error:
        print(f"cannot start {program[0]}: {error.strerror}", file=sys.stderr)
        return EXIT_NOT_FOUND
    for number in pending:
        _send(child, number)
    if lifeline:
        threading.Thread(target=_watch_stdin, args=(child,), daemon=True).start()
    code = _wait(child)
    if sum(memory_kills()) > kills:
        print(f"calgrid: {MEMORY_MESSAGE}", file=sys.stderr, flush=True)
    return code if code >= 0 else EXIT_KILLED - code


def _wait(child: subprocess.Popen[bytes]) -> int:
    """The exit code of the program, negative for a signal; orphans are waited for meanwhile."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child.pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode


def _watch_stdin(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    print("calgrid: the launcher is gone; the program is asked to end", file=sys.stderr, flush=True)
    _send(child, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    _send(child, signal.SIGKILL)


def _send(child: subprocess.Popen[bytes], number: int) -> None:
    """Signal the program; `Popen.send_signal` would wait for it beside `_wait`."""
    with suppress(ProcessLookupError):
        os.kill(child.pid, number)


def memory_kills() -> Iterator[int]:
    """Processes of this container that were killed for memory, from the cgroup's own counters."""
    for name in ("memory.events", "memory/memory.oom_control"):
        try:
            text = (Path("/sys/fs/cgroup") / name).read_text()
        except OSError:
            continue  # the other version of cgroups, or none
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                yield int(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
