"""What can be known of generated text before any of it is written; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from calib.draw import TooLittleTextError, check_documents, check_stream
from calib.pool import document_id
from calib.readers import read_texts
from calib.spec import GenerateSpec, positions
from cluster.yamlfile import Place, Problem
from jobs.files import read_json
from jobs.plan.cells import Cell, Draw
from jobs.plan.inputs import DatasetInput, Inputs

MOST_BYTES = 8_000_000
"""Files larger than this are not read for the sake of a check."""


def generate_problems(cells: Iterable[Cell], inputs: Inputs) -> Iterator[Problem]:
    """Generated datasets that cannot be written, or that cannot fill the draws from them."""
    draws = {(cell.model, cell.draw): None for cell in cells if cell.draw is not None}
    said: set[tuple[Place, str]] = set()
    for model, draw in draws:
        spec = inputs.datasets[draw.dataset].spec.generate
        if spec is None:
            continue
        folder = inputs.models[model].folder
        place: Place = ("datasets", draw.dataset.rpartition("@")[0] or draw.dataset)
        for message in [*_unwritable(spec, inputs, folder), *_shortage(spec, draw, folder)]:
            problem = (place, f"{draw.dataset}: {message}")
            if problem not in said:
                said.add(problem)
                yield Problem(*problem)


def _unwritable(spec: GenerateSpec, inputs: Inputs, folder: Path | None) -> Iterator[str]:
    if spec.source is not None:
        most = _documents(inputs.datasets[spec.source])
        if most is not None and most < spec.texts:
            yield (
                f"every text starts as another document, and {spec.source} has {most:,} documents "
                f"at most; generate.texts is {spec.texts:,}: ask for fewer texts, or give "
                f"{spec.source} more (max_documents limits it, too)"
            )
    room = None if folder is None else positions(read_json(folder / "config.json"))
    if room is not None and spec.prefix + 1 >= room:
        yield f"prefix_tokens: {spec.prefix} leaves no position to write at; the model has {room}"
    if folder is not None and (spec.bos is True or spec.source is None) and _lacks_bos(folder):
        yield (
            "the model's tokenizer has no BOS token; use `bos: none`, and a source of prefixes "
            "(`from`) so that a text has a beginning"
        )


def _documents(entry: DatasetInput) -> int | None:
    """Documents of a dataset at most; its files are read where they are small."""
    if entry.spec.path is None:
        return None
    most = entry.spec.max_documents
    source = entry.source
    if source is None or sum(path.stat().st_size for path in source.files) > MOST_BYTES:
        return most
    return min(most, len({document_id(text) for text in read_texts(source)}))


def _lacks_bos(folder: Path) -> bool:
    """Does the tokenizer's configuration say outright that there is no BOS?"""
    path = folder / "tokenizer_config.json"
    config: dict[str, Any] = read_json(path) if path.is_file() else {}
    return config.get("bos_token", "") is None


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
