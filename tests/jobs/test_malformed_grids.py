"""Every mistake in a grid: exit code 2, one clear line, nothing started, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import launch

# what is replaced, by what, what the message must say, and the start of the line that it must name:
# None = the last line that was replaced, "" = no line
MISTAKES: list[tuple[str, str, str | None, list[str]]] = [
    ("dtype: float32", "dtype: float8", None, ["'float8'", "bfloat16", "'float32'"]),
    ("dtype: float32", "dytpe: float32", None, ["dytpe", "unknown key", "'dtype'"]),
    ("sparsity: 0.5", "sparsity: 1.0", None, ["1.0", "less than 1"]),
    ("sparsity: 0.5", "sparsity: -0.1", None, ["-0.1", "0 or more"]),
    ("sparsity: 0.5", "sparsity: 50", None, ["50", "0.5"]),
    ("sparsity: 0.5", "sparsity: half", None, ["'half'", "fraction"]),
    ("sparsity: 0.5", "sparsity: true", None, ["True"]),
    ("pruner: [magnitude, wanda]", "pruner: [wandaa]", None, ["'wandaa'", "sparsegpt", "'wanda'"]),
    ("pruner: [magnitude, wanda]", "pruner: [{name: wanda, lam: 1}]", None, ["'lam'", "wanda"]),
    ("pruner: [magnitude, wanda]", "pruner: {name: ria, a: high}", None, ["'high'", "ria"]),
    ("dataset: [farm, city]", "dataset: [farm, citty]", None, ["'citty'", "'city'", "wikipedia"]),
    ("size: 4", "size: 0", None, ["0", "greater than or equal to 1"]),
    ("size: 4", "size: many", None, ["'many'"]),
    ("size: 4", "size: []", None, ["empty list"]),
    ("size: 4", "size: [4, 4]", None, ["listed twice", "4"]),
    ("size: 4", "size: 100000", None, ["100000", "3,200,000", "tokens"]),
    ("seed: [0, 1]", "seed: [-1]", None, ["-1"]),
    ("seed: [0, 1]", f"seed: [{2**63}]", None, [str(2**63), "less than"]),
    (
        "seed: [0, 1]",
        "seed: [0, 1]\n  zip: [size, seed]",
        None,
        ["zip", "size (1)", "seed (2)"],
    ),
    ("seed: [0, 1]", "seed: [0, 1]\n  zip: [size, seqlen]", None, ["zip", "at least two"]),
    ("pattern: unstructured", "pattern: 2:2", None, ["'2:2'", "N:M"]),
    ("pattern: unstructured", "pattern: 4:2", None, ["'4:2'", "2:4"]),
    ("pattern: unstructured", "pattern: banana", None, ["'banana'", "unstructured"]),
    ("pattern: unstructured", "pattern: 124", None, ["124", "2:4"]),
    ("pattern: unstructured", "pattern: 1:4", "  sparsity:", ["0.5", "1:4", "0.75"]),
    ("pattern: unstructured", "pattern: 4:5", "cells:", ["4:5", "q_proj (32)"]),
    ("seqlen: 32", "seqlen: 32, folds: 1", "  seed:", ["2 seeds", "folds: 1"]),
    (
        "seqlen: 32",
        "seqlen: 32, sampler: stream, samplr: x",
        "calibration:",
        ["samplr", "'sampler'"],
    ),
    ("seqlen: 32", "seqlen: 129", "calibration:", ["129 tokens", "128 positions"]),
    ("limit: 6", "max_length: 500", None, ["500 tokens", "128 positions"]),
    ("perplexity: [farm]", "perplexity: [wikitex]", None, ["'wikitex'", "'wikitext'"]),
    ("perplexity: [farm]", "tasks: [arc_eazy]", None, ["'arc_eazy'", "arc_easy"]),
    (
        "perplexity: [farm]",
        "tasks: [{name: Quality, path: a.yaml}]",
        None,
        ["'Quality'", "column", "another name"],
    ),
    (
        "perplexity: [farm]",
        "tasks: [{name: PPL_farm, path: a.yaml}]\n  perplexity: [farm]",
        None,
        ["'PPL_farm'", "'farm'", "ppl_farm", "another name"],
    ),
    ("keep: none", "keep: everything", None, ["'everything'", "masks"]),
    ("keep: none", "mirror: /not/there", None, ["/not/there"]),
    ("keep: none", "exclude: [{prunner: wanda}]", None, ["prunner", "'pruner'"]),
    ("keep: none", "exclude: [{pruner: wanda, sparsity: 0.6}]", None, ["no combination", "0.5"]),
    ("keep: none", "exclude: [{pruner: wandaa}]", None, ["magnitude, wanda"]),
    ("keep: none", "exclude: [{sparsity: 0.5}]", None, ["leaves no cell"]),
    ("keep: none", "compare: {primary: ppl_city}", None, ["'ppl_city'", "ppl_farm"]),
    ("reference: farm", "reference: {other: farm}", None, ["other", "unknown model"]),
    ("reference: farm", "reference: barn", None, ["'barn'"]),
    ("name: tiny", "name: " + "a" * 101, None, ["at most 100"]),
    ("name: tiny", "name: a/b", None, ["'a/b'", "folder"]),
    ("name: tiny", "name: tiny\nname: again", None, ["duplicate key"]),
    ("name: tiny", "name: [", "", ["not readable as YAML"]),
    ("name: tiny", "\tname: tiny", None, ["not readable as YAML"]),
    ("name: tiny", "", "", ["name", "missing"]),
]


@pytest.mark.parametrize(("old", "new", "where", "said"), MISTAKES, ids=lambda x: str(x)[:40])
def test_a_mistake_is_refused(
    write_grid: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    where: str | None,
    said: list[str],
) -> None:
    grid = write_grid({old: new})
    assert launch.main([str(grid), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    start = new.split("\n")[-1] if where is None else where
    lines = [
        i
        for i, x in enumerate(grid.read_text().splitlines(), 1)
        if x.strip().startswith(start.strip())
    ]
    place = f"{grid}:{lines[0]}:" if start else str(grid)
    found = next((x for x in printed.splitlines() if all(word in x for word in said)), "")
    assert found.startswith(place), printed
    assert "Traceback" not in printed
    written = [p.name for p in (tmp_path / "out").glob("*")]
    assert written in ([], [".fingerprints"])


def test_all_mistakes_are_reported_at_once(
    write_grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = write_grid(
        {"size: 4": "size: 0", "dtype: float32": "dtype: x", "seed: [0, 1]": "seed: a"}
    )
    assert launch.main([str(grid), "--out", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_unknown_names_are_reported_together_with_missing_files(
    write_grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = write_grid({"city.jsonl": "none.jsonl", "perplexity: [farm]": "perplexity: [x]"})
    assert launch.main([str(grid), "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert "none.jsonl" in printed
    assert "'x'" in printed


@pytest.mark.parametrize("override", ["cells.size", "=3", "nothing.0.x=1", "cells.size=[1"])
def test_a_bad_override_is_refused(
    write_grid: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
) -> None:
    grid = write_grid()
    assert launch.main([str(grid), "--set", override, "--out", str(tmp_path)]) == 2
    assert override.split("=")[0].split(".")[0] in capsys.readouterr().err


def test_a_missing_file_and_pickled_weights_are_refused(
    write_grid: Callable[..., Path],
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert launch.main([str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"")
    assert launch.main([str(write_grid({str(tiny_model): str(pickled)})), "--dry-run"]) == 2
    assert "safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", b"{nope", "cannot be read"),
        ("config.json", b'{"model_type": "lama"}', "'lama'"),
        ("config.json", b"[]", "no causal language model"),
        ("config.json", b'{"model_type": "bert", "is_decoder": false}', "is_decoder"),
        ("config.json", b'{"model_type": "xlnet"}', "tokens see those that follow"),
        (
            "config.json",
            b'{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}',
            "the unquantised",
        ),
        ("model.safetensors", None, "damaged"),
        ("tokenizer.json", b"", "no tokenizer"),
    ],
)
def test_a_damaged_model_is_refused(
    write_grid: Callable[..., Path],
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: bytes | None,
    said: str,
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_model, damaged)
    if file == "tokenizer.json":
        (damaged / file).unlink()
    else:
        (damaged / file).write_bytes(content or (damaged / file).read_bytes()[:-1])
    assert launch.main([str(write_grid({str(tiny_model): str(damaged)})), "--dry-run"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "is_decoder": True},
        {"model_type": "bart", "is_encoder_decoder": True},
        {"model_type": "bart"},
        {"model_type": "llama", "is_decoder": False, "quantization_config": None},
    ],
    ids=str,
)
def test_decoders_are_no_encoders(
    tiny_model: Path, tmp_path: Path, config: dict[str, object]
) -> None:
    from jobs.plan.modelfiles import defect

    folder = tmp_path / "decoder"
    shutil.copytree(tiny_model, folder)
    (folder / "config.json").write_text(json.dumps(config))
    assert defect(folder) is None


def test_two_to_four_stays_two_to_four(write_grid: Callable[..., Path]) -> None:
    from jobs.plan.grid import load_grid

    flow = write_grid({"pattern: unstructured": "pattern: [unstructured, 2:4, 4:8]"})
    assert load_grid(flow)[0].cells[0].pattern == ["unstructured", "2:4", "4:8"]
    block = write_grid({"pattern: unstructured": "pattern:\n    - 2:4"})
    assert load_grid(block)[0].cells[0].pattern == ["2:4"]
