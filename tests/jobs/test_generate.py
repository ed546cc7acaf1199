"""Generated text as a stage of its own: killed and taken up again, shared, checked at launch."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from jobs import launch, status
from jobs.plan.planning import plan_grid
from jobs.run import RunFolder
from jobs.stages import generate
from jobs.stages.calibration import Stages

BATCHES, TEXTS = 6, 22


def grid_of(write_grid: Callable[..., Path], **more: Any) -> Path:
    settings = {"texts": TEXTS, "batch": 4, "max_tokens": 20, "prefix_tokens": 2, **more}
    written = json.dumps({"generate": {"from": "farm", **settings}})
    return write_grid(
        {
            "datasets:\n": f"datasets:\n  own: {written}\n",
            "dataset: [farm, city]": "dataset: own",
            "pruner: [magnitude, wanda]": "pruner: wanda",
        }
    )


def stages_of(grid: Path, out: Path, progress: Any = lambda *told: None) -> Stages:
    run = RunFolder(out / "tiny")
    return Stages(run, plan_grid(grid, [], out).plan, progress)


def model_of(stages: Stages) -> str:
    return next(iter(stages.plan.inputs.models))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


def test_killed_twice_and_taken_up_again_it_writes_the_same_bytes(
    write_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_of(write_grid)
    whole = stages_of(grid, tmp_path / "whole")
    model = model_of(whole)
    paths = generate.write_batches(whole, "own", model, 32)
    assert len(paths) == BATCHES

    written: list[int] = []
    batch = generate.Generator.batch

    def until_killed(self: Any, number: int, look: Any) -> Any:
        if len(written) in (2, 4) and written[-1] >= 0:
            written.append(-1)
            raise Killed
        written.append(number)
        return batch(self, number, look)

    monkeypatch.setattr(generate.Generator, "batch", until_killed)
    for _ in range(2):
        with pytest.raises(Killed):
            generate.write_batches(stages_of(grid, tmp_path / "killed"), "own", model, 32)
    again = generate.write_batches(stages_of(grid, tmp_path / "killed"), "own", model, 32)
    assert [n for n in written if n >= 0] == list(range(BATCHES))  # nothing twice
    assert contents(again[0].parent) == contents(paths[0].parent)


def work(grid: Path, out: Path) -> None:
    stages = stages_of(grid, out)
    stages.pool_folder("own", model_of(stages), 32)


def test_two_processes_write_the_same_bytes_as_one(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    grid = grid_of(write_grid)
    work(grid, tmp_path / "one")
    start = multiprocessing.get_context("spawn").Process
    both = [start(target=work, args=(grid, tmp_path / "two")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(600)
        assert process.exitcode == 0
    for kind in ("generated", "pools"):
        (one,) = (p for p in (tmp_path / "one/artefacts" / kind).iterdir() if holds(p, kind))
        (two,) = (p for p in (tmp_path / "two/artefacts" / kind).iterdir() if holds(p, kind))
        assert one.name == two.name
        assert contents(one) == contents(two)


def holds(folder: Path, kind: str) -> bool:
    """Is this the folder of generated text? Pools of other datasets lie beside it."""
    return kind == "generated" or (folder / "texts.jsonl").is_file()


def test_another_fraction_or_number_of_texts_writes_no_batch_again(
    write_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stages_of(grid_of(write_grid), tmp_path)
    model = model_of(first)
    whole = first.pool_folder("own", model, 32)
    monkeypatch.setattr(generate._Writing, "_ready", None)  # any writing would fail
    texts = (whole / "texts.jsonl").read_text().splitlines()
    for more in ({"drop_top_perplexity": 0.5}, {"texts": 7, "drop_top_perplexity": 0}):
        other = stages_of(grid_of(write_grid, **more), tmp_path).pool_folder("own", model, 32)
        assert other != whole
        lines = (other / "texts.jsonl").read_text().splitlines()
        assert [json.loads(x)["text"] for x in lines] == [
            json.loads(x)["text"] for x in texts[: len(lines)]
        ]


@pytest.mark.usefixtures("here")
def test_what_the_model_wrote_is_in_the_database(
    write_grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = grid_of(write_grid, seed=[0, 3], drop_top_perplexity=0.25)
    assert launch.main([str(grid), "--out", str(tmp_path / "runs")]) == 0
    run, kept = tmp_path / "runs/tiny", TEXTS - TEXTS // 4
    with duckdb.connect(str(run / "results.duckdb"), read_only=True) as connection:
        ask = lambda sql: connection.execute(sql).fetchall()  # noqa: E731
        assert ask("SELECT DISTINCT dataset FROM results WHERE dataset <> '' ORDER BY 1") == [
            ("own@0",),
            ("own@3",),
        ]
        pools = ask(
            "SELECT dataset, count(*), count(DISTINCT pool), sum(kept::INT), "
            "any_value(dropped_fraction), count(perplexity), count(repetition), max(tokens) "
            "FROM texts GROUP BY dataset ORDER BY dataset"
        )
        assert [row[0] for row in pools] == ["own@0", "own@3"]
        fraction = pytest.approx(1 - kept / TEXTS)
        wanted = (TEXTS, 1, kept, fraction, TEXTS, TEXTS, 22)
        assert [row[1:] for row in pools] == [wanted, wanted]
        assert ask("SELECT count(language) > 0 FROM texts") == [(True,)]
    for folder in (run / "calibration").iterdir():
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["written"]["kept"] == kept
        assert manifest["written"]["decoder"] == ["fast"]


def test_a_heartbeat_shows_speed_and_a_sample(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    told: list[tuple[Any, ...]] = []
    stages = stages_of(grid_of(write_grid, batch=8), tmp_path, lambda *said: told.append(said))
    generate.write_batches(stages, "own", model_of(stages), 32)
    notes = [said for said in told if said[0] == "generate"]
    assert len(notes) == 3  # one look in each of three batches
    assert [said[1] for said in notes] == sorted(said[1] for said in notes)
    assert all(said[2] == TEXTS and " tokens/s: " in said[3] for said in notes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"texts": 4, "batch": 2}, ["4 texts, 0 of them dropped", "128", "generate.texts"]),
        ({"texts": 61}, ["60 documents", "61"]),
        ({"prefix_tokens": 127}, ["prefix_tokens: 127", "128"]),
        ({"prefix_tokens": 0}, ["prefix_tokens: 0", "from: null"]),
        ({"from": None}, ["prefix_tokens: 2 without a source"]),
        ({"seed": []}, ["list one or more"]),
        ({"bos": "yes"}, ["bos"]),
        ({"temperature": {"start": 2.0}}, ["tokens"]),
        ({"texts": 4, "batch": 2, "from": "nowhere"}, ["unknown dataset 'nowhere'"]),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_before_anything_starts(
    write_grid: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    words: list[str],
) -> None:
    grid = grid_of(write_grid, **settings)
    assert launch.main([str(grid), "--out", str(tmp_path / "runs"), "--dry-run"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert all(word in said for word in words), said


def test_status_shows_the_note(
    write_grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs.claims import take
    from jobs.heartbeat import Heartbeat

    planned = plan_grid(grid_of(write_grid), [], tmp_path)
    run = RunFolder(tmp_path / "tiny")
    run.write_plan(planned.plan)
    key = list(planned.cells)[1]
    claim = take(run.claim(key))
    assert claim is not None
    with claim:
        beat = Heartbeat(run.heartbeat(key), "own wanda")
        beat("generate", 3, TEXTS, "812 tokens/s: [a] farmer")
        assert status.main([str(run.path)]) == 0
    assert "812" in capsys.readouterr().out
