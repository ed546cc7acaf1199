"""Walks over activations on the host: no stream may touch memory that another is not done with.

Nothing here has a GPU. Streams and events are stand-ins that keep what each has waited for (vector
clocks), which tells an ordering that is not enforced even where it would seldom show.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from prune import activations
from prune.activations import Batches
from prune.host_memory import free_host_bytes

PARTS = [slice(0, 2), slice(2, 4), slice(4, 5)]


class Clock:
    """A stream: what it did, and what it has waited for of the others."""

    def __init__(self, *_: Any) -> None:
        self.seen: dict[int, int] = {id(self): 0}

    def work(self) -> None:
        self.seen[id(self)] += 1

    def waited_for(self, other: Clock) -> bool:
        return self.seen.get(id(other), 0) == other.seen[id(other)]

    def wait_stream(self, other: Clock) -> None:
        self._join(other.seen)

    def wait_event(self, event: Mark) -> None:
        self._join(event.seen)

    def _join(self, seen: dict[int, int]) -> None:
        for stream, done in seen.items():
            self.seen[stream] = max(self.seen.get(stream, 0), done)


class Mark:
    """An event."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def record(self, stream: Clock) -> None:
        self.seen = dict(stream.seen)


class Gpu:
    """Stands for a device: `main` computes, `side` are the streams of walks."""

    type = "cuda"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.main = self.now = Clock()
        self.side: list[Clock] = []
        self.hasty: list[str] = []
        made, copy = activations._Buffer.of, Tensor.copy_

        @contextmanager
        def use(stream: Clock) -> Iterator[None]:
            before, self.now = self.now, stream
            yield
            self.now = before

        def new_stream(_: Any) -> Clock:
            self.side.append(Clock())
            return self.side[-1]

        rooms: dict[int, int] = {}  # by address: how much `main` had done when it was taken

        def take(buffer: Any, like: Tensor, _: Any) -> Tensor:
            new = buffer.room is None
            room = made(buffer, like, torch.device("cpu"))
            if new:
                rooms[room.data_ptr()] = self.main.seen[id(self.main)]
            return room

        def note(into: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
            self.now.work()
            for x in (into, source):
                if self.now.seen.get(id(self.main), 0) < rooms.get(x.data_ptr(), 0):
                    self.hasty.append("a room is used before the work that had its memory is done")
            return copy(into, source)

        monkeypatch.setattr(torch.cuda, "Stream", new_stream)
        monkeypatch.setattr(torch.cuda, "Event", Mark)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self.now)
        monkeypatch.setattr(torch.cuda, "stream", use)
        monkeypatch.setattr(activations._Buffer, "of", take)
        monkeypatch.setattr(Tensor, "copy_", note)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    return Gpu(monkeypatch)


def test_a_walk_that_begins_late_waits_for_what_was_computed_before(gpu: Any) -> None:
    inputs, outputs = torch.arange(5.0)[:, None], torch.ones(5, 1)
    walk, late = Batches(inputs, PARTS, gpu), iter(Batches(outputs, PARTS, gpu))
    for part, value in walk:
        gpu.main.work()  # a block, whose temporary memory is free once it is queued
        _, other = next(late)
        walk.write(part, value + other)
    assert gpu.hasty == []
    assert gpu.main.waited_for(gpu.side[0])
    assert inputs.flatten().tolist() == [1, 2, 3, 4, 5]


def test_what_was_only_written_has_arrived_when_it_is_finished(gpu: Any) -> None:
    stored = torch.zeros(5, 1)
    walk = Batches(stored, PARTS, gpu)
    for part in PARTS:
        gpu.main.work()
        walk.write(part, torch.ones(part.stop - part.start, 1))
    assert not gpu.main.waited_for(gpu.side[0])
    walk.finish()
    assert gpu.main.waited_for(gpu.side[0])
    assert gpu.hasty == []
    assert stored.sum() == 5


GIB = 2**30


@pytest.mark.parametrize(
    ("lines", "files", "free"),
    [
        ("", {}, 20),
        ("0::/\n", {"memory.max": "max", "memory.current": GIB}, 20),
        ("0::/\n", {"memory.max": 8 * GIB, "memory.current": 3 * GIB}, 6),
        (  # as Slurm has it: the job is limited, its step is not
            "0::/slurm/job_1/step_0\n",
            {
                "slurm/job_1/step_0/memory.max": "max",
                "slurm/job_1/memory.max": 6 * GIB,
                "slurm/job_1/memory.current": 2 * GIB,
            },
            5,
        ),
        (  # version 1, where a container sees its own group at the top
            "4:cpu,memory:/docker/abc\n0::/\n",
            {
                "memory/memory.limit_in_bytes": 4 * GIB,
                "memory/memory.usage_in_bytes": 4 * GIB,
            },
            1,
        ),
    ],
    ids=["none", "unlimited", "v2", "slurm", "v1"],
)
def test_the_memory_that_is_left_is_the_least_of_all_accounts(
    tmp_path: Any, lines: str, files: dict[str, Any], free: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemAvailable:   {20 * 2**20} kB\n")
    (tmp_path / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
        (path.parent / "memory.stat").write_text(f"cache 7\ninactive_file {GIB}\n")
    assert free_host_bytes(tmp_path) == free * GIB


def test_this_machine_has_memory_left() -> None:
    assert 2**20 < free_host_bytes() < 2**50
