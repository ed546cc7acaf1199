"""How much memory this process may still take: by the machine's account, and by its job's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def free_host_bytes(root: Path = ROOT) -> int:
    """Memory that may still be taken, in bytes.

    A scheduler and a container engine limit a job by a control group, or one above it: version 2
    has one tree of them, version 1 one of memory alone. A group's use counts files that were read,
    which give way to anything else, so those that have not been used lately are not counted.

    Args:
        root: where `proc` and `sys` are.
    """
    available = root / "proc/meminfo"
    found = [
        int(line.split()[1]) * 1024
        for line in available.read_text().splitlines()
        if line.startswith("MemAvailable:")
    ]
    for group, limit, used in _groups(root):
        try:
            most, now = int((group / limit).read_text()), int((group / used).read_text())
            lines = (group / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # no such account here, or "max"
            continue
        stat = dict(line.split() for line in lines)
        idle = stat.get("total_inactive_file") or stat.get("inactive_file") or 0
        found.append(most - now + int(idle))
    return max(0, min(found, default=0))


def _groups(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Control groups of this process, each with those above it, and their files."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        files = ("memory.max", "memory.current")
        top = mounted
        if controllers:
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            top = mounted / "memory"
        if not controllers or "memory" in controllers.split(","):
            inside = Path(place.lstrip("/"))
            for path in (inside, *inside.parents):
                yield top / path, *files
