"""Signatures equal datasketch's, value for value; sketches of shards merge into the whole's."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasketch
import numpy as np
import pytest

from calib import minhash, sketch
from calib.minhash import Sketch, as_datasketch, permutations, signatures
from calib.shingles import gram_hashes, word_hashes

COUNTS = [0, 5, 0, 1, 300, 0, 0, 77, 2, 0]


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, sum(COUNTS), np.uint64)


@pytest.mark.parametrize("scheme", ["affine32", "affine64"])
@pytest.mark.parametrize("block", [64, 512, 2**17])
@pytest.mark.parametrize(("num_perm", "seed"), [(1, 1), (128, 1), (130, 7)])
def test_signatures_are_those_of_datasketch(
    scheme: Any, block: int, num_perm: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minhash, "BLOCK_BYTES", block)
    hashes = values()
    found = signatures(hashes, np.array(COUNTS), num_perm, seed, scheme)
    mask = 0xFFFFFFFF if scheme == "affine32" else 2**64 - 1
    for signature, part in zip(found, np.split(hashes, np.cumsum(COUNTS)[:-1]), strict=True):
        plain = datasketch.MinHash(num_perm, seed, hashfunc=lambda v: v & mask, scheme=scheme)
        plain.update_batch(part.tolist())
        assert np.array_equal(plain.hashvalues, signature)
        assert plain.hashvalues.dtype == signature.dtype
        assert as_datasketch(signature, seed).jaccard(plain) == 1


def test_no_sets_and_no_values() -> None:
    nothing = np.zeros(0, np.uint64)
    assert signatures(nothing, np.zeros(0, np.int64), 16).shape == (0, 16)
    assert (signatures(nothing, np.array([0, 0]), 16) == 2**32 - 1).all()


def test_datasketch_indexes_find_by_our_signatures() -> None:
    texts = [" ".join(random.Random(i).choices("abcdefghij", k=60)) for i in range(50)]
    near = texts[7].replace("a", "k", 1)
    found = signatures(*gram_hashes(*word_hashes([*texts, near]), 3), 128)
    index = datasketch.MinHashLSH(threshold=0.5, num_perm=128)
    for i, signature in enumerate(found[:-1]):
        index.insert(i, as_datasketch(signature))
    assert index.query(as_datasketch(found[-1])) == [7]


def test_permutations_are_of_the_scheme() -> None:
    factors, terms = permutations(64)
    assert (factors % 2 == 1).all()
    assert factors.dtype == terms.dtype == np.uint32


# -- sketches


def lines(seed: int, count: int) -> list[str]:
    choose = random.Random(seed)
    return [" ".join(f"w{choose.randrange(60)}" for _ in range(30)) for _ in range(count)]


def test_sketches_of_shards_merge_into_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = lines(0, 90)
    whole = sketch.sketch(texts, permutations=256)
    monkeypatch.setattr(sketch, "CHARACTERS_AT_ONCE", 500)
    parts = [sketch.sketch(texts[i : i + 30], permutations=256) for i in (0, 30, 60)]
    merged = parts[2] | parts[0] | parts[1]
    assert np.array_equal(merged.signature, whole.signature)
    assert (merged.units, merged.grams) == (whole.units, whole.grams) == (2700, 90 * 28)


def test_the_estimate_is_within_three_standard_errors_of_planted_overlaps() -> None:
    rng = np.random.default_rng(1)
    for jaccard in (0.008, 0.1, 0.5, 0.9):
        pool = rng.integers(0, 2**64, 20_000, np.uint64)
        shared = round(20_000 * jaccard)
        half = (20_000 - shared) // 2
        one, other = pool[: shared + half], np.concatenate([pool[:shared], pool[shared + half :]])
        k = 16_384 if jaccard < 0.01 else 4096
        found = Sketch.of(one, k).jaccard(Sketch.of(other, k))
        true = shared / len(np.union1d(one, other))
        assert abs(found - true) < 3 * (true * (1 - true) / k) ** 0.5


def test_sketches_that_do_not_compare_are_refused() -> None:
    one = Sketch.of(values(), 64)
    for other in (Sketch.of(values(), 65), Sketch.of(values(), 64, seed=2)):
        with pytest.raises(ValueError, match="make both with the same"):
            one.jaccard(other)
        with pytest.raises(ValueError, match="make both with the same"):
            one | other


def test_the_command_sketches_merges_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        rows = "".join(json.dumps({"text": t}) + "\n" for t in lines(seed, 40))
        (tmp_path / f"{name}.jsonl").write_text(rows)
        out = ["--num-perm", "256", "--out", str(tmp_path / name)]
        assert sketch.main(["make", str(tmp_path / f"{name}.jsonl"), *out]) == 0
    a, b, c = (str(tmp_path / name) for name in "abc")
    both = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    sketch.main(["make", *both, "--num-perm", "256", "--out", str(tmp_path / "both")])
    sketch.main(["merge", a, b, "--out", str(tmp_path / "merged")])
    made = [Sketch.load(tmp_path / name) for name in ("both", "merged")]
    assert np.array_equal(made[0].signature, made[1].signature)
    assert sketch.main(["compare", a, c]) == 0
    assert "jaccard 1.00000" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        sketch.main(["make", str(tmp_path / "none.jsonl"), "--out", a])
    assert exit_.value.code == 2


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    rows = [json.dumps({"text": t * 20}) + "\n" for t in lines(0, 500)]
    peaks = []
    for times in (2, 20):
        file = tmp_path / f"{times}.jsonl"
        with file.open("w") as stream:
            for _ in range(times):
                stream.writelines(rows)
        code = (
            "import resource, sys; from calib.sketch import main; main(sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = [sys.executable, "-c", code, "make", str(file), "--num-perm", "128"]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "s")], capture_output=True, check=True, text=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.2 * peaks[0]
