"""What a run records of its text: pools, overlaps, quality, contamination, bounds, names."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from calib.pool import Pool, document_id
from calib.readers import read_pool
from calib.sources import locate
from calib.spec import DatasetSpec
from jobs import launch, show

pytestmark = pytest.mark.usefixtures("here")


def query(run: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(run / "results.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def launched(grid: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert launch.main([str(grid), "--out", str(out)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


MADE = """\
  both: {{mixture: {{farm: 1, city: 1}}, max_documents: 30}}
  near: {{select: {{from: city, by: nearest, documents: 20}}}}
  easy: {{select: {{from: city, by: least_perplexity, documents: 20}}}}
  quiz:
    path: json
    data_files: "{folder}/quiz.jsonl"
    questions: {{rationale: "{{{{ why }}}}", form: chain_of_thought, examples: 3}}
cells:
  dataset: [both, near, easy, quiz, random_tokens, ellipses]
  pruner: [wanda]
"""


@pytest.fixture
def many(write_grid: Callable[..., Path], tmp_path: Path) -> Path:
    """A grid of every kind of dataset."""
    rows = [
        {
            "question": f"What is {i} and {i}?",
            "answer": str(2 * i),
            "why": f"{i} and {i} is {2 * i}",
        }
        for i in range(60)
    ]
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = MADE.format(folder=tmp_path)
    measures = "measures: [jaccard, containment, nearest, aggregation, perplexity, min_k]"
    return write_grid(
        {
            "cells:\n  dataset: [farm, city]\n  pruner: [magnitude, wanda]\n": made,
            "seed: [0, 1]": "seed: [0]",
            "num_perm: 128": f"num_perm: 128, {measures}",
        }
    )


def test_every_kind_of_dataset_runs(
    many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launched(many, tmp_path, capsys)
    run = tmp_path / "tiny"
    rows = query(run, "SELECT dataset, similarity, quality FROM results WHERE dataset NOT NULL")
    found = {name: (near, quality) for name, near, quality in rows}
    assert set(found) == {"both", "near", "easy", "quiz", "random_tokens", "ellipses"}
    assert all(quality > 0 for _, quality in found.values())
    figures = query(run, "SELECT dataset, measure, value, stderr, units FROM similarity")
    measures = {(d, m): v for d, m, v, _, _ in figures}
    for name in found:
        have = {m for d, m in measures if d == name}
        assert {"jaccard_ceiling", "jaccard_floor", "perplexity", "min_k", "nearest"} <= have
        words = {"jaccard", "jaccard_windows", "containment", "aggregation"}
        assert words & have == (set() if name == "ellipses" else words)
    assert measures["both", "jaccard"] > measures["random_tokens", "jaccard"]
    assert measures["both", "jaccard_ceiling"] > measures["quiz", "jaccard"]
    assert measures["ellipses", "perplexity"] != measures["random_tokens", "perplexity"]
    pools = dict(query(run, "SELECT dataset, documents FROM pools"))
    assert pools == {
        "both": 30, "near": 20, "easy": 20, "quiz": 20, "farm": 60,
        "random_tokens": 512, "ellipses": 512,
    }  # fmt: skip


def test_pools_and_draws_overlap(finished_run: Path, corpora: Path) -> None:
    rows = query(
        finished_run,
        "SELECT kind, dataset, other_dataset, documents, other_documents, shared_documents "
        "FROM text_overlaps ORDER BY ALL",
    )
    assert {row[:3] for row in rows} == {
        ("pools", "city", "farm"), ("draws", "city", "city"), ("draws", "farm", "farm"),
    } or {row[:3] for row in rows} == {
        ("pools", "farm", "city"), ("draws", "city", "city"), ("draws", "farm", "farm"),
    }  # fmt: skip
    for kind, dataset, _, documents, other, shared in rows:
        if kind == "pools":
            assert (documents, other, shared) == (60, 60, 0)
            continue
        drawn = [
            {d for window in json.loads(path.read_text())["windows"] for d, _, _ in window}
            for path in finished_run.glob("calibration/*/manifest.json")
            if json.loads(path.read_text())["dataset"] == dataset
        ]
        assert sorted(map(len, drawn)) == sorted((documents, other))
        assert shared == len(drawn[0] & drawn[1])


def test_calibrating_on_what_is_evaluated_is_warned_of(
    write_grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = launched(write_grid({"seed: [0, 1]": "seed: [0]"}), tmp_path, capsys)
    assert "warning: dataset farm shares 13 words in a row with 60 of 60 documents of farm" in out
    rows = query(
        tmp_path / "tiny", "SELECT dataset, task, task_documents, found FROM contamination"
    )
    assert ("farm", "farm", 60, 60) in rows
    touched = query(
        tmp_path / "tiny", "SELECT count(*) FROM pool_documents WHERE list_contains(tasks, 'farm')"
    )
    assert touched[0][0] >= 60


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_two_names_of_one_text_are_told(
    write_grid: Callable[..., Path],
    corpora: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    dry: list[str],
) -> None:
    rows = (corpora / "farm.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "again.jsonl").write_text("".join(reversed(rows)))  # other files, the same text
    grid = write_grid(
        {
            "cells:\n": f"""\
  twin: {{path: json, data_files: "{corpora}/farm.jsonl"}}
  again: {{path: json, data_files: "{tmp_path}/again.jsonl"}}
cells:
""",
            "dataset: [farm, city]": "dataset: [farm, twin, again]",
            "seed: [0, 1]": "seed: [0]",
        }
    )
    assert launch.main([str(grid), "--out", str(tmp_path), *dry]) == 0
    assert "note: dataset twin has the same text as farm" in capsys.readouterr().out
    if dry:
        return
    columns = "cell, pruner, status, ppl_farm, similarity"
    one, other = (
        query(
            tmp_path / "tiny",
            f"SELECT {columns} FROM results WHERE dataset = '{name}' ORDER BY ALL",
        )
        for name in ("farm", "twin")
    )
    assert one == other
    assert one
    scores = query(
        tmp_path / "tiny",
        "SELECT count(*), count(DISTINCT (dataset, cell)) FROM results JOIN scores USING (cell) "
        "WHERE score = 'ppl_farm' AND dataset IN ('farm', 'twin')",
    )
    assert scores == [(2 * len(one), 2 * len(one))]
    draws = query(tmp_path / "tiny", "SELECT DISTINCT dataset FROM draws")
    assert sorted(draws) == [("again",), ("farm",)]  # one text is one dataset, whatever its name
    same = query(tmp_path / "tiny", "SELECT dataset, other_dataset, shares_cells FROM same_texts")
    assert sorted(same) == [("again", "farm", False), ("farm", "twin", True)]
    told = show.warnings(tmp_path / "tiny" / "results.duckdb")
    assert "farm and twin hold the same text: it is compared once, as farm" in told
    assert "again and farm hold the same text: they count as two datasets" in told
    flags = query(tmp_path / "tiny", "SELECT DISTINCT a, b, mixed FROM comparisons")
    assert [f for f in flags if f[0] in ("farm", "again", "twin")] == [
        ("again", "farm", "same text")
    ]


# -- planted overlaps


@pytest.mark.parametrize("shared", [0, 8, 80, 400])
def test_a_planted_overlap_is_recovered(
    shared: int,
    write_grid: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Documents of 50 own words; `shared` of 500 have the words of a document on the other side."""

    def document(name: str) -> str:
        return " ".join(f"{name}w{i}" for i in range(50))

    for side in ("left", "right"):
        names = [f"common{i}" for i in range(shared)] + [f"{side}{i}" for i in range(500 - shared)]
        texts = [document(name) + ("." if side == "left" else "!") for name in names]
        rows = "".join(json.dumps({"text": t}) + "\n" for t in texts)
        (tmp_path / f"{side}.jsonl").write_text(rows)
    grid = write_grid(
        {
            "reference: farm": "reference: right",
            "cells:\n": f"""\
  left: {{path: json, data_files: "{tmp_path}/left.jsonl"}}
  right: {{path: json, data_files: "{tmp_path}/right.jsonl"}}
cells:
""",
            "dataset: [farm, city]": "dataset: left",
            "seed: [0, 1]": "seed: 0",
            "tokens: 2000, num_perm: 128": "num_perm: 4096",
        }
    )
    launched(grid, tmp_path, capsys)
    figures = {
        measure: (value, stderr)
        for measure, value, stderr in query(
            tmp_path / "tiny", "SELECT measure, value, stderr FROM similarity"
        )
    }
    true = shared / (1000 - shared)
    for measure in ("jaccard", "jaccard_minhash"):
        value, stderr = figures[measure]
        assert abs(value - true) <= 3 * stderr


# -- another machine, other files


def test_ids_do_not_depend_on_how_rows_are_spread_over_files(tmp_path: Path) -> None:
    texts = [f"document number {i} " * (i % 7 + 1) for i in range(200)]
    found = []
    for turn in range(3):
        folder = tmp_path / str(turn)
        folder.mkdir()
        mixed = random.Random(turn).sample(texts, len(texts))
        for part in range(turn + 1):
            rows = "".join(json.dumps({"text": t}) + "\n" for t in mixed[part :: turn + 1])
            (folder / f"{random.Random(part).random()}.jsonl").write_text(rows)
        spec = DatasetSpec(path="json", data_files=["*.jsonl"], max_documents=50)
        found.append(read_pool(locate(spec, folder, None, None), spec))
    assert found[0] == found[1] == found[2] == Pool.of(texts, 50)
    assert list(found[0].ids) == sorted(map(document_id, texts))[:50]
