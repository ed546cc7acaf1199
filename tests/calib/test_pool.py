"""A pool is the same whatever the order of files and rows; its tokens lie end to end."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from calib.pool import Pool, Tokens, document_id
from calib.readers import read_texts
from calib.sources import locate
from calib.spec import DatasetSpec

TEXTS = [f"text number {i}" for i in range(50)]


def shuffled(texts: list[str], seed: int) -> list[str]:
    return random.Random(seed).sample(texts, len(texts))


def characters(text: str) -> list[int]:
    return list(text.encode())


def tokenize(texts: list[str]) -> list[list[int]]:
    return [characters(text) for text in texts]


def test_a_document_id_is_the_hash_of_its_text() -> None:
    assert document_id("Grüße, world\n") == "3288f19c1d86e7bb73019b342a261535"
    assert document_id("\ud800") != document_id("?")


def test_the_order_of_files_and_rows_changes_nothing(tmp_path: Path) -> None:
    pools = []
    for turn in range(3):
        texts = shuffled(TEXTS, turn)
        for part in range(3):
            lines = [json.dumps({"text": text}) + "\n" for text in texts[part::3]]
            (tmp_path / f"{turn}-{part}.jsonl").write_text("".join(lines))
        spec = DatasetSpec(path="json", data_files=[f"{turn}-*.jsonl"])
        pools.append(Pool.of(read_texts(locate(spec, tmp_path, None, None)), 20))
    assert pools[0] == pools[1] == pools[2]


def test_documents_are_in_the_order_of_their_ids() -> None:
    pool = Pool.of(TEXTS, 100)
    assert pool.ids == sorted(pool.ids)
    assert pool.ids == [document_id(text) for text in pool.texts]
    assert sorted(pool.texts) == sorted(TEXTS)


@pytest.mark.parametrize("most", [1, 7, 25, 26, 49, 50, 51])
def test_max_documents_keeps_the_lowest_ids(most: int) -> None:
    for seed in range(5):
        pool = Pool.of(shuffled(TEXTS * 3, seed), most)
        assert pool.ids == sorted(map(document_id, TEXTS))[:most]


def test_no_document_is_there_twice() -> None:
    assert Pool.of([*TEXTS, *TEXTS], 1000) == Pool.of(TEXTS, 1000)


def test_a_pool_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    pool = Pool.of([*TEXTS, "line\u2028separator\r\nand \x00 and \U0001f600"], 100)
    pool.save(tmp_path)
    assert Pool.load(tmp_path) == pool


# -- mixtures


def made(name: str, documents: int, length: int) -> Pool:
    return Pool.of([f"{name}{i}".ljust(length, ".") for i in range(documents)], documents)


def share(pool: Pool, first: str) -> float:
    own = sum(len(text) for text in pool.texts if text.startswith(first))
    return own / sum(map(len, pool.texts))


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.7, 3.0])
def test_the_shares_of_a_mixture_are_its_weights(weight: float) -> None:
    pools = {"a": made("a", 300, 100), "b": made("b", 300, 40)}
    mixed = Pool.mix(pools, {"a": weight, "b": 1 - weight if weight < 1 else 1.0}, 10**9)
    wanted = weight if weight < 1 else weight / (1 + weight)
    assert share(mixed, "a") == pytest.approx(wanted, abs=0.01)


def test_a_mixture_ends_where_a_part_runs_out() -> None:
    mixed = Pool.mix({"a": made("a", 5, 100), "b": made("b", 900, 10)}, {"a": 1.0, "b": 1.0}, 10**9)
    assert sum(text.startswith("a") for text in mixed.texts) == 5
    assert share(mixed, "a") == pytest.approx(0.5, abs=0.02)


def test_the_order_in_which_parts_are_named_does_not_matter() -> None:
    pools = {"a": made("a", 30, 100), "b": made("b", 30, 40)}
    weights = {"a": 0.3, "b": 0.7}
    backwards = Pool.mix(dict(reversed(pools.items())), dict(reversed(weights.items())), 30)
    assert Pool.mix(pools, weights, 30) == backwards
    assert len(backwards.ids) == 30


# -- tokens


def test_tokens_hold_every_document_after_its_separator() -> None:
    pool = Pool.of(TEXTS, 100)
    tokens = Tokens.of(pool, tokenize, " ")
    assert tokens.ids.tolist() == characters("".join(" " + text for text in pool.texts))
    assert tokens.ends.tolist()[-1] == len(tokens.ids)
    assert tokens.documents == pool.ids


def test_tokens_come_back_as_they_were_saved(tmp_path: Path) -> None:
    tokens = Tokens.of(Pool.of(TEXTS, 100), tokenize, "")
    tokens.save(tmp_path)
    again = Tokens.load(tmp_path, tokens.documents)
    assert again.ids.tolist() == tokens.ids.tolist()
    assert again.ends.tolist() == tokens.ends.tolist()


def test_folds_share_no_document_and_are_everything_together() -> None:
    pool = Pool.of(TEXTS, 100)
    tokens = Tokens.of(pool, tokenize, " ")
    folds = [tokens.fold(i, 3) for i in range(3)]
    assert sorted(d for fold in folds for d in fold.documents) == pool.ids
    assert sum(len(fold.ids) for fold in folds) == len(tokens.ids)
    for i, fold in enumerate(folds):
        texts = [pool.texts[pool.ids.index(d)] for d in fold.documents]
        assert fold.ids.tolist() == characters("".join(" " + text for text in texts))
        assert {int(d, 16) % 3 for d in fold.documents} == {i}


def test_a_fold_may_be_empty() -> None:
    tokens = Tokens.of(Pool.of(["alone"], 1), tokenize, "")
    empty = next(f for i in range(2) if not (f := tokens.fold(i, 2)).documents)
    assert (len(empty.ids), len(empty.ends)) == (0, 0)
