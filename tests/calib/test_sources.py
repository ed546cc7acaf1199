"""Files of every format are found and read, and what is wrong with them is said."""

from __future__ import annotations

import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from calib.datafiles import every_split
from calib.readers import read_rows, read_texts
from calib.sources import locate
from calib.spec import DatasetSpec

TEXTS = ["first text", "second\u2028text, of one line", 'third "text"\nof two lines']


def json_lines(texts: list[Any], column: str = "text") -> bytes:
    return "".join(
        json.dumps({column: t, "n": 1}, ensure_ascii=False) + "\n" for t in texts
    ).encode()


def parquet(texts: list[Any]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"n": [1] * len(texts), "text": texts}), stream)
    return stream.getvalue()


def csv_rows(texts: list[str], delimiter: str = ",") -> bytes:
    rows = ['"' + t.replace('"', '""') + '"' + delimiter + "1" for t in texts]
    return "\r\n".join([f"text{delimiter}n", *rows]).encode()


def read(folder: Path, *names: str, loader: str = "json", **more: Any) -> list[str]:
    spec = DatasetSpec(path=loader, data_files=list(names), **more)
    return list(read_texts(locate(spec, folder, None, None)))


LINES = json_lines(TEXTS)
FILES = {
    "a.jsonl": ("json", LINES),
    "a.jsonl.gz": ("json", gzip.compress(LINES)),
    "a.jsonl.zst": ("json", zstandard.compress(LINES)),
    "two-frames.jsonl.zst": (
        "json",
        zstandard.compress(json_lines(TEXTS[:1])) + zstandard.compress(json_lines(TEXTS[1:])),
    ),
    "with-mark.jsonl": ("json", b"\xef\xbb\xbf" + LINES),
    "list.json": ("json", json.dumps([{"text": t} for t in TEXTS], indent=1).encode()),
    "a.csv": ("csv", csv_rows(TEXTS)),
    "a.csv.gz": ("csv", gzip.compress(csv_rows(TEXTS))),
    "a.tsv": ("csv", csv_rows(TEXTS, "\t")),
    "a.parquet": ("parquet", parquet(TEXTS)),
}


@pytest.mark.parametrize("name", FILES)
def test_formats(name: str, tmp_path: Path) -> None:
    loader, content = FILES[name]
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path, name, loader=loader) == TEXTS


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_text_file_is_one_document(name: str, tmp_path: Path) -> None:
    content = b"one line\n\nanother line\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read(tmp_path, name, loader="text") == ["one line\n\nanother line\n"]


def test_many_files_and_globs_are_read_in_order_of_name_and_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/b.jsonl", "in/a.jsonl", "c.jsonl", "d.txt"):
        (tmp_path / name).write_bytes(json_lines([name]))
    assert read(tmp_path, "c.jsonl", "in/*.jsonl", "in/a.jsonl") == [
        "c.jsonl",
        "in/a.jsonl",
        "in/b.jsonl",
    ]
    assert read(tmp_path, "**/*.jsonl", shards=2) == ["c.jsonl", "in/a.jsonl"]


def test_a_pattern_may_be_absolute(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    assert read(tmp_path / "elsewhere", f"{tmp_path}/*.jsonl") == TEXTS


def test_the_folder_of_the_grid_is_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "grids [old]"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(LINES)
    assert read(folder, "*.jsonl") == TEXTS


def test_a_name_with_brackets_means_itself(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_bytes(LINES)
    assert read(tmp_path, "a[1].jsonl") == TEXTS


def test_no_match_says_where_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_bytes(LINES)
    with pytest.raises(FileNotFoundError) as error:
        read(tmp_path, "text/*.jsonl")
    assert f"no file matches {tmp_path}/text/*.jsonl" in str(error.value)
    assert "has: texts.jsonl" in str(error.value)


# -- rows


def test_empty_rows_stay_rows_and_are_no_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(["a", None, "", " \n"]) + b'{"n": 1}\n\n')
    source = locate(DatasetSpec(path="json", data_files=["a.jsonl"]), tmp_path, None, None)
    assert list(read_rows(source)) == ["a", "", "", " \n", ""]
    assert list(read_texts(source)) == ["a"]


def test_texts_that_look_like_other_types_stay_texts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nNA\nnull\n12\n2020-01-01\n")
    (tmp_path / "a.jsonl").write_bytes(json_lines(["2020-01-01", "12"]))
    assert read(tmp_path, "a.csv", loader="csv") == ["NA", "null", "12", "2020-01-01"]
    assert read(tmp_path, "a.jsonl") == ["2020-01-01", "12"]


def test_columns_that_are_not_asked_for_may_hold_anything(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "m": 1}\n{"text": "b", "m": {"x": []}}\n')
    assert read(tmp_path, "a.jsonl") == ["a", "b"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_missing_column_is_named_beside_those_there_are(name: str, tmp_path: Path) -> None:
    loader, content = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="no column 'content'") as error:
        read(tmp_path, name, loader=loader, text="content")
    assert name in str(error.value)
    assert "it has: " in str(error.value)
    assert "set `text:`" in str(error.value)


@pytest.mark.parametrize("value", [0, False, 1.5, [], {"a": 1}])
def test_a_column_without_text_is_refused(value: Any, tmp_path: Path) -> None:
    (tmp_path / "good.jsonl").write_bytes(LINES)
    (tmp_path / "odd.jsonl").write_bytes(json_lines(["a", value]))
    with pytest.raises(ValueError, match=r"odd\.jsonl: column 'text' of row 2 is no text but a"):
        read(tmp_path, "*.jsonl")


# -- damaged files


@pytest.mark.parametrize(
    ("name", "loader", "content"),
    [
        ("bad.jsonl", "json", b'{"text": "fine"}\n{"text": "caf\xe9"}\n'),
        ("bad.json", "json", b'[{"text": "caf\xe9"}]'),
        ("bad.csv", "csv", b"text\ncaf\xe9\n"),
        ("bad.txt", "text", b"caf\xe9"),
        ("bad.jsonl.gz", "json", gzip.compress(b'{"text": "caf\xe9"}\n')),
    ],
)
def test_bytes_that_are_not_utf8_name_their_file(
    name: str, loader: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / f"a{name}").write_bytes(FILES["a.csv"][1] if loader == "csv" else LINES)
    if name == "bad.json":
        (tmp_path / f"a{name}").write_bytes(FILES["list.json"][1])
    if name.endswith("gz"):
        (tmp_path / f"a{name}").write_bytes(gzip.compress(LINES))
    with pytest.raises(ValueError, match="cannot read ") as error:
        read(tmp_path, f"*{name}", loader=loader)
    assert f"/{name}: " in str(error.value)
    assert "UTF-8" in str(error.value)


def test_the_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES + b"not json\n")
    with pytest.raises(ValueError, match=r"a\.jsonl: line 4 is not one JSON object"):
        read(tmp_path, "a.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_file_that_ends_early_is_refused(name: str, tmp_path: Path) -> None:
    loader, content = FILES[name]
    (tmp_path / name).write_bytes(content[:-9])
    with pytest.raises(ValueError, match="cannot read ") as error:
        read(tmp_path, name, loader=loader)
    assert name in str(error.value)


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\\ud800b \\ud83d\\ude00"}\n')
    assert read(tmp_path, "a.jsonl") == ["a\ufffdb \U0001f600"]


# -- repositories

CARD = """---
license: other
configs:
- config_name: small
  data_files:
  - split: train
    path: small/part-*
  - split: test
    path: [small/held.jsonl, small/out.jsonl]
- config_name: large
  default: true
  data_files: large/**/*.jsonl
---
# A card --- with dashes
"""


def repository(mirror: Path, card: str | None, *names: str) -> None:
    for name in names:
        file = mirror / "owner" / "name" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(json_lines([name]))
    if card is not None:
        (mirror / "owner" / "name" / "README.md").write_text(card)


def from_mirror(mirror: Path, **more: Any) -> list[str]:
    spec = DatasetSpec(path="owner/name", **more)
    return list(read_texts(locate(spec, mirror / "grids", mirror, None)))


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    small = ["small/part-0.jsonl", "small/part-1.jsonl", "small/held.jsonl", "small/out.jsonl"]
    repository(tmp_path, CARD, *small, "large/a.jsonl", "large/deep/er/b.jsonl", "other.jsonl")
    return tmp_path


def test_a_card_declares_the_files_of_a_configuration(declared: Path) -> None:
    parts = ["small/part-0.jsonl", "small/part-1.jsonl"]
    assert from_mirror(declared, name="small") == parts
    assert from_mirror(declared, name="small", split="test") == [
        "small/held.jsonl",
        "small/out.jsonl",
    ]
    assert from_mirror(declared, name="small", shards=1) == parts[:1]


def test_the_default_configuration_is_taken_where_none_is_named(declared: Path) -> None:
    assert from_mirror(declared) == ["large/a.jsonl", "large/deep/er/b.jsonl"]


def test_data_files_override_the_card(declared: Path) -> None:
    assert from_mirror(declared, data_files=["oth*.jsonl"]) == ["other.jsonl"]


def test_a_split_that_the_card_lacks_is_refused(declared: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        from_mirror(declared, split="test")
    message = str(error.value)
    assert "owner/name has no data files for configuration 'default', split 'test'" in message
    assert "its card declares: small (train, test), large (train)" in message
    assert "set name, split or data_files" in message


def test_without_a_card_the_paths_tell_configuration_and_split(tmp_path: Path) -> None:
    names = ["en/c4-train.0.jsonl", "en/c4-validation.0.jsonl", "fr/train-0.jsonl"]
    repository(tmp_path, None, *names, "en/constraints.jsonl", "dataset_infos.json")
    assert from_mirror(tmp_path, name="en") == ["en/c4-train.0.jsonl"]
    assert from_mirror(tmp_path) == ["en/c4-train.0.jsonl", "fr/train-0.jsonl"]
    assert from_mirror(tmp_path, name="en", split="validation") == ["en/c4-validation.0.jsonl"]


@pytest.mark.parametrize("card", [None, "---\nlicense: cc-by-4.0\n---\n", "---\nbad: [\n---\n"])
def test_where_no_path_names_a_split_all_files_are_train(card: str | None, tmp_path: Path) -> None:
    repository(tmp_path, card, "shard_1/a.jsonl", "shard_0/a.jsonl", "dataset_infos.json")
    assert from_mirror(tmp_path) == ["shard_0/a.jsonl", "shard_1/a.jsonl"]
    with pytest.raises(FileNotFoundError, match=r"its data files: shard_0/a\.jsonl, shard_1"):
        from_mirror(tmp_path, split="test")


def test_a_folder_is_a_repository_too(tmp_path: Path) -> None:
    repository(tmp_path, None, "train.jsonl")
    spec = DatasetSpec(path="owner/name")
    assert list(read_texts(locate(spec, tmp_path, None, None))) == ["train.jsonl"]


@pytest.mark.parametrize(
    ("names", "shards", "lacks"),
    [
        (["train-00000-of-00003.jsonl"], 3, "train-00001-of-00003, train-00002-of-00003"),
        (["train-00000-of-00003.jsonl"], None, "train-00001-of-00003, train-00002-of-00003"),
        (["train-00001-of-00002-ab12.jsonl", "train-00002-of-00002-cd34.jsonl"], None, None),
        (["train-00000-of-00003.jsonl"], 1, None),
        (["train-00001-of-00003.jsonl"], 1, "train-00000-of-00003"),
        (["part-a.jsonl"], 3, "it has 1 of 3"),
        (["part-a.jsonl"], None, None),
    ],
)
def test_a_part_of_a_repository_is_not_taken_for_the_whole(
    names: list[str], shards: int | None, lacks: str | None, tmp_path: Path
) -> None:
    repository(tmp_path, None, *names)
    if lacks is None:
        assert from_mirror(tmp_path, shards=shards) == names
        return
    with pytest.raises(FileNotFoundError, match=re.escape(lacks)):
        from_mirror(tmp_path, shards=shards)


def test_every_split_of_a_configuration() -> None:
    names = ["README.md", "a/train.csv", "a/test.csv", "b/test.csv", "dataset_infos.json", "x.pdf"]
    card = """---
configs:
- {config_name: a, data_files: [{split: train, path: a/train.csv}, {split: test, path: a/te*}]}
- {config_name: b, data_dir: b}
---
"""
    described = ["README.md", "dataset_infos.json"]
    wanted = {
        "a": ["a/test.csv", "a/train.csv"],
        # datasets looks at the first configuration whatever is asked for
        "b": ["a/test.csv", "a/train.csv", "b/test.csv"],
    }
    for config, files in wanted.items():
        assert every_split(names, card, config, None) == sorted(described + files)
    assert every_split(names, "", "b", None) == sorted([*described, "b/test.csv"])
    assert every_split(names, "", None, ["b/*"]) == sorted([*described, "b/test.csv"])
