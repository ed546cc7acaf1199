"""What may stand in a grid file beside plain mistakes in values: syntax, anchors, overrides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.yamlfile import InputError
from jobs import launch
from jobs.plan.grid import load_grid
from jobs.plan.planning import plan_grid

Write = Callable[..., Path]


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        plan_grid(path, list(overrides), path.parent / "out")
    return "\n".join(error.value.lines)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[a, b]", 1, "mapping"),
        ("", 1, "mapping"),
        ("plain words", 1, "mapping"),
        ("name: a\n---\nname: b", 2, "another document"),
        ("name: a\ncells: {size: 1", 2, "not readable as YAML"),
        ("name: *nobody", 1, "alias"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    message = refusal(path)
    assert message.startswith(f"{path}:{line}: ")
    assert said in message


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_bytes(b"\xff\xfename: a")
    assert "UTF-8" in refusal(tmp_path / "grid.yaml")


def test_a_folder_is_no_grid(tmp_path: Path) -> None:
    assert "grid file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[magnitude, wanda]", "[1]", ["1 is no pruner", "wanda"]),
        ("[magnitude, wanda]", "[null]", ["no pruner"]),
        ("[magnitude, wanda]", "[[wanda]]", ["no pruner"]),
        ("[magnitude, wanda]", "[{lam: 1}]", ["no pruner"]),
        ("[magnitude, wanda]", "[{name: wanda, allocation: 3}]", ["allocation", "3"]),
        ("[magnitude, wanda]", "[{name: wanda, allocation: owll}]", ["'owll'", "'owl'"]),
        ("[magnitude, wanda]", "[{name: wanda, refine: nothing}]", ["reconstruct"]),
        ("[magnitude, wanda]", "[owl, {name: wanda, allocation: owl}]", ["listed twice"]),
        ("sparsity: 0.5", "sparsity: .nan", ["nan", "fraction"]),
        ("sparsity: 0.5", "sparsity: '1e-99999'", ["decimals"]),
        ("sparsity: 0.5", "sparsity: [0.5, 0.50]", ["listed twice"]),
        ("perplexity: [farm]", "perplexity: [farm, farm]", ["listed twice", "farm"]),
        ("perplexity: [farm]", "tasks: [sciq, {name: sciq, num_fewshot: 1}]", ["twice", "sciq"]),
        ("perplexity: [farm]", "tasks: [3]", ["3", "mapping"]),
        ("keep: none", "exclude: [{}]", ["empty rule"]),
        ("keep: none", "exclude: {pruner: wanda}", ["a list"]),
        ("keep: none", "keep: !custom none", ["not allowed"]),
        ("name: tiny", "name: 5", ["5", "text"]),
        ("name: tiny", "name: 2020-01-01", ["text"]),
        ("datasets:\n", "datasets:\n  a: {mixture: {a: 1}}\n", ["itself"]),
        (
            "datasets:\n",
            "datasets:\n  a: {mixture: {b: 1}}\n  b: {mixture: {a: 1, farm: 1}}\n",
            ["datasets.a", "datasets.b", "circle"],
        ),
        ("datasets:\n", "datasets:\n  a: {mixture: {frm: 1}}\n", ["'frm'", "'farm'"]),
        ("datasets:\n", "datasets:\n  a: {path: json, mixture: {farm: 1}}\n", ["exactly one"]),
        ("datasets:\n", "datasets:\n  a: {text: body}\n", ["exactly one"]),
        (
            "farm: {path: json,",
            "farm: {path: json, split: test,",
            ["split is for hub repositories"],
        ),
        (
            "farm: {path: json,",
            "farm: {path: json, name: en, revision: x,",
            ["name, revision is for"],
        ),
        (
            "datasets:\n",
            "datasets:\n  a: {mixture: {farm: 1}, text: t}\n",
            ["text is for a `path`"],
        ),
        ("farm: {path: json,", "farm: {path: jsonl,", ["jsonl", "write json"]),
        ("farm: {path: json,", "farm: {path: txt,", ["txt", "write text"]),
        (
            "farm: {path: json,",
            "farm: {path: texts/none.csv,",
            ["is not there", "path: csv", "data_files"],
        ),
        (
            "farm: {path: json,",
            "farm: {path: texts/none.jsonl.zst,",
            ["is not there", "path: json"],
        ),
        (
            "farm: {path: json,",
            "farm: {path: ./grid.yaml,",
            ["is a file", "path: json", "data_files"],
        ),
        ("model: ", "model: ./grid.yaml #", ["is a file", "folder"]),
        ("datasets:\n", "datasets:\n  a: {path: json}\n", ["data_files"]),
        ("datasets:\n", "datasets:\n  a: {generate: {from: farm, textz: 1}}\n", ["'texts'"]),
        ("reference: farm", "reference: 3", ["3"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    write_grid: Write, old: str, new: str, said: list[str]
) -> None:
    path = write_grid({old: new})
    message = refusal(path)
    assert all(word in message for word in said), message
    assert all(line.startswith(f"{path}:") for line in message.splitlines())


@pytest.mark.parametrize("cells", ["[]", "all", "null"])
def test_cells_are_needed(write_grid: Write, cells: str) -> None:
    message = refusal(write_grid({"cells:\n": f"cells: {cells}\nunused:\n"}))
    assert "cells" in message
    assert "unused" in message


def test_missing_folders_are_refused(
    write_grid: Write, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_grid({str(tiny_model): "./nowhere"})
    assert launch.main([str(path), "--dry-run", "--out", str(tmp_path / "out")]) == 2
    assert f"{path}:2: " in capsys.readouterr().err


def test_anchors_and_merged_keys_are_read(write_grid: Write) -> None:
    base = (
        "datasets:\n  base: &base {path: json, data_files: x.jsonl}\n  mine: {<<: *base, text: t}\n"
    )
    grid, _ = load_grid(write_grid({"datasets:\n": base}))
    assert grid.datasets["mine"].data_files == ["x.jsonl"]
    assert grid.datasets["mine"].text == "t"


def test_overrides_replace_values_and_take_lists(write_grid: Write) -> None:
    overrides = ["cells.pattern=[2:4]", "cells.size=[1,2]", "resources.gpus=0"]
    grid, _ = load_grid(write_grid(), overrides)
    assert grid.cells[0].pattern == ["2:4"]
    assert grid.cells[0].size == [1, 2]
    assert grid.resources.gpus == 0


def test_an_override_that_is_wrong_is_named(write_grid: Write) -> None:
    assert refusal(write_grid(), "cells.size=0").startswith("--set cells.size: ")


def test_an_item_set_by_its_number_is_named_like_any_other(write_grid: Write) -> None:
    message = refusal(write_grid({"sparsity: 0.5": "sparsity: [0.5, 0.6]"}), "cells.sparsity.0=50")
    assert message.startswith("--set cells.sparsity.0: ")
    assert "0.5" in message


def test_a_grid_file_may_end_in_a_number(write_grid: Write) -> None:
    path = write_grid({"name: tiny\n": ""})
    assert "missing" in refusal(path.rename(path.with_name("grid2")))


def test_a_dataset_named_corpus_is_compared_by_its_perplexity(write_grid: Write) -> None:
    path = write_grid({"keep: none": "compare: {primary: ppl_my_corpus}"})
    path.write_text(path.read_text().replace("farm:", "my_corpus:").replace("farm]", "my_corpus]"))
    path.write_text(
        path.read_text().replace("[farm,", "[my_corpus,").replace(": farm\n", ": city\n")
    )
    assert plan_grid(path, [], path.parent / "out").cells
