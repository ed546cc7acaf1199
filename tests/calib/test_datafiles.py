"""The built-in datasets read the files that their repositories have, as the hub lists them."""

from __future__ import annotations

import pytest

from calib.datafiles import loader_of, select_files
from calib.spec import builtin_datasets

CARD = """\
---
configs:
- config_name: default
  data_files: [{split: train, path: data/*/*}]
- config_name: sample-10BT
  data_files: [{split: train, path: sample/10BT/*}]
- config_name: sample-100BT
  data_files: [{split: train, path: sample/100BT/*}]
---
"""

REPOSITORIES: dict[str, tuple[str, list[str], list[str]]] = {
    "c4": (
        "",
        ["en.noclean/c4-train.00000-of-07168.json.gz", "en/c4-train.00001-of-01024.json.gz",
         "en/c4-train.00000-of-01024.json.gz", "en/c4-validation.00000-of-00008.json.gz"],
        ["en/c4-train.00000-of-01024.json.gz"],
    ),
    "wikipedia": (
        "",
        ["20231101.de/train-00000-of-00020.parquet", "20231101.en/train-00001-of-00041.parquet",
         "20231101.en/train-00000-of-00041.parquet"],
        ["20231101.en/train-00000-of-00041.parquet"],
    ),
    "slimpajama": (
        "",
        ["test/chunk1/example_holdout_0.jsonl.zst", "train/chunk10/example_train_0.jsonl.zst",
         "train/chunk1/example_train_0.jsonl.zst", "validation/chunk1/example_holdout_1.jsonl.zst"],
        ["train/chunk1/example_train_0.jsonl.zst"],
    ),
    "dclm": (
        "",
        ["global-shard_02_of_10/local-shard_0_of_10/shard_00000000_processed.jsonl.zst",
         "global-shard_01_of_10/local-shard_0_of_10/shard_00000000_processed.jsonl.zst"],
        ["global-shard_01_of_10/local-shard_0_of_10/shard_00000000_processed.jsonl.zst"],
    ),
    "redpajama": (
        "",
        ["RedPajama-Data-1T-Sample.py", "arxiv_sample.jsonl", "book_sample.jsonl",
         "cc_2019-30_sample.jsonl", "wikipedia_sample.jsonl"],
        ["arxiv_sample.jsonl", "book_sample.jsonl", "cc_2019-30_sample.jsonl",
         "wikipedia_sample.jsonl"],
    ),
    "pile": (
        "",
        ["dataset_infos.json", "data/train-00000-of-00001-4746b8785c874cc7.parquet"],
        ["data/train-00000-of-00001-4746b8785c874cc7.parquet"],
    ),
    "openwebtext": (
        "",
        ["plain_text/train-00001-of-00080.parquet", "plain_text/train-00000-of-00080.parquet"],
        ["plain_text/train-00000-of-00080.parquet"],
    ),
    "fineweb-edu": (
        CARD,
        ["data/CC-MAIN-2013-20/train-00000-of-00014.parquet", "sample/100BT/000_00000.parquet",
         "sample/10BT/001_00000.parquet", "sample/10BT/000_00000.parquet"],
        ["sample/10BT/000_00000.parquet"],
    ),
    "wikitext": (
        "",
        ["wikitext-103-raw-v1/train-00000-of-00002.parquet",
         "wikitext-2-raw-v1/test-00000-of-00001.parquet",
         "wikitext-2-raw-v1/train-00000-of-00001.parquet"],
        ["wikitext-2-raw-v1/train-00000-of-00001.parquet"],
    ),
    "alpaca": (
        "",
        ["data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"],
        ["data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"],
    ),
    "gsm8k": (
        "",
        ["main/test-00000-of-00001.parquet", "main/train-00000-of-00001.parquet",
         "socratic/train-00000-of-00001.parquet"],
        ["main/train-00000-of-00001.parquet"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_built_in_dataset_reads_its_repository(name: str) -> None:
    card, names, expected = REPOSITORIES[name]
    assert select_files(builtin_datasets()[name], names, card) == expected


def test_every_built_in_repository_is_here() -> None:
    paths = {
        spec.path: name
        for name, spec in reversed(builtin_datasets().items())
        if spec.path is not None and "/" in spec.path
    }
    assert set(paths.values()) == set(REPOSITORIES)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst", "jsonl.zstd", "json.gz"])
def test_compressed_lines_have_a_loader(ending: str) -> None:
    assert loader_of(f"shard_0_processed.{ending}") == "json"
