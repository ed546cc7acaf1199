"""The table of comparisons: every pair with its difference, error and verdict.

    python -m analysis.pairs results.duckdb comparisons.parquet

writes those of the scores that are told of without being asked for, for the collector to store.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from analysis.command import run
from analysis.comparisons import SETTING, Pair, as_block, pairs
from analysis.crossing import Crossing
from analysis.data import ESTIMANDS, Data, Row, mean_of
from analysis.estimate import Estimate, estimates
from analysis.scores import Outcomes, Score, opened, told_scores
from analysis.spread import Spread, pool
from analysis.verdict import Verdict, benjamini_hochberg, judge_family
from jobs.store import schema


def pair_table(data: Data) -> list[Row]:
    """Every comparison with its verdict, one row an estimand: as it is stored, else computed."""
    return _stored(data) or compared(data)


def _stored(data: Data) -> list[Row]:
    """The comparisons that the collector stored; none of scores that are told of on request."""
    found = data.connection.execute(
        "SELECT * FROM comparisons WHERE score = ? ORDER BY rowid", [data.score.name]
    )
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def compared(data: Data) -> list[Row]:
    """Every comparison with its verdict, in the columns of the table `comparisons`."""
    score = data.score
    families: dict[tuple[Any, ...], list[Pair]] = defaultdict(list)
    by_sibling: dict[tuple[Any, ...], list[Pair]] = defaultdict(list)
    for pair in pairs(data.cells):
        families[pair.family].append(pair)
        by_sibling[pair.siblings].append(pair)
    crossing = Crossing(data.cells)
    rows: list[Row] = []
    for members in families.values():
        found = data.outcomes([c for p in members for c in (*p.cells_a, *p.cells_b)])
        documents = data.documents(found)
        by_estimand: dict[str, list[tuple[Pair, Estimate]]] = defaultdict(list)
        known = found.documents if found else None
        spread = _dataset_spread(members, found, crossing)
        for pair in members:
            blocks = pair.blocks(found)
            if pair.axis != "dataset":
                spread = _sibling_spread(pair, by_sibling[pair.siblings], found)
            for e in estimates(blocks, known, spread) if blocks else ():
                by_estimand[e.estimand].append((pair, e))
        for judged in by_estimand.values():
            verdicts = judge_family([e for _, e in judged], score.delta, documents)
            for (pair, e), verdict in zip(judged, verdicts, strict=True):
                told = {"documents": documents, "family": len(judged)}
                rows.append(_row(pair, e, verdict, score) | told)
    _add_false_discovery_rates(rows)
    return rows


def _row(pair: Pair, e: Estimate, verdict: Verdict, score: Score) -> Row:
    low, high = (None, None) if e.tied else map(score.shown, e.interval())
    draws = min(e.draws, default=0)
    needed = verdict.draws_needed
    return {
        "score": score.name,
        "axis": "pruner" if pair.axis == "recipe" else pair.axis,
        **{name: pair.setting.get(name) for name in SETTING},
        "sampler": ", ".join(pair.samplers) or None,
        "pruner": None if pair.axis == "recipe" else pair.cells_a[0].pruner,
        "a": str(pair.a),
        "b": str(pair.b),
        "estimand": ESTIMANDS[e.estimand],
        "verdict": verdict.verdict,
        "mean_a": mean_of(pair.cells_a),
        "mean_b": mean_of(pair.cells_b),
        "difference": score.shown(e.difference),
        "low": low,
        "high": high,
        "unit": score.unit,
        "p": e.p,
        "p_holm": verdict.p,
        "p_equivalent": verdict.p_equivalent,
        "delta": score.shown(score.delta),
        "detectable": None if verdict.detectable is None else score.shown(verdict.detectable),
        "draws": draws,
        "more_draws": None if needed is None else max(needed - draws, 0),
        "bound_by_documents": verdict.bound_by_documents,
        "stderr": None if e.tied else e.stderr,
        "df": e.df,
        "variance_of_arms": e.arms,
        "mixed": ", ".join(pair.flags),
    }


def _add_false_discovery_rates(rows: Sequence[Row]) -> None:
    """Add to each row its rate among all comparisons of one axis and estimand."""
    alike: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        alike[row["axis"], row["estimand"]].append(row)
    for same in alike.values():
        for row, rate in zip(same, benjamini_hochberg([r["p"] for r in same]), strict=True):
            row["fdr"] = rate


def _dataset_spread(
    members: Sequence[Pair], found: Outcomes | None, crossing: Crossing
) -> Spread | None:
    """The variance between draws that the datasets of a family share."""
    if members[0].axis != "dataset":
        return None
    arms = {p.a: p.cells_a for p in members} | {p.b: p.cells_b for p in members}
    drawn = [cells for cells in arms.values() if len(cells) > 1]
    if len(drawn) < 2:
        return None
    blocks = [as_block(cells, 1.0, found) for cells in drawn]
    return pool(blocks, found.documents if found else None, crossing.noise(drawn))


def _sibling_spread(pair: Pair, siblings: Sequence[Pair], found: Outcomes | None) -> Spread | None:
    """The variance between draws that one comparison has in common on all datasets."""
    if pair.setting.get("dataset") is None:
        return None
    blocks = [[b for b in p.blocks(found) if not b.fixed] for p in siblings]
    if any(len(drawn) != 1 for drawn in blocks):
        return None
    return pool([drawn[0] for drawn in blocks], found.documents if found else None)


ARROW = {
    "VARCHAR": pyarrow.string(),
    "DOUBLE": pyarrow.float64(),
    "INTEGER": pyarrow.int32(),
    "BIGINT": pyarrow.int64(),
    "BOOLEAN": pyarrow.bool_(),
}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("database", type=Path, help="the database")
    parser.add_argument("out", type=Path, help="the Parquet file to write")
    options = parser.parse_args(arguments)
    with opened(options.database) as connection:
        rows = [
            row for score in told_scores(connection) for row in compared(Data(connection, score))
        ]
    columns = schema.TABLES["comparisons"][1]
    kinds = pyarrow.schema([(name, ARROW[kind]) for name, (kind, _) in columns.items()])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, kinds), options.out)
    return 0


if __name__ == "__main__":
    run(main)
