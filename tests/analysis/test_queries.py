"""Every named query, on a small database of which the answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.query import ask, named_queries


def rows(database: Path, name: str, **wanted: Any) -> list[dict[str, Any]]:
    """The rows of a named query that have these values."""
    columns, found = ask(database, named_queries()[name])
    records = [dict(zip(columns, row, strict=True)) for row in found]
    return [r for r in records if all(r[key] == value for key, value in wanted.items())]


SETTING = {"recipe": "wanda", "sparsity": 0.5, "size": 8}


def test_the_issue_s_questions_are_all_there() -> None:
    assert set(named_queries()) == {
        *("axes", "comparisons", "datasets", "dense", "errors", "failures", "gaps", "generated"),
        "masks",
        *(
            "replicates",
            "similarity",
            "sizes",
            "stages",
            "synthetic",
            "variance",
            "worse_than_magnitude",
        ),
    }


def test_axes(known: Path) -> None:
    levels = {r["level"]: r["mean"] for r in rows(known, "axes", axis="dataset", score="sciq")}
    assert levels["a"] - levels["d"] == pytest.approx(0.15, abs=0.02)
    (half,) = rows(known, "axes", axis="sparsity", level="0.5", score="sciq")
    assert half["cells"] == 1 + 2 * 4 * 2 * 3


def test_datasets(known: Path) -> None:
    found = rows(known, "datasets", score="mean_accuracy", **SETTING)
    assert [r["draws"] for r in found] == [3] * 4
    assert found[-1]["dataset"] == "d"
    by_perplexity = rows(known, "datasets", score="ppl_a", **SETTING)
    assert by_perplexity[-1]["dataset"] == "d"


@pytest.mark.parametrize(("score", "unit"), [("sciq", "points"), ("ppl_a", "perplexity")])
def test_gaps(known: Path, score: str, unit: str) -> None:
    (found,) = rows(known, "gaps", score=score, **SETTING)
    assert (found["worst"], found["unit"], found["datasets"]) == ("d", unit, 4)
    if score == "sciq":
        assert found["gap"] == pytest.approx(15, abs=2)


def test_comparisons(known: Path) -> None:
    found = rows(known, "comparisons", score="mean_accuracy", axis="dataset", a="a", b="d")
    assert {r["verdict"] for r in found} == {"differs"}
    assert {r["estimand"].split(", ")[1] for r in found} == {"these questions", "new questions"}
    assert all(r["low"] < r["difference"] < r["high"] for r in found)


def test_dense(known: Path) -> None:
    (found,) = rows(known, "dense", score="sciq")
    assert found["value"] == pytest.approx(0.8, abs=0.01)
    assert found["n"] == 300


def test_worse_than_magnitude(known: Path) -> None:
    assert rows(known, "worse_than_magnitude") == []  # the best pruner has 0.4 at 50 %, d is 0.45


def test_similarity_and_quality_each_given_the_other(known: Path) -> None:
    (found,) = rows(known, "similarity", score="sciq", **SETTING)
    assert found["datasets"] == 4
    assert found["similarity_with_score"] > 0.7
    assert found["similarity_with_quality"] > 0.9
    assert -1 <= found["quality_given_similarity"] <= 1
    assert [point.split(":")[0] for point in found["points"].split("; ")] == list("dbca")


def test_sizes_are_paired_by_draw(known: Path) -> None:
    found = rows(known, "sizes", score="sciq", dataset="a", recipe="wanda", sparsity=0.5)
    assert [(r["size"], r["next_size"], r["draws"]) for r in found] == [(8, 16, 3), (16, None, 3)]
    assert found[0]["change"] == pytest.approx(0, abs=0.01)
    assert found[1]["change"] is None


def test_synthetic_stands_against_each_real_dataset(known: Path) -> None:
    found = rows(known, "synthetic", score="ppl_a", **SETTING)
    assert [(r["synthetic"], r["real"]) for r in found] == [("d", "a"), ("d", "b"), ("d", "c")]
    assert not any(r["synthetic_is_better"] for r in found)
    assert all(r["difference"] > 0 for r in found)


def test_variance_shares_add_up(known: Path) -> None:
    (found,) = rows(known, "variance", score="mean_accuracy", sparsity=0.5, size=8)
    shares = [found[f"{s}_share"] for s in ("dataset", "pruner", "interaction", "draw")]
    assert sum(shares) == pytest.approx(1)
    assert shares[0] > 0.5


def test_masks_overlap_as_their_bits_do(known: Path) -> None:
    found = rows(known, "masks", block=0, linear="q_proj", **SETTING)
    by_pair = {(r["a"], r["b"]): r for r in found}
    assert len(by_pair) == 10
    assert by_pair["a", "a"]["overlap"] == 1
    assert by_pair["a", "d"]["overlap"] == pytest.approx(2 / 6)
    assert by_pair["a", "d"]["draw_pairs"] == 9
    either = 128 * 0.5 * 2 / (1 + 2 / 6)
    wanted = ((2 / 6) * (4 / 6) / either) ** 0.5
    assert by_pair["a", "d"]["sampling_se"] == pytest.approx(wanted)


def test_errors_by_block(known: Path) -> None:
    found = rows(known, "errors", dataset="a", **SETTING)
    assert [(r["block"], r["cells"]) for r in found] == [(0, 3), (1, 3)]
    assert [r["error"] for r in found] == pytest.approx([0.1, 0.2])


def test_stages(known: Path) -> None:
    (found,) = rows(known, "stages", pruner="wanda", stage="prune")
    assert found["seconds"] == found["cells"]
    assert found["gpu_seconds"] is None


def test_failures_are_grouped_by_cause(known: Path) -> None:
    assert rows(known, "failures") == []


def test_replicates(known: Path) -> None:
    found = rows(known, "replicates", score="sciq", recipe="wanda")
    assert len(found) == 4 * 2 * 2 * 3
    assert {r["repetitions"] for r in found} == {2}
