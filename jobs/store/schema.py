"""The tables of the results database, with types and comments.

`analysis` imports this module alone of `jobs`: nothing here needs more than the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping

VERSION = 5
"""Raised with every change of a table or view; a database of another version is built anew."""

# table -> (comment, {column: (type, comment)})
TABLES: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "runs": (
        "One row a run",
        {
            "run": ("VARCHAR", "name of the run"),
            "schema_version": ("INTEGER", "version of this schema"),
            "grid": ("VARCHAR", "the grid file as it was launched"),
            "dtype": ("VARCHAR", "what weights and activations are computed in"),
            "harness": ("VARCHAR", "version of lm-eval"),
            "primary_metric": ("VARCHAR", "column of results that the grid compares"),
            "delta": (
                "DOUBLE",
                "difference that matters: points, of a perplexity percent",
            ),
            "state": ("VARCHAR", "hash of the names, sizes and times of all files behind this"),
            "compared": ("BOOLEAN", "is the table comparisons filled, from all that is here?"),
        },
    ),
    "cells": (
        "One row a cell: of the grid, or of an earlier grid of the same run",
        {
            "cell": ("VARCHAR", "key: a hash of the science of the pruned model"),
            "run": ("VARCHAR", "name of the run"),
            "in_grid": ("BOOLEAN", "is it in the latest grid?"),
            "model": ("VARCHAR", "model, as the grid names it"),
            "dataset": ("VARCHAR", "source of the calibration text; NULL where none is needed"),
            "pruner": ("VARCHAR", "base method"),
            "recipe": ("VARCHAR", "method, allocation and refiner with every option"),
            "sparsity": ("DOUBLE", "fraction of the prunable weights asked for"),
            "pattern": ("VARCHAR", "unstructured, or N:M with N non-zero of M"),
            "size": ("INTEGER", "calibration windows"),
            "seed": ("BIGINT", "seed of the draw"),
            "replicate": ("INTEGER", "0, or the number of a repetition of the very same cell"),
            "generated": ("BOOLEAN", "did the model write the calibration text?"),
            "seqlen": ("INTEGER", "tokens a calibration window"),
            "sampler": ("VARCHAR", "stream or document"),
            "dtype": ("VARCHAR", "what it was computed in"),
            "status": ("VARCHAR", "done, failed or missing"),
            "achieved_sparsity": ("DOUBLE", "fraction of the prunable weights pruned"),
            "model_sparsity": ("DOUBLE", "fraction of zeros in the whole model"),
            "calibration": ("VARCHAR", "key of the calibration set"),
            "block_errors": ("DOUBLE[]", "relative squared error of each block's output"),
            "block_heldout_errors": (
                "DOUBLE[]",
                "the same on held-out windows of what was the reference",
            ),
            "block_sparsities": ("DOUBLE[]", "what the allocation asked of each block"),
            "gpu_seconds": ("DOUBLE", "GPU time of pruning and evaluation; NULL on a CPU"),
            "peak_memory_bytes": ("BIGINT", "most memory held: of the GPU, else of the process"),
            "attempt": ("INTEGER", "attempt that succeeded, from 1"),
            "record": ("VARCHAR", "the record's file, inside the run"),
            "log": ("VARCHAR", "the log's file, inside the run"),
            "provenance": ("JSON", "commit, package versions, host, GPU"),
        },
    ),
    "other_names": (
        "One row another name of a cell: of models or datasets that are one content",
        {
            "cell": ("VARCHAR", "cell"),
            "number": ("INTEGER", "of the name, from 0"),
            "model": ("VARCHAR", "what the grid calls the model there"),
            "dataset": ("VARCHAR", "what the grid calls the dataset there"),
        },
    ),
    "evaluations": (
        "One row an evaluation of a cell",
        {
            "cell": ("VARCHAR", "cell"),
            "evaluation": ("VARCHAR", "key: a hash of cell, task and settings"),
            "kind": ("VARCHAR", "task (lm-eval) or text (perplexity)"),
            "name": ("VARCHAR", "task or text"),
            "in_grid": ("BOOLEAN", "does the latest grid ask for it, with these settings?"),
            "headline": ("VARCHAR", "the metric that the column of results shows"),
            "settings": ("JSON", "shots, BOS, lengths, limit, harness"),
            "notes": ("JSON", "how it was computed"),
            "seconds": ("DOUBLE", "time it took"),
            "gpu": ("VARCHAR", "the GPU it ran on; NULL on a CPU"),
        },
    ),
    "metrics": (
        "One row a figure",
        {
            "cell": ("VARCHAR", "cell"),
            "evaluation": ("VARCHAR", "evaluation"),
            "task": ("VARCHAR", "task or text; of a group also each of its tasks"),
            "metric": ("VARCHAR", "lm-eval's name of the metric"),
            "value": ("DOUBLE", "its value; accuracies are fractions"),
            "stderr": ("DOUBLE", "standard error over documents"),
            "n": ("BIGINT", "documents, windows or tokens behind it"),
        },
    ),
    "outcomes": (
        "One row a document of an evaluation and metric",
        {
            "cell": ("VARCHAR", "cell"),
            "evaluation": ("VARCHAR", "evaluation"),
            "task": ("VARCHAR", "task or text"),
            "doc_id": ("BIGINT", "number of the document, or of the window of a text"),
            "metric": ("VARCHAR", "metric; loss = mean negative log-likelihood in nats"),
            "value": ("DOUBLE", "its value for this document"),
        },
    ),
    "linears": (
        "One row a pruned linear",
        {
            "cell": ("VARCHAR", "cell"),
            "block": ("INTEGER", "number of the block, from 0"),
            "linear": ("VARCHAR", "name inside the block"),
            "rows": ("INTEGER", "outputs"),
            "columns": ("INTEGER", "inputs"),
            "pruned": ("BIGINT", "weights pruned"),
            "error": ("DOUBLE", "relative squared error of its output on the calibration set"),
            "heldout_error": ("DOUBLE", "the same on held-out windows of what was the reference"),
            "notes": ("JSON", "what the pruner noted, for example a raised dampening"),
        },
    ),
    "masks": (
        "One row a pruned linear: its mask at a fixed random sample of positions",
        {
            "cell": ("VARCHAR", "cell"),
            "block": ("INTEGER", "number of the block, from 0"),
            "linear": ("VARCHAR", "name inside the block"),
            "positions": ("INTEGER", "positions sampled: equal in all cells of a model"),
            "sample": ("BIT", "1 = pruned; filled up with zeros to whole bytes"),
        },
    ),
    "similarity": (
        "One row a measure of how near a cell's dataset is to the reference",
        {
            "cell": ("VARCHAR", "cell"),
            "dataset": ("VARCHAR", "dataset"),
            "measure": ("VARCHAR", "jaccard (exact), jaccard_minhash, containment, ..."),
            "value": ("DOUBLE", "its value"),
            "stderr": ("DOUBLE", "standard error"),
            "n": ("BIGINT", "n-grams, permutations or documents behind it"),
            "units": ("BIGINT", "words or tokens on either side, where sets are compared"),
        },
    ),
    "documents": (
        "One row a document that a calibration set takes tokens from",
        {
            "calibration": ("VARCHAR", "key of the calibration set"),
            "document": ("VARCHAR", "hash of its text"),
            "tokens": ("BIGINT", "tokens taken from it"),
            "domain": ("VARCHAR", "web domain of its page, where it has an address"),
            "quality": ("DOUBLE", "mean of gopher and c4"),
            "gopher": ("DOUBLE", "share of Gopher's rules that keep it"),
            "c4": ("DOUBLE", "share of C4's rules that keep it"),
            "failed_rules": ("VARCHAR[]", "rules of both that would drop it"),
        },
    ),
    "pools": (
        "One row a pool of documents that a dataset offers to a model",
        {
            "pool": ("VARCHAR", "key of the pool"),
            "dataset": ("VARCHAR", "dataset"),
            "model": ("VARCHAR", "model, as the grid names it"),
            "seqlen": ("INTEGER", "tokens a calibration window"),
            "documents": ("BIGINT", "documents"),
            "characters": ("BIGINT", "characters"),
            "addresses": ("BIGINT", "documents with the address of a web page"),
        },
    ),
    "pool_documents": (
        "One row a document of a pool",
        {
            "pool": ("VARCHAR", "key of the pool"),
            "document": ("VARCHAR", "hash of its text"),
            "domain": ("VARCHAR", "web domain of its page, where it has an address"),
            "nearest": ("VARCHAR", "its nearest document in the reference, where it was sought"),
            "jaccard": ("DOUBLE", "Jaccard similarity of n-grams with that document"),
            "containment": ("DOUBLE", "largest share of its n-grams that one document there has"),
            "tasks": ("VARCHAR[]", "evaluations with a document that shares 13 words in a row"),
        },
    ),
    "contamination": (
        "One row a pool and evaluation: documents of the evaluation that share 13 words in a row",
        {
            "pool": ("VARCHAR", "key of the pool"),
            "dataset": ("VARCHAR", "dataset"),
            "task": ("VARCHAR", "task or text"),
            "task_documents": ("BIGINT", "its documents of 13 words and more"),
            "found": ("BIGINT", "how many of them share 13 words in a row with the pool"),
            "texts": ("BIGINT", "documents of the pool that share them"),
        },
    ),
    "text_overlaps": (
        "One row a pair of pools, or of calibration sets of one pool, that may share documents",
        {
            "kind": ("VARCHAR", "pools or draws"),
            "dataset": ("VARCHAR", "dataset of the first"),
            "other_dataset": ("VARCHAR", "dataset of the second"),
            "key": ("VARCHAR", "key of the first pool or calibration set"),
            "other_key": ("VARCHAR", "key of the second"),
            "documents": ("BIGINT", "documents of the first"),
            "other_documents": ("BIGINT", "documents of the second"),
            "shared_documents": ("BIGINT", "documents in both"),
            "domains": ("BIGINT", "web domains of the first"),
            "shared_domains": ("BIGINT", "web domains in both"),
        },
    ),
    "windows": (
        "One row a calibration window",
        {
            "calibration": ("VARCHAR", "key of the calibration set"),
            "number": ("INTEGER", "number of the window, from 0"),
            "documents": ("INTEGER", "documents it takes tokens from"),
            "document": ("VARCHAR", "the first of them"),
            "start": ("BIGINT", "first token taken of it"),
            "text": ("VARCHAR", "how it begins, decoded, for the first windows of a set"),
        },
    ),
    "texts": (
        "One row a text that the model wrote",
        {
            "pool": ("VARCHAR", "key of the generated pool"),
            "dataset": ("VARCHAR", "dataset, as the grid names it; name@seed of several pools"),
            "number": ("INTEGER", "number of the text, from 0"),
            "tokens": ("INTEGER", "its tokens, prefix included"),
            "perplexity": ("DOUBLE", "perplexity under the dense model; NULL for one token"),
            "repetition": ("DOUBLE", "4-gram aggregation: share of token 4-grams it had before"),
            "language": ("VARCHAR", "a guess, ISO 639-1; NULL where it has no words"),
            "kept": ("BOOLEAN", "False where its perplexity was among the highest"),
            "dropped_fraction": ("DOUBLE", "fraction of its pool that was not kept"),
            "source": ("VARCHAR", "document that gave the prefix; NULL where BOS alone did"),
        },
    ),
    "stages": (
        "One row a stage of a cell",
        {
            "cell": ("VARCHAR", "cell"),
            "stage": ("VARCHAR", "stage, or task or text evaluated"),
            "seconds": ("DOUBLE", "time it took, waiting included"),
        },
    ),
    "failures": (
        "One row a failed attempt",
        {
            "cell": ("VARCHAR", "cell"),
            "attempt": ("INTEGER", "number of the attempt"),
            "kind": ("VARCHAR", "error, killed, memory, timeout, disk, cancelled or lost"),
            "stage": ("VARCHAR", "where it failed"),
            "cause": ("VARCHAR", "why, in one line"),
            "signature": ("VARCHAR", "equal for equal causes"),
            "log": ("VARCHAR", "its log"),
        },
    ),
    "comparisons": (
        "One row a comparison of two datasets, pruners, sparsities, patterns or sizes and estimand,"
        " for the primary score, the mean accuracy and the perplexities; made anew whenever a cell "
        "or an evaluation changes, and empty until then, see runs.compared",
        {
            "score": ("VARCHAR", "column of results"),
            "axis": ("VARCHAR", "what is compared: dataset, pruner, sparsity, pattern or size"),
            "model": ("VARCHAR", "model, as the grid names it"),
            "pruner": ("VARCHAR", "base method; NULL where pruners are compared"),
            "recipe": ("VARCHAR", "method with every option; NULL where pruners are compared"),
            "pattern": ("VARCHAR", "of both; NULL where patterns are compared"),
            "sparsity": ("DOUBLE", "of both; NULL where sparsities are compared"),
            "size": ("INTEGER", "calibration windows; NULL where compared, or none are needed"),
            "seqlen": ("INTEGER", "tokens a calibration window"),
            "sampler": ("VARCHAR", "of both; several where the comparison mixes them"),
            "dataset": ("VARCHAR", "of both; NULL where compared, or averaged over datasets"),
            "a": ("VARCHAR", "one arm"),
            "b": ("VARCHAR", "the other"),
            "estimand": (
                "VARCHAR",
                "for whom it holds: any draw, these questions | any draw, new questions | "
                "these calibration sets alone, new questions | these models alone, new questions",
            ),
            "verdict": ("VARCHAR", "differs, equivalent (within delta) or undecided; after Holm"),
            "mean_a": ("DOUBLE", "mean score of a, as in results"),
            "mean_b": ("DOUBLE", "mean score of b"),
            "difference": ("DOUBLE", "a - b, in the unit; of perplexities of the geometric means"),
            "low": ("DOUBLE", "95 % interval of the difference; NULL where all draws tie"),
            "high": ("DOUBLE", "95 % interval of the difference"),
            "unit": ("VARCHAR", "of difference, interval, delta and detectable: points or %"),
            "stderr": (
                "DOUBLE",
                "standard error in points; of perplexities of 100 log(a / b); NULL where all draws "
                "tie (of one draw, all documents), which says nothing of how far apart others are",
            ),
            "df": ("DOUBLE", "degrees of freedom of the t interval"),
            "p": ("DOUBLE", "p value of no difference"),
            "p_holm": ("DOUBLE", "the same after Holm, within the family"),
            "fdr": ("DOUBLE", "the same after Benjamini and Hochberg, among all of score and axis"),
            "p_equivalent": ("DOUBLE", "p value of a difference of delta or more, after Holm"),
            "family": ("INTEGER", "comparisons that Holm's correction is for"),
            "delta": ("DOUBLE", "the difference that matters, from the grid"),
            "detectable": ("DOUBLE", "smallest difference that is found with power 0.8"),
            "draws": ("INTEGER", "draws of the arm that has fewer; 0 where nothing is drawn"),
            "more_draws": ("INTEGER", "how many more would find delta with power 0.8; undecided"),
            "bound_by_documents": ("BOOLEAN", "undecided: would no number of draws settle it?"),
            "documents": ("BIGINT", "documents behind it; NULL where they are not known"),
            "variance_of_arms": ("INTEGER", "arms whose draws told the variance between draws"),
            "mixed": (
                "VARCHAR",
                "in what else the arms differ: gpu, image, commit, sampler, damping; or: same text",
            ),
        },
    ),
    "damaged": (
        "One row a file that could not be read",
        {
            "file": ("VARCHAR", "its name inside the run; it was moved to damaged/"),
            "reason": ("VARCHAR", "why it could not be read"),
        },
    ),
    "collected": (
        "One row a file of the long tables, so that the next collection merges what is new",
        {
            "content": ("VARCHAR", "the table that it fills"),
            "owner": ("VARCHAR", "key of the cell, evaluation, calibration set or pool"),
            "size": ("BIGINT", "bytes"),
            "modified": ("BIGINT", "time of change, nanoseconds"),
        },
    ),
}

KEYS: dict[str, tuple[str, ...]] = {
    "runs": ("run",),
    "cells": ("cell",),
    "other_names": ("cell", "number"),
    "evaluations": ("evaluation",),
    "metrics": ("evaluation", "task", "metric"),
    "similarity": ("cell", "measure"),
    "stages": ("cell", "stage"),
    "failures": ("cell", "attempt"),
    "damaged": ("file",),
    "collected": ("content", "owner"),
}
"""What identifies a row of the tables that are merged row by row."""

OWNERS: dict[str, str] = {
    "outcomes": "evaluation",
    "linears": "cell",
    "masks": "cell",
    "documents": "calibration",
    "windows": "calibration",
    "texts": "pool",
}
"""The column that says whose rows these are, of the tables that are merged file by file."""

NEVER_NULL: dict[str, tuple[str, ...]] = {
    "outcomes": ("cell", "evaluation", "task", "doc_id", "metric", "value"),
    "linears": ("cell", "block", "linear", "rows", "columns", "pruned"),
}
"""Columns without which a row says nothing; a value that is no number is NaN."""


def create_tables() -> list[str]:
    """The statements that create every table, with comments."""
    statements = []
    for table, (comment, columns) in TABLES.items():
        never_null = (*KEYS.get(table, ()), OWNERS.get(table), *NEVER_NULL.get(table, ()))
        inside = ", ".join(
            f'"{name}" {kind}' + (" NOT NULL" if name in never_null else "")
            for name, (kind, _) in columns.items()
        )
        statements.append(f"CREATE TABLE {table} ({inside})")
        statements.append(f"COMMENT ON TABLE {table} IS {quoted(comment)}")
        statements += comments(table, {name: text for name, (_, text) in columns.items()})
    return statements


def merge(table: str, source: str) -> str:
    """The statement that makes a table equal to `source`, row by row; doing it twice is harmless.

    Args:
        table: one of `KEYS`.
        source: a relation with the table's columns, each key once.
    """
    columns = TABLES[table][1]
    same = " AND ".join(f't."{key}" = s."{key}"' for key in KEYS[table])
    ours = ", ".join(f't."{name}"' for name in columns)
    theirs = ", ".join(f's."{name}"' for name in columns)
    changes = ", ".join(f'"{name}" = s."{name}"' for name in columns)
    return (
        f"MERGE INTO {table} AS t USING {source} AS s ON {same} "
        f"WHEN MATCHED AND ({ours}) IS DISTINCT FROM ({theirs}) THEN UPDATE SET {changes} "
        f"WHEN NOT MATCHED THEN INSERT VALUES ({theirs}) "
        "WHEN NOT MATCHED BY SOURCE THEN DELETE"
    )


def comments(relation: str, columns: Mapping[str, str]) -> list[str]:
    """The statements that put comments on the columns of a table or view."""
    return [
        f"COMMENT ON COLUMN {relation}.{identifier(name)} IS {quoted(text)}"
        for name, text in columns.items()
    ]


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name of a column as SQL writes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'
