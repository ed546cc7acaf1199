"""What can be known of generated text before any of it is written; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from calib.draw import TooLittleTextError, check_documents, check_stream
from calib.spec import GenerateSpec, positions
from cluster.yamlfile import Place, Problem
from jobs.files import read_json
from jobs.plan.cells import Cell, Draw
from jobs.plan.inputs import Inputs
from jobs.plan.text_checks import SmallTexts
from jobs.plan.token_checks import has_token


def generate_problems(
    cells: Iterable[Cell], inputs: Inputs, texts: SmallTexts
) -> Iterator[Problem]:
    """Generated datasets that cannot be written, or that cannot fill the draws from them."""
    draws = {(cell.model, cell.draw): None for cell in cells if cell.draw is not None}
    said: set[tuple[Place, str]] = set()
    for model, draw in draws:
        spec = inputs.datasets[draw.dataset].spec.generate
        if spec is None:
            continue
        folder = inputs.models[model].folder
        place: Place = ("datasets", draw.dataset.rpartition("@")[0] or draw.dataset)
        unwritable = _unwritable(spec, model, inputs, texts)
        for message in [*unwritable, *_shortage(spec, draw, folder)]:
            problem = (place, f"{draw.dataset}: {message}")
            if problem not in said:
                said.add(problem)
                yield Problem(*problem)


def _unwritable(spec: GenerateSpec, model: str, inputs: Inputs, texts: SmallTexts) -> Iterator[str]:
    if spec.source is not None:
        yield from _too_few_prefixes(spec, spec.source, model, texts)
    folder = inputs.models[model].folder
    room = None if folder is None else positions(read_json(folder / "config.json"))
    if room is not None and spec.prefix + 1 >= room:
        yield f"prefix_tokens: {spec.prefix} leaves no position to write at; the model has {room}"
    needs_bos = spec.bos is True or spec.source is None
    if folder is not None and needs_bos and has_token(folder, "bos_token") is False:
        yield (
            "the model's tokenizer has no BOS token; use `bos: none`, and a source of prefixes "
            "(`from`) so that a text has a beginning"
        )


def _too_few_prefixes(
    spec: GenerateSpec, source: str, model: str, texts: SmallTexts
) -> Iterator[str]:
    """Fewer documents that can begin a text than there are texts to write."""
    most = texts.documents(source)
    lengths = texts.lengths(source, model, "")
    if most is not None and most < spec.texts:
        yield (
            f"every text starts as another document, and {source} has {most:,} documents at most; "
            f"generate.texts is {spec.texts:,}: ask for fewer texts, or give {source} more "
            "(max_documents limits it, too)"
        )
    elif lengths is not None and (long := sum(n >= spec.prefix for n in lengths)) < spec.texts:
        yield (
            f"{long:,} documents of {source} have {spec.prefix} tokens (prefix_tokens), and "
            f"generate.texts is {spec.texts:,}: ask for fewer texts or a shorter prefix, or give "
            f"{source} more"
        )


def _shortage(spec: GenerateSpec, draw: Draw, folder: Path | None) -> Iterator[str]:
    """Draws that the pool cannot fill even if every text is as long as it may be."""
    longest = spec.prefix + (spec.max_tokens or draw.seqlen)
    room = None if folder is None else positions(read_json(folder / "config.json"))
    longest = longest if room is None else min(longest, room)
    folds = 1 if draw.fold is None else draw.fold[1]
    try:
        if draw.sampler == "stream":  # a separator before each text
            check_stream(spec.kept * (longest + 1) // folds, draw.size, draw.seqlen)
        else:
            long = spec.kept // folds if longest >= draw.seqlen else 0
            check_documents(long, draw.size, draw.seqlen)
    except TooLittleTextError as error:
        yield (
            f"{spec.texts:,} texts, {spec.texts - spec.kept:,} of them dropped, of {longest:,} "
            f"tokens at most: {error}; here: raise generate.texts or generate.max_tokens"
        )
