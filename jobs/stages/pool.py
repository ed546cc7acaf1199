"""Making pools: the documents of files, of mixtures and selections, of the model and of nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calib import controls
from calib.pool import Pool
from calib.readers import read_pool
from calib.selectors import SELECTORS, Context
from calib.spec import DatasetSpec
from jobs.stages import generate

if TYPE_CHECKING:
    from jobs.stages.calibration import Stages

PERPLEXITY_TEXTS = 64
"""Texts whose tokens are scored before progress is told."""


def build_pool(stages: Stages, dataset: str, model: str, seqlen: int, folder: Path) -> None:
    """Write the documents that a dataset offers to a model into `folder`."""
    entry = stages.plan.inputs.datasets[dataset]
    spec = entry.spec
    stages.progress("text", 0, 0)
    if spec.generate is not None:
        batches = generate.write_batches(stages, dataset, model, seqlen)
        generate.assemble(batches, spec.generate, folder)
    elif spec.control is not None:
        build_control(stages, spec.control, model, seqlen, folder)
    elif spec.mixture is not None:
        parts = {name: stages.pool(name, model, seqlen) for name in spec.mixture}
        Pool.mix(parts, spec.mixture, spec.max_documents).save(folder)
    elif spec.select is not None:
        _select(stages, spec, model, seqlen).save(folder)
    else:
        if entry.source is None:  # a stream's pool, purged since the run was planned
            raise FileNotFoundError(f"the text of {dataset} is not kept any more; launch again")
        pool = read_pool(entry.source, spec)
        stages.check(entry.source.files)
        pool.save(folder)


def build_control(stages: Stages, control: str, model: str, seqlen: int, folder: Path) -> None:
    """Write a control's documents, and the tokens of one that is made of tokens."""
    if control == "ellipses":
        tokenize = stages.tokenize(model)
        texts = controls.ellipses(seqlen, lambda text: len(tokenize([text])[0]))
        Pool.of(texts, len(texts)).save(folder)
        return
    tokenizer = stages.tokenizer(model)
    special = set(tokenizer.all_special_ids)
    vocabulary = [i for i in range(tokenizer.vocab_size) if i not in special]
    ids = controls.random_tokens(vocabulary, seqlen)
    pool, tokens = controls.random_pool(ids, lambda row: str(tokenizer.decode(row)))
    pool.save(folder)
    tokens.save(folder)


def _select(stages: Stages, spec: DatasetSpec, model: str, seqlen: int) -> Pool:
    """The documents of another dataset that a selector chooses.

    Raises:
        ValueError: there are fewer than are to be chosen.
    """
    chosen = spec.select
    assert chosen is not None
    pool = stages.pool(chosen.source, model, seqlen)
    if len(pool.ids) < chosen.documents:
        raise ValueError(
            f"select.documents is {chosen.documents:,}, and {chosen.source} has "
            f"{len(pool.ids):,} documents: ask for fewer, or choose from a larger dataset"
        )
    reference = stages.plan.reference[model]
    context = Context(
        reference=lambda: stages.pool(str(reference), model, seqlen),
        perplexities=lambda texts: _perplexities(stages, texts, model, seqlen),
    )
    return pool.only(SELECTORS[chosen.by].load()(pool, chosen.documents, context))


def _perplexities(stages: Stages, texts: Sequence[str], model: str, seqlen: int) -> list[float]:
    """The dense model's perplexity of each text's first `seqlen` tokens; one token has none."""
    from jobs.evaluate.loglikelihood import window_losses
    from jobs.stages.calibration import free_memory

    dense = stages.load(model)
    tokenize = stages.tokenize(model)
    found: list[float] = []
    for i in range(0, len(texts), PERPLEXITY_TEXTS):
        stages.progress("select", i, len(texts))
        windows = [ids[:seqlen] for ids in tokenize(list(texts[i : i + PERPLEXITY_TEXTS]))]
        losses = window_losses(dense, windows)
        found += [
            math.exp(loss / (len(ids) - 1)) if len(ids) > 1 else math.inf
            for loss, ids in zip(losses, windows, strict=True)
        ]
    del dense
    free_memory()
    return found
