"""Rows become documents by column, by template, or as questions; pools of them are stable."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from calib.pool import Document, Pool
from calib.readers import read_documents, read_pool, read_texts
from calib.sources import locate
from calib.spec import DatasetSpec, builtin_datasets

ROWS = [
    {"question": f"What is {i} + 1?", "answer": f"Add one to {i}. #### {i + 1}"} for i in range(12)
]
WORKED = builtin_datasets()["gsm8k"].questions


def write(folder: Path, rows: list[dict[str, Any]], name: str = "a.jsonl") -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def spec(**more: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({"path": "json", "data_files": "*.jsonl"} | more)


def pool(folder: Path, **more: Any) -> Pool:
    given = spec(**more)
    return read_pool(locate(given, folder, None, None), given)


def questions(form: str, examples: int = 1) -> dict[str, Any]:
    assert WORKED is not None
    return WORKED.model_dump() | {"form": form, "examples": examples}


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("zero_shot", "Question: What is 3 + 1?"),
        ("in_context", "Question: What is 3 + 1?\nAnswer: 4"),
        ("chain_of_thought", "Question: What is 3 + 1?\nAdd one to 3.\nAnswer: 4"),
    ],
)
def test_forms_of_a_question(form: str, text: str, tmp_path: Path) -> None:
    write(tmp_path, ROWS[3:4])
    assert pool(tmp_path, questions=questions(form)).texts == [text]


def test_examples_stand_together_whatever_the_order_of_rows(tmp_path: Path) -> None:
    found = []
    for turn in range(3):
        write(tmp_path, random.Random(turn).sample(ROWS, len(ROWS)))
        found.append(pool(tmp_path, questions=questions("in_context", 5)))
    assert found[0] == found[1] == found[2]
    assert len(found[0].texts) == 2  # of 12, two are left over
    assert all(text.count("Question: ") == 5 for text in found[0].texts)
    assert all(len(text.split("\n\n")) == 5 for text in found[0].texts)


def test_max_documents_counts_documents_not_rows(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    assert len(pool(tmp_path, questions=questions("zero_shot", 3), max_documents=2).ids) == 2


def test_the_template_of_alpaca(tmp_path: Path) -> None:
    template = builtin_datasets()["alpaca"].template
    given = spec(template=template)
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3", "text": "unused"},
        {"instruction": "Greet.", "input": "", "output": "Hello"},
        {"instruction": "Ask.", "input": None, "output": "Who?"},
    ]
    write(tmp_path, rows)
    assert list(read_texts(locate(given, tmp_path, None, None))) == [
        "Instruction: Add.\nInput: 1 2\nResponse: 3",
        "Instruction: Greet.\nResponse: Hello",
        "Instruction: Ask.\nResponse: Who?",
    ]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ nothing }}", "no column 'nothing'; it has: question, answer"),
        ("{{ question", "is no Jinja template"),
        ("{{ answer.split('@@')[1] | trim }}", "fails on a row"),
        ("{{ question.__class__.__mro__ }}", "fails on a row"),
    ],
)
def test_templates_that_do_not_fit_are_refused(template: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    with pytest.raises(ValueError, match="cannot read") as error:
        pool(tmp_path, template=template)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"questions": {"form": "chain_of_thought"}}, "needs `rationale`"),
        ({"questions": {"form": "few_shot"}}, "form"),
        ({"questions": {}, "template": "x"}, "not both"),
        ({"path": None, "mixture": {"c4": 1.0}, "template": "x"}, "is for a `path`"),
        ({"path": None, "select": {"from": "c4", "by": "best", "documents": 1}}, "allowed: farth"),
    ],
)
def test_sections_that_make_no_sense_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(**more)


@pytest.mark.parametrize("texts", [[], [""], [" \n", "", "\t"]])
def test_no_text_at_all_is_said(texts: list[str], tmp_path: Path) -> None:
    write(tmp_path, [{"text": text} for text in texts])
    with pytest.raises(ValueError, match=r"no row has any text, in 1 file\(s\): .*a.jsonl"):
        pool(tmp_path)


# -- addresses


def test_domains_go_with_the_documents(tmp_path: Path) -> None:
    rows = [
        {"text": "one", "url": "https://www.Example.org/a?b"},
        {"text": "two", "url": "http://user@sub.example.org:80/"},
        {"text": "three", "url": None},
        {"text": "four"},
        {"text": "five", "url": "no address"},
        {"text": "six", "url": "http://[broken"},
    ]
    write(tmp_path, rows)
    made = pool(tmp_path)
    (tmp_path / "stored").mkdir()
    made.save(tmp_path / "stored")
    for found in (made, Pool.load(tmp_path / "stored")):
        assert dict(zip(found.texts, found.domains, strict=True)) == {
            "one": "example.org", "two": "sub.example.org",
            "three": "", "four": "", "five": "", "six": "",
        }  # fmt: skip


def test_of_equal_texts_the_first_address_by_name_stays() -> None:
    twins = [Document("a", "http://z.org"), Document("a"), Document("a", "http://b.org")]
    for turn in range(4):
        found = Pool.collect(random.Random(turn).sample(twins, 3), 10)
        assert list(found.domains) == ["b.org"]


def test_the_column_of_addresses_may_have_another_name(tmp_path: Path) -> None:
    write(tmp_path, [{"text": "x", "page": "http://a.b/c"}])
    documents = list(read_documents(locate(spec(url="page"), tmp_path, None, None)))
    assert documents == [Document("x", "http://a.b/c")]
    assert list(pool(tmp_path).domains) == []
