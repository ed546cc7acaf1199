"""Claims are exclusive, end with their owner, and let nobody see half of what is built."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from jobs import built, claims
from jobs.built import LISTING, SUMS, build_once, is_whole
from jobs.claims import is_held, take
from jobs.collect import _holder

SPAWN = multiprocessing.get_context("fork")


def gone() -> int:
    """The id of a process that has ended."""
    process = SPAWN.Process(target=lambda: None)
    process.start()
    process.join()
    assert process.pid is not None
    return process.pid


def write_claim(path: Path, pid: int, host: str = claims._host()) -> None:
    path.write_text(json.dumps({"host": host, "pid": pid, "nonce": "x"}))


def let_lease_pass(path: Path) -> None:
    before = time.time() - 2 * claims.LEASE_SECONDS
    os.utime(path, (before, before))


def test_one_of_many_threads_gets_the_claim(tmp_path: Path) -> None:
    path, got = tmp_path / "claim", []
    start = threading.Barrier(8)

    def contend() -> None:
        start.wait()
        got.append(take(path))

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (claim,) = [c for c in got if c is not None]
    with claim:
        assert is_held(path)
        assert take(path) is None
    assert not is_held(path)
    assert list(tmp_path.iterdir()) == []


def test_another_process_does_not_get_it(tmp_path: Path) -> None:
    claim = take(tmp_path / "claim")
    assert claim is not None
    with claim, SPAWN.Pool(1) as pool:
        assert pool.apply(is_held, (tmp_path / "claim",))
        assert pool.apply(take, (tmp_path / "claim",)) is None


def test_a_dead_process_is_followed_at_once(tmp_path: Path) -> None:
    write_claim(tmp_path / "claim", gone())
    assert not is_held(tmp_path / "claim")
    claim = take(tmp_path / "claim")
    assert claim is not None
    with claim:
        assert is_held(tmp_path / "claim")


def test_a_claim_from_elsewhere_lives_as_long_as_its_lease(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    write_claim(path, gone(), host="another-machine")
    assert take(path) is None
    let_lease_pass(path)
    claim = take(path)
    assert claim is not None
    with claim:
        pass


def test_a_claim_of_a_clock_that_went_wrong_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    write_claim(path, gone(), host="another-machine")
    later = time.time() + claims.LEASE_SECONDS / 2
    os.utime(path, (later, later))  # clocks differ a little
    assert take(path) is None
    os.utime(path, (later + 86_400, later + 86_400))
    assert not is_held(path)
    claim = take(path)
    assert claim is not None
    with claim:
        pass


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00\x9c", b"[]", b"5", b'"text"', b"{}", b'{"host": "%s"}']
)
def test_a_damaged_claim_is_an_unknown_owners_and_ends_with_its_lease(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "claim"
    path.write_bytes(content.replace(b"%s", claims._host().encode()))
    assert claims.held(tmp_path) == {"claim"}
    assert take(path) is None
    assert not claims.release_of(path, "a job")
    assert _holder(path) is None
    let_lease_pass(path)
    assert claims.held(tmp_path) == set()
    claim = take(path)
    assert claim is not None
    with claim:
        path.write_bytes(content)
    assert path.read_bytes() == content  # not ours any more


def test_a_half_written_claim_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "claim").touch()
    assert take(tmp_path / "claim") is None


def test_a_claim_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.02)
    claim = take(tmp_path / "claim")
    assert claim is not None
    with claim:
        let_lease_pass(tmp_path / "claim")
        time.sleep(0.2)
        assert take(tmp_path / "claim") is None


def test_who_lost_a_claim_does_not_release_the_next_ones(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    late = take(path)
    assert late is not None
    with late:
        let_lease_pass(path)
        following = take(path)
        assert following is not None
    with following:
        assert is_held(path)
    assert not path.exists()


def build_slowly(target: Path) -> None:
    build_once(target, lambda folder: _write_parts(folder, target))


def _write_parts(folder: Path, target: Path) -> None:
    with (target.parents[1] / "builds").open("a") as file:
        file.write("x")
    (folder / "first").write_text("1")
    assert not target.exists()
    time.sleep(0.3)
    (folder / "second").write_text("2")


def test_four_processes_build_once_and_nobody_sees_half(tmp_path: Path) -> None:
    target = tmp_path / "kind" / "key"
    processes = [SPAWN.Process(target=build_slowly, args=(target,)) for _ in range(4)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        if target.exists():
            assert {p.name for p in target.iterdir()} == {"first", "second", LISTING, SUMS}
        time.sleep(0.01)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "builds").read_text() == "x"
    assert [p.name for p in target.parent.iterdir()] == ["key"]


def test_a_failing_build_leaves_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    target = tmp_path / "kind" / "key"

    def fail(folder: Path) -> None:
        (folder / "first").write_text("1")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        build_once(target, fail)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert list(target.parent.iterdir()) == []
    assert build_once(target, lambda folder: (folder / "first").touch()) == target
    assert (target / "first").is_file()


def test_what_is_there_is_not_built(tmp_path: Path) -> None:
    build_once(tmp_path / "kind" / "key", lambda folder: (folder / "first").touch())
    build_once(tmp_path / "kind" / "key", lambda _: pytest.fail("built again"))


@pytest.mark.parametrize(
    "damage", ["cut", "gone", "listing", "list", "no file", "no folder", "all"]
)
def test_what_is_damaged_is_built_again(tmp_path: Path, damage: str) -> None:
    target = tmp_path / "kind" / "key"

    def build(folder: Path) -> None:
        (folder / "inside").mkdir()
        (folder / "inside" / "first").write_text("whole")

    build_once(target, build)
    assert is_whole(target)
    if damage == "cut":
        (target / "inside" / "first").write_text("who")
    elif damage == "gone":
        (target / "inside" / "first").unlink()
    elif damage == "listing":
        (target / LISTING).write_text("")
    elif damage == "list":
        (target / LISTING).write_text("[]")
    elif damage == "no file":
        (target / LISTING).unlink()
        (target / LISTING).mkdir()
    elif damage == "no folder":
        shutil.rmtree(target / "inside")
        (target / "inside").write_text("")
    else:
        shutil.rmtree(target)
    assert not is_whole(target)
    build_once(target, build)
    assert (target / "inside" / "first").read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["key"]


def test_what_has_its_length_but_not_its_content_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "kind" / "key"

    def build(folder: Path) -> None:
        (folder / "a name with spaces").write_text("whole")

    build_once(target, build)
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=target, check=True)
    (target / "a name with spaces").write_text("empty")
    monkeypatch.setattr(built, "_sound", set())  # as another process sees it
    build_once(target, build)
    assert (target / "a name with spaces").read_text() == "whole"
    assert f"{target} is damaged: made again" in capsys.readouterr().out
