"""What a job finds where it runs: `python -m cluster.inside FOLDER`, for `cluster.probe`.

Writes `FOLDER/inside.json`. Every check is a pair: does it hold, and what was seen.
"""

from __future__ import annotations

import ctypes
import errno
import getpass
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cluster.code import code_hash
from cluster.driver import cuda_version, misfit

SIGNAL_SECONDS = 60.0
"""How long the signal that the probe sends is waited for."""

Check = tuple[bool | None, str]
"""Does it hold (None: there is nothing to hold), and what was seen."""


def main(folder: Path) -> None:
    """Run every check and write what was found."""
    arrived = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: arrived.set())
    found: dict[str, Check] = {}
    for name, check in CHECKS.items():
        try:
            found[name] = check(folder)
        except Exception as error:  # a check that cannot be made is an answer too
            found[name] = (False, " ".join(f"{type(error).__name__}: {error}".split()))
    (folder / "ready").touch()  # the probe sends a signal now
    heard = arrived.wait(SIGNAL_SECONDS)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come twice: while Python ends, it kills
    found["signals"] = (heard, "SIGTERM arrived" if heard else "SIGTERM did not arrive")
    partial = folder / "inside.partial"
    partial.write_text(json.dumps(found), "utf-8")
    partial.replace(folder / "inside.json")


def _shared(folder: Path) -> Check:
    told = (folder / "nonce").read_text("utf-8")
    (folder / "answer").write_text(told, "utf-8")
    return True, f"{folder} is the same here, and can be written"


def _rename(folder: Path) -> Check:
    first, second = folder / "rename.a", folder / "rename.b"
    first.write_text("a")
    second.write_text("b")
    first.replace(second)
    return second.read_text() == "a", "a file is replaced in one step"


def _exclusive(folder: Path) -> Check:
    path = folder / f"exclusive-{time.time_ns()}"  # a job may be requeued, and start again
    path.open("x").close()
    try:
        path.open("x").close()
    except FileExistsError:
        return True, "a file that exists is not created again"
    return False, "a file was created twice: claims do not hold on this file system"


def _network(folder: Path) -> Check:
    """Is there a way out? Connecting a datagram socket looks for one, and sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address that is kept for examples
        except OSError as error:
            return error.errno == errno.ENETUNREACH, "there is no way out"
    return False, "there is a way out"


def _user(folder: Path) -> Check:
    owner = (folder / "answer").stat().st_uid
    return owner == os.getuid(), f"{getpass.getuser()} ({os.getuid()}) writes as {owner}"


def _root(folder: Path) -> Check:
    try:
        Path("/calgrid-probe").touch()
    except OSError as error:
        return True, f"the root cannot be written ({os.strerror(error.errno or 0)})"
    Path("/calgrid-probe").unlink()
    return False, "the root can be written"


def _compiler(folder: Path) -> Check:
    """Compile a library into the temporary folder and load it, as Triton does."""
    compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None:
        return False, "no C compiler: kernels of Triton cannot be built"
    with tempfile.TemporaryDirectory() as scratch:
        source, library = Path(scratch) / "answer.c", Path(scratch) / "answer.so"
        source.write_text("int answer(void) { return 42; }\n")
        made = subprocess.run(
            [compiler, "-shared", "-fPIC", str(source), "-o", str(library)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            return False, made.stderr.strip().splitlines()[-1]
        holds: bool = ctypes.CDLL(str(library)).answer() == 42
    return holds, f"{compiler} builds libraries, and they load from {tempfile.gettempdir()}"


def _shared_memory(folder: Path) -> Check:
    size = shutil.disk_usage("/dev/shm").total
    return size > 2**26, f"/dev/shm has {size / 2**30:.2f} GiB"


def _gpu(folder: Path) -> Check:
    import torch

    if not torch.cuda.is_available():
        driver = cuda_version()
        return (False, "there is a driver, and torch sees no GPU") if driver else (None, "no GPU")
    names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    return True, f"{torch.cuda.device_count()} x {', '.join(sorted(names))}"


def _bfloat16(folder: Path) -> Check:
    import torch

    if not torch.cuda.is_available():
        return None, "no GPU"
    holds = torch.cuda.is_bf16_supported(including_emulation=False)
    return holds, "bfloat16" if holds else "no bfloat16: set dtype: float16 or float32 in grids"


def _cuda(folder: Path) -> Check:
    import torch

    problem = misfit(torch.version.cuda)
    driver = cuda_version()
    if driver is None:
        return None, f"torch {torch.__version__}; no driver"
    seen = f"torch {torch.__version__}, driver for CUDA {driver[0]}.{driver[1]}"
    return problem is None, problem or seen


CHECKS: dict[str, Callable[[Path], Check]] = {
    "host": lambda folder: (None, os.environ.get("CALGRID_HOST") or platform.node()),
    "code": lambda folder: (None, code_hash()),
    "shared path": _shared,
    "rename": _rename,
    "exclusive create": _exclusive,
    "user": _user,
    "read-only root": _root,
    "network refused": _network,
    "shared memory": _shared_memory,
    "C compiler": _compiler,
    "GPU": _gpu,
    "bfloat16": _bfloat16,
    "CUDA and driver": _cuda,
}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
