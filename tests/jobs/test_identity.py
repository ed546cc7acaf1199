"""Keys hold the science and nothing else; these values may only change with a stage's version."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from jobs.plan.cells import Cell, Draw, digest, expand, science
from jobs.plan.grid import load_grid
from jobs.plan.plan import Evaluation
from jobs.plan.planning import plan_grid
from prune.recipe import parse

DRAW = Draw("c4", "stream", 128, 2048, 5)
CELL = Cell("m", parse("wanda"), Fraction(3, 5), "2:4", DRAW, 5)
WALK = {"propagate": "pruned", "skip": [], "fused": "split"}


def key(cell: Cell, model: str = "abc", pool: str = "def", dtype: str = "bfloat16") -> str:
    return digest(science(cell, model, pool, dtype, WALK))


def test_golden_keys() -> None:
    assert key(CELL) == "2816d7a40878096a"
    dense = Cell("m", parse("dense"), Fraction(0), "unstructured")
    assert key(dense) == "9c680c165c84fe27"
    settings = {"task": "mmlu", "num_fewshot": 5, "bos": "none", "max_length": None}
    settings |= {"limit": None, "fewshot_seed": 1234, "truncation": "left", "data": "abc"}
    evaluation = Evaluation("task", "mmlu", settings | {"harness": "0.4.13", "version": 2})
    assert evaluation.key("0123456789abcdef") == "5f2a9f8e0b6b8018"


def test_a_text_is_told_by_its_content(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    """Whatever a grid calls it, and whatever the seed of a cell."""

    def keys(changes: dict[str, str]) -> list[str]:
        plan = plan_grid(write_grid(changes), [], tmp_path).plan
        return [e.key("0123456789abcdef") for e in plan.evaluations(next(iter(plan.inputs.models)))]

    first = keys({})
    copied = "  copied: {path: json, data_files: CORPORA/farm.jsonl}\ncells:"
    copied = copied.replace("CORPORA", str(tmp_path))
    (tmp_path / "farm.jsonl").write_bytes(_farm(write_grid()).read_bytes())
    renamed = {"\ncells:": "\n" + copied, "perplexity: [farm]": "perplexity: [copied]"}
    assert keys(renamed) == first
    assert keys({"seed: [0, 1]": "seed: [7]"}) == first
    assert keys({"limit: 6": "limit: 5"}) != first
    assert keys({"limit: 6": "limit: 6\n  bos: add"}) != first


def _farm(grid: Path) -> Path:
    line = next(x for x in grid.read_text("utf-8").splitlines() if "farm.jsonl" in x)
    return Path(line.split('"')[1])


def test_names_are_in_no_key() -> None:
    renamed = dataclasses.replace(CELL, model="n", draw=dataclasses.replace(DRAW, dataset="x"))
    assert key(renamed) == key(CELL)


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": parse("ria")},
        {"recipe": parse({"name": "ria", "a": 0.4})},
        {"recipe": parse("owl")},
        {"sparsity": Fraction(1, 2)},
        {"pattern": "4:8"},
        {"draw": dataclasses.replace(DRAW, size=64)},
        {"draw": dataclasses.replace(DRAW, seqlen=1024)},
        {"draw": dataclasses.replace(DRAW, sampler="document")},
        {"draw": dataclasses.replace(DRAW, seed=6), "seed": 6},
        {"draw": dataclasses.replace(DRAW, fold=(0, 3))},
    ],
    ids=str,
)
def test_science_changes_the_key(change: dict[str, Any]) -> None:
    assert key(dataclasses.replace(CELL, **change)) != key(CELL)


def test_model_pool_and_dtype_change_the_key() -> None:
    keys = {key(CELL), key(CELL, model="x"), key(CELL, pool="x"), key(CELL, dtype="float32")}
    assert len(keys) == 4


def test_owl_alone_is_wanda_with_owl() -> None:
    spelled = parse({"name": "wanda", "allocation": {"name": "owl", "lam": 0.08, "m": 5.0}})
    assert parse("owl") == spelled
    assert str(spelled) == "wanda(allocation=owl(lam=0.08, m=5.0))"


def test_a_cell_survives_json() -> None:
    folded = dataclasses.replace(CELL, draw=dataclasses.replace(DRAW, fold=(1, 3)))
    assert Cell.from_json(json.loads(json.dumps(folded.to_json()))) == folded


def test_moving_and_renaming_runs_nothing_again(
    write_grid: Callable[..., Path], corpora: Path, tmp_path: Path
) -> None:
    first = plan_grid(write_grid(), [], tmp_path).cells
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in corpora.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    other = write_grid(
        {
            str(corpora) + "/farm": str(moved) + "/farm",
            "name: tiny": "name: other\nresources: {mem_gb: 3}",
            "resources: {cells_per_job: 9}": "",
        }
    )
    assert set(plan_grid(other, [], tmp_path).cells) == set(first)


def test_cells_are_ordered_by_seed_and_shared(write_grid: Callable[..., Path]) -> None:
    grid, _ = load_grid(write_grid({"size: 4": "size: [4, 2]"}))
    cells, products, problems = expand(grid)
    assert problems == []
    assert products == 16
    assert [c.recipe.name for c in cells[:2]] == ["dense", "magnitude"]
    assert [c.seed for c in cells] == [None, None, *[0] * 4, *[1] * 4]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("wanda", []),
        ("{name: wanda}", ["wanda+owl", "wanda+reconstruct"]),
        ("owl", ["wanda", "wanda+reconstruct"]),
        ("wanda+owl", ["wanda", "wanda+reconstruct"]),
        ("[wanda+owl, wanda+reconstruct]", ["wanda"]),
        ("{name: wanda, refine: reconstruct}", ["wanda", "wanda+owl"]),
    ],
)
def test_recipes_are_excluded_by_kind_or_alone(
    write_grid: Callable[..., Path], rule: str, left: list[str]
) -> None:
    pruners = "[magnitude, wanda, owl, {name: wanda, refine: reconstruct}]"
    path = write_grid(
        {"[magnitude, wanda]": pruners, "keep: none": f"exclude: [{{pruner: {rule}}}]"}
    )
    cells, _, problems = expand(load_grid(path)[0])
    assert not problems
    recipes = {cell.recipe.short() for cell in cells}
    assert sorted(recipes) == ["dense", "magnitude", *left]


def test_exclude_and_zip(write_grid: Callable[..., Path]) -> None:
    changes = {
        "size: 4": "size: [4, 2]\n  zip: [size, seed]",
        "keep: none": "exclude: [{pruner: wanda, dataset: city, size: 2}]",
    }
    cells, _, _ = expand(load_grid(write_grid(changes))[0])
    drawn = {(c.draw.dataset, c.draw.size, c.draw.seed) for c in cells if c.draw}
    assert drawn == {("farm", 4, 0), ("farm", 2, 1), ("city", 4, 0)}


def test_an_evaluations_key_is_the_digest_of_cell_kind_and_settings() -> None:
    for settings in ({"bos": "none", "data": '"cell":"x"', "limit": {"cell": 1}}, {"a": None}, {}):
        evaluation = Evaluation("task", "any", settings)
        assert evaluation.key("00ff") == digest({"cell": "00ff", "kind": "task", **settings})
