"""The store: merged again and again, by several at once, from records that may be damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet
import pytest

from jobs import launch
from jobs.claims import take
from jobs.collect import collect, main
from jobs.drive import State
from jobs.plain import plain_console
from jobs.run import RunFolder
from jobs.store import longtables, schema
from tests.written_run import make_plan, write_run

ROOT = Path(__file__).parents[2]
DOCUMENTS = 40


def outcomes(cell: Any, name: str) -> Any:
    return np.random.default_rng(len(name)).integers(0, 2, DOCUMENTS).astype(float)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    plan = make_plan(evaluate={"tasks": ["arc_easy"], "perplexity": ["a"]})
    return write_run(tmp_path / "written", plan, outcomes, mask=lambda cell: b"\x0f" * 16)


def query(run: RunFolder, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(run.database), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def contents(run: RunFolder) -> dict[str, list[tuple[Any, ...]]]:
    names = [*schema.TABLES, "results", "scores"]
    return {name: sorted(query(run, f"FROM {name}"), key=repr) for name in names}


def some_cell(run: RunFolder) -> Path:
    return sorted(run.path.glob("cells/*.json"))[0]


def some_evaluation(run: RunFolder) -> Path:
    return sorted(run.path.glob("evaluations/*/*.json"))[0]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def rewrite(path: Path, change: Callable[[pyarrow.Table], pyarrow.Table]) -> None:
    pyarrow.parquet.write_table(change(pyarrow.parquet.read_table(path)), path)


def test_what_is_collected(run: RunFolder) -> None:
    assert collect(run) == []
    assert query(run, "SELECT count(*), count(mean_accuracy), count(ppl_a) FROM results") == [
        (8, 8, 8)
    ]
    assert query(run, "SELECT count(*) FROM outcomes") == [(8 * 2 * DOCUMENTS,)]
    assert query(run, "SELECT DISTINCT positions, bit_count(sample) FROM masks") == [(128, 64)]
    assert query(run, "SELECT schema_version FROM runs") == [(schema.VERSION,)]
    assert query(run, "SELECT DISTINCT headline FROM evaluations ORDER BY 1") == [
        ("acc",),
        ("perplexity",),
    ]


def test_merging_step_by_step_equals_merging_at_once(run: RunFolder, tmp_path: Path) -> None:
    whole = RunFolder(tmp_path / "whole" / "written")
    shutil.copytree(run.path, whole.path)
    late = tmp_path / "late"
    cell = some_cell(run).stem
    moved = [*run.path.glob(f"cells/{cell}.*"), run.path / "evaluations" / cell]
    late.mkdir()
    for path in moved:
        path.rename(late / path.name)
    collect(run)
    assert dict(query(run, "SELECT status, count(*) FROM results GROUP BY 1")) == {
        "done": 7,
        "missing": 1,
    }
    for path in moved:
        (late / path.name).rename(path)
    collect(run)
    collect(whole)
    assert contents(run) == contents(whole)
    for path in moved:  # a record that is deleted leaves the database
        path.rename(late / path.name)
    collect(run)
    assert query(run, "SELECT count(*) FROM outcomes") == [(7 * 2 * DOCUMENTS,)]


def test_nothing_new_rewrites_nothing(run: RunFolder) -> None:
    collect(run)
    before = run.database.stat()
    collect(run)
    assert run.database.stat().st_ino == before.st_ino


DAMAGES: dict[str, tuple[Callable[[RunFolder], Path], Callable[[Path], object], str]] = {
    "broken json": (some_cell, lambda p: p.write_text('{"cell": '), "JSON"),
    "empty": (some_cell, lambda p: p.write_text(""), "JSON"),
    "no utf-8": (some_cell, lambda p: p.write_bytes(b'{"cell": "\xff"}'), "JSON"),
    "a list": (some_cell, lambda p: p.write_text("[]"), "object"),
    "lacks a key": (some_cell, lambda p: edit(p, lambda r: r.pop("stages")), "stages"),
    "wrong type": (
        some_cell,
        lambda p: edit(p, lambda r: r.update(achieved_sparsity="half")),
        "achieved_sparsity",
    ),
    "too large a number": (some_cell, lambda p: edit(p, lambda r: r.update(size=2**40)), "size"),
    "another cell's": (some_cell, lambda p: edit(p, lambda r: r.update(cell="x")), "record of x"),
    "evaluation lacks metrics": (
        some_evaluation,
        lambda p: edit(p, lambda r: r.pop("metrics")),
        "metrics",
    ),
    "metric of a wrong type": (
        some_evaluation,
        lambda p: edit(p, lambda r: r["metrics"][0].update(value="good")),
        "metrics.0.value",
    ),
    "truncated parquet": (
        lambda run: some_evaluation(run).with_suffix(".parquet"),
        lambda p: p.write_bytes(p.read_bytes()[:-40]),
        "arquet",
    ),
    "damaged pages": (
        lambda run: some_cell(run).with_suffix(".parquet"),
        lambda p: p.write_bytes(p.read_bytes()[:4] + b"\xa5" * 400 + p.read_bytes()[404:]),
        "",
    ),
    "no column": (
        lambda run: some_evaluation(run).with_suffix(".parquet"),
        lambda p: rewrite(p, lambda t: t.drop_columns(["value"])),
        "no column value",
    ),
    "column of a wrong type": (
        lambda run: some_evaluation(run).with_suffix(".parquet"),
        lambda p: rewrite(
            p, lambda t: t.set_column(5, "value", pyarrow.array(["good"] * t.num_rows))
        ),
        "good",
    ),
    "not a number": (
        some_cell,
        lambda p: edit(p, lambda r: r.update(achieved_sparsity=float("nan"))),
        "achieved_sparsity: Input should be a finite number",
    ),
    "infinite metric": (
        some_evaluation,
        lambda p: edit(p, lambda r: r["metrics"][0].update(value=float("inf"))),
        "metrics.0.value: Input should be a finite number",
    ),
    "not a number in notes": (
        some_evaluation,
        lambda p: edit(p, lambda r: r.update(notes={"bytes": float("nan")})),
        "notes",
    ),
    "a link to nowhere": (
        some_cell,
        lambda p: (p.unlink(), p.symlink_to("nowhere")),
        "No such file",
    ),
    "every row twice": (
        lambda run: some_evaluation(run).with_suffix(".parquet"),
        lambda p: rewrite(p, lambda t: pyarrow.concat_tables([t, t])),
        "two outcomes of one document",
    ),
    "another's rows": (
        lambda run: some_evaluation(run).with_suffix(".parquet"),
        lambda p: shutil.copyfile(sorted(p.parents[1].glob("*/*.parquet"))[-1], p),
        "rows of evaluation",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_set_aside_and_nothing_else_is_lost(
    run: RunFolder, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pick, harm, reason = DAMAGES[damage]
    path = pick(run)
    harm(path)
    assert main([str(run.path)]) == 1
    said = capsys.readouterr().err
    assert str(path) in said
    assert reason in said
    ((file, kept),) = query(run, "SELECT file, reason FROM damaged")
    assert run.path / file == path
    assert reason in kept
    assert (run.path / "damaged" / file).is_symlink() or (run.path / "damaged" / file).exists()
    lost_cells = int(path.suffix == ".json")
    assert query(run, "SELECT count(*) FROM results WHERE status = 'done'") == [(8 - lost_cells,)]
    outcomes = query(run, "SELECT count(DISTINCT evaluation) FROM outcomes")
    assert outcomes == [(16 - ("evaluations" in file),)]
    assert len(run.done_cells(run.read_plan())) == 7  # the next launch computes it again
    assert main([str(run.path)]) == 0  # what was set aside stays named, and is no news
    assert query(run, "SELECT file FROM damaged") == [(file,)]


UNREADABLE: dict[str, Callable[[RunFolder], Path]] = {
    "record": some_cell,
    "tables": lambda run: some_cell(run).with_suffix(".parquet"),
    "evaluation": some_evaluation,
    "outcomes": lambda run: some_evaluation(run).with_suffix(".parquet"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_now_stays_where_it_is(
    run: RunFolder, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    collect(run)
    good = contents(run)
    path, kept = UNREADABLE[what](run), tmp_path / "kept"
    path.rename(kept)
    path.mkdir()  # root may read every file, but no folder as one
    with pytest.raises(SystemExit) as stopped:
        main([str(run.path)])
    assert stopped.value.code == 2
    assert f"error: {path}: is a directory\n" in capsys.readouterr().err
    assert path.is_dir()
    assert not (run.path / "damaged").exists()
    assert contents(run) == good
    path.rmdir()
    kept.rename(path)
    assert collect(run) == []
    assert contents(run) == good


@pytest.mark.parametrize("check", [longtables._check_manifest, longtables._check_texts])
def test_a_set_or_pool_that_cannot_be_read_now_is_not_wrong(
    tmp_path: Path, check: Callable[[str, Path], str | None]
) -> None:
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        check("key", tmp_path)


def test_a_disk_that_fails_while_it_is_read_is_told_with_the_file(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, read = some_cell(run), Path.read_bytes

    def fail(file: Path) -> bytes:
        if file == path:
            raise OSError(errno.EIO, "Input/output error")
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(SystemExit):
        main([str(run.path)])
    assert f"error: {path}: input/output error\n" in capsys.readouterr().err
    assert path.is_file()


def test_a_full_disk_is_told_in_one_line_and_nothing_stays_of_the_copy(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:1000])
        raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))

    monkeypatch.setattr("jobs.collect.shutil.copyfile", fail)
    with pytest.raises(SystemExit) as stopped:
        main([str(run.path)])
    assert stopped.value.code == 2
    assert f"error: {run.database}: no space left on device\n" in capsys.readouterr().err
    assert not list(run.path.glob("results.duckdb*"))
    monkeypatch.setattr("jobs.store.merge.update", refuse)
    assert launch._finish(run, State(), plain_console()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "Could not write file: No space left; what is done is kept" in line


def refuse(*_: object) -> None:
    raise duckdb.IOException("Could not write file: No space left\nmore")


def test_a_copied_record_counts_once(run: RunFolder) -> None:
    cell, evaluation = some_cell(run), some_evaluation(run)
    shutil.copyfile(cell, cell.with_name("copy.json"))
    other = sorted((run.path / "evaluations").iterdir())[-1]
    shutil.copyfile(evaluation, other / evaluation.name)
    assert len(collect(run)) == 2
    assert query(run, "SELECT count(*), count(DISTINCT cell) FROM cells") == [(8, 8)]
    assert query(run, "SELECT count(*) FROM evaluations") == [(16,)]
    assert query(run, "SELECT count(*) FROM results WHERE status = 'done'") == [(8,)]


@pytest.mark.parametrize("broken", [b"", b"no database", None])
def test_a_database_of_no_use_is_built_anew(run: RunFolder, broken: bytes | None) -> None:
    collect(run)
    good = contents(run)
    if broken is None:
        with duckdb.connect(str(run.database)) as connection:
            connection.execute("UPDATE runs SET schema_version = 0, state = 'old'")
    else:
        run.database.write_bytes(broken)
    collect(run)
    assert contents(run) == good


def test_a_plan_that_cannot_be_read_is_said(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "plan.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        main([str(run.path)])
    assert stop.value.code == 2
    assert "launching the grid again" in capsys.readouterr().err


def test_a_second_collector_waits_and_says_for_whom(run: RunFolder) -> None:
    said: list[str] = []
    claim = take(run.path / "collector")
    assert claim is not None
    with claim:
        waiting = threading.Thread(target=lambda: collect(run, said.append))
        waiting.start()
        deadline = time.monotonic() + 20
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
        assert waiting.is_alive()
        assert not run.database.exists()
    waiting.join(30)
    assert "process" in said[0]
    assert query(run, "SELECT count(*) FROM results") == [(8,)]


def test_a_collector_killed_while_it_merges_changes_nothing(tmp_path: Path) -> None:
    values = np.arange(40_000.0) % 2
    run = write_run(tmp_path / "written", make_plan(), lambda cell, name: values)
    late = some_evaluation(run)
    late.rename(tmp_path / late.name)
    collect(run)
    before, stat = query(run, "FROM results"), run.database.stat()
    (tmp_path / late.name).rename(late)
    for seconds in (0.0, 0.1, 0.2):
        scratch = tmp_path / f"scratch-{seconds}"
        scratch.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.collect", str(run.path)],
            env=os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)},
        )
        while not list(scratch.glob("*/results.duckdb.wal")):  # what it merges goes in there first
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(seconds)
        process.kill()
        process.wait()
        assert query(run, "FROM results") == before
        assert run.database.stat() == stat
    assert collect(run) == []
    assert query(run, "SELECT count(*) FROM outcomes") == [(8 * len(values),)]
    assert not list(run.path.glob("*.partial"))


READER = """
import duckdb, pathlib, sys, time
database, stop, rows = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
reads, slowest = 0, 0.0
while not stop.exists():
    started = time.monotonic()
    with duckdb.connect(database, read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM outcomes").fetchall() == [(rows,)]
    slowest = max(slowest, time.monotonic() - started)
    reads += 1
    time.sleep(0.2)
print(reads, slowest)
"""


def test_two_collectors_and_ten_readers_at_once(run: RunFolder, tmp_path: Path) -> None:
    collect(run)
    stop, rows = tmp_path / "stop", str(8 * 2 * DOCUMENTS)
    reader = [sys.executable, "-c", READER, str(run.database), str(stop), rows]
    readers = [subprocess.Popen(reader, stdout=subprocess.PIPE, text=True) for _ in range(10)]
    command = [sys.executable, "-m", "jobs.collect", str(run.path)]
    (run.path / "failures").mkdir()
    failure = {"kind": "error", "stage": None, "cause": "x", "signature": "x", "log": None}
    cell = some_cell(run).stem
    for attempt in (1, 2):
        path = run.path / "failures" / f"{cell}.{attempt}.json"
        path.write_text(json.dumps(failure | {"cell": cell, "attempt": attempt}))
        collectors = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
        assert [c.wait(120) for c in collectors] == [0, 0]
        assert query(run, "SELECT count(*) FROM failures") == [(attempt,)]
    stop.touch()
    for process in readers:
        reads, slowest = process.communicate(timeout=120)[0].split()
        assert process.returncode == 0
        assert int(reads) > 0
        assert float(slowest) < 10  # seconds, on a machine with two cores and twelve processes
    assert not list(run.path.glob("*.partial"))


def test_replicates_are_cells_of_their_own_only_from_the_second_on() -> None:
    once, thrice = make_plan(), make_plan(replicate=3)
    assert set(once.cells) < set(thrice.cells)
    assert len(thrice.cells) == 1 + 3 * (len(once.cells) - 1)
    assert sorted({thrice.cell(key).replicate for key in thrice.cells}) == [0, 1, 2]


def test_names_that_sql_has_to_quote(tmp_path: Path) -> None:
    plan = make_plan(evaluate={"tasks": ['say "a b"'], "perplexity": ["a"]})
    run = write_run(tmp_path / "written", plan, outcomes)
    assert collect(run) == []
    name = schema.identifier('say "a b"')
    assert query(run, f"SELECT count({name}) FROM results") == [(8,)]
