"""The demo's text is the same everywhere, its corpora share nothing, and its model is a model."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from jobs.demo import documents
from jobs.demo.questions import continuation_questions, order_questions
from jobs.demo.split import CORPORA, split
from jobs.demo.text import FILES, collect

MODEL = Path(documents.__file__).parent / "model"
SMALL = ("python", "click", "no-such-distribution")
ENGLISH = (
    "Returns the number of elements in the array. If the input is empty, an error is raised. "
    "The default is to use all of the available values, unless the argument is given. "
    "This function is used to compute the mean of the values along the given axis."
)


def rows(folder: Path, name: str) -> list[dict]:
    lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collect(tmp_path_factory.mktemp("artefacts"), SMALL)


def test_same_text_gives_the_same_folder(folder: Path, tmp_path: Path) -> None:
    again = collect(tmp_path, tuple(reversed(SMALL)))
    assert again.name == folder.name
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in FILES)


def test_a_second_call_reads_one_pointer(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    began = time.monotonic()
    assert collect(folder.parent, SMALL) == folder
    assert time.monotonic() - began < 0.3
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_two_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(collect(tmp_path, ("python",))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert {path.name for path in tmp_path.iterdir()} == {"demo-inputs", found[0].name}
    assert len(list((tmp_path / "demo-inputs").iterdir())) == 1


def test_a_purged_file_is_made_again(folder: Path) -> None:
    kept = (folder / "manuals.jsonl").read_bytes()
    (folder / "manuals.jsonl").unlink()
    assert collect(folder.parent, SMALL) == folder
    assert (folder / "manuals.jsonl").read_bytes() == kept


def test_the_manifest_says_what_is_missing(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["missing"] == ["no-such-distribution"]
    assert set(manifest["sources"]) == {"python", "click"}
    for name, figures in manifest["files"].items():
        assert figures["documents"] == len(rows(folder, name))
        assert figures["bytes"] == (folder / f"{name}.jsonl").stat().st_size


def test_corpora_share_no_document_and_few_word_runs(folder: Path) -> None:
    texts = {
        name: [row["text"] for row in rows(folder, name)] for name in CORPORA if name != "questions"
    }
    everything = [text for part in texts.values() for text in part]
    assert len(everything) == len(set(everything))
    assert all(texts.values())
    known = {run for text in texts["pretraining"] for run in word_runs(text)}
    heldout = {run for text in texts["heldout"] for run in word_runs(text)}
    assert len(heldout & known) < 0.1 * len(heldout)


def word_runs(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + 13]) for i in range(len(words) - 12)}


def test_documents_are_clean(folder: Path) -> None:
    for name in ("pretraining", "docstrings", "heldout", "manuals"):
        for row in rows(folder, name):
            assert documents.SHORTEST <= len(row["text"]) <= documents.LONGEST
            assert not any(line.startswith(">>>") for line in row["text"].split("\n"))
            assert documents.is_english(row["text"])
    assert '"""' not in "".join(row["text"] for row in rows(folder, "code"))


def test_prose_keeps_sentences_alone() -> None:
    raw = """Return the :class:`~a.b.Thing` of x,
    wrapped over lines.

    ======  =====
    name    value
    ======  =====

    >>> thing(1)
    [1]

    .. note:: gone
    """
    assert documents.prose(raw) == "Return the a.b.Thing of x, wrapped over lines.\nname value"


def test_split_does_not_depend_on_order() -> None:
    some = [
        documents.Document("docstring", f"package/file{i}.py", f"text number {i}")
        for i in range(200)
    ]
    assert split(some) == split([*reversed(some), *some])


def test_questions_are_well_formed(folder: Path) -> None:
    for name, size in (("continuation", 4), ("order", 2)):
        questions = rows(folder, name)
        assert len(questions) >= 5
        assert {row["answer"] for row in questions} <= set(range(size))
        assert len({row["answer"] for row in questions}) > 1
        assert all(len(set(row["choices"])) == size for row in questions)
    for row in rows(folder, "order"):
        assert sorted(row["choices"][0].split()) == sorted(row["choices"][1].split())
    for row in rows(folder, "continuation"):
        assert len({len(choice.split()) for choice in row["choices"]}) == 1


def test_too_little_text_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="install the project's dependencies"):
        continuation_questions([])
    assert order_questions([]) == []
    with pytest.raises(ValueError, match="held-out passages"):
        collect(tmp_path, ("no-such-distribution",))
    assert not list(tmp_path.iterdir())


def test_the_shipped_model_is_small_and_knows_english() -> None:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from jobs.demo.train import perplexity

    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 8 * 2**20
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    assert tokenizer.decode(tokenizer(ENGLISH)["input_ids"]) == ENGLISH
    ids = np.array([tokenizer.bos_token_id, *tokenizer(ENGLISH)["input_ids"]])
    assert perplexity(model, [ids], len(ids)) < 40  # of 4,096 tokens
    widths = {part.weight.shape for part in model.modules() if isinstance(part, torch.nn.Linear)}
    assert all(width % 32 == 0 for shape in widths for width in shape)
