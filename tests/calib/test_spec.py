"""What a grid file may say of a dataset."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from calib.spec import DatasetSpec, builtin_datasets


@pytest.mark.parametrize(
    "given",
    [{}, {"path": "owner/name", "mixture": {"a": 1.0}}, {"path": "x", "generate": {"from": "a"}}],
)
def test_a_dataset_is_of_exactly_one_kind(given: dict[str, Any]) -> None:
    with pytest.raises(
        ValidationError, match="exactly one of 'path', 'mixture', 'generate', 'select'"
    ):
        DatasetSpec.model_validate(given)


def test_local_files_need_data_files() -> None:
    with pytest.raises(ValidationError, match="path: json needs data_files"):
        DatasetSpec(path="json")


def test_one_data_file_may_stand_without_a_list() -> None:
    assert DatasetSpec.model_validate({"path": "json", "data_files": "a.jsonl"}).data_files == [
        "a.jsonl"
    ]


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="txt"):
        DatasetSpec.model_validate({"path": "owner/name", "txt": "content"})


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0}, {"a": math.nan}, {"a": math.inf}])
def test_weights_of_a_mixture_are_positive_numbers(weights: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="weights of a mixture"):
        DatasetSpec(mixture=weights)


@pytest.mark.parametrize(
    ("key", "value"),
    [("drop_top_perplexity", 1.0), ("temperature", 0.0), ("top_p", 0.0), ("seed", -1)],
)
def test_settings_of_generation_have_limits(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=key):
        DatasetSpec.model_validate({"generate": {"from": "a", key: value}})


def test_from_bos_alone_is_read_again_as_it_was_written() -> None:
    generate = {"from": None, "temperature": {"start": 2.0, "end": 0.6, "tokens": 10}}
    spec = DatasetSpec.model_validate({"generate": generate})
    assert spec.generate is not None
    assert spec.generate.prefix == 0
    assert DatasetSpec.model_validate_json(spec.model_dump_json(by_alias=True)) == spec


def test_parents_are_the_datasets_that_one_is_made_from() -> None:
    assert DatasetSpec(mixture={"a": 1.0, "b": 2.0}).parents == ["a", "b"]
    assert DatasetSpec.model_validate({"generate": {"from": "a"}}).parents == ["a"]
    assert DatasetSpec(path="owner/name").parents == []


def test_the_built_in_datasets_are_read() -> None:
    known = builtin_datasets()
    assert {"c4", "wikipedia", "slimpajama", "dclm", "synthetic"} <= known.keys()
    assert known["synthetic"].parents == ["wikipedia"]
