"""Records as they are read back: checked, and set aside with the reason where they are damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from jobs.files import write_text
from jobs.run import RunFolder

READERS = 8
"""Files opened at once: what a shared file system takes is latency, not work."""

READ_TOGETHER = 64
"""Files that a reader takes at a time: to hand over one costs as much as to read it."""


Int = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Long = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What the database's INTEGER and BIGINT hold."""


def _finite(data: dict[str, Any]) -> dict[str, Any]:
    """Refuse NaN and infinity, which are no JSON, and would stop whoever queries the column."""
    json.dumps(data, allow_nan=False)
    return data


Plain = Annotated[dict[str, Any], AfterValidator(_finite)]


class Read(BaseModel):
    """What is read back; keys that a newer version writes beside these are kept out of the way."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Record(Read):
    """A record."""

    cell: str


class Similarity(Read):
    """One figure of how near a dataset is to the reference."""

    value: float | None
    stderr: float | None
    n: Long | None
    units: Long | None = None


class SimilarityRecord(Read):
    """What is measured of a calibration set's text; see `jobs.stages.similarity`."""

    key: str
    figures: dict[str, Similarity]


class CellRecord(Record):
    """What came of pruning a cell; see `jobs.stages.prune`."""

    model: str
    dataset: str | None
    pruner: str
    recipe: str
    sparsity: float
    pattern: str
    size: Int | None
    seed: Long | None
    seqlen: Int | None
    sampler: str | None
    replicate: Int = 0
    dtype: str
    calibration: str | None
    achieved_sparsity: float
    model_sparsity: float
    block_errors: list[float | None]
    block_heldout_errors: list[float | None]
    block_sparsities: list[float | None]
    stages: dict[str, float]
    gpu_seconds: float | None
    peak_memory_bytes: Long | None
    attempt: Int
    log: str | None
    provenance: Plain


class Figure(Read):
    """One metric of an evaluation."""

    task: str
    metric: str
    value: float | None
    stderr: float | None
    n: Long


class EvaluationRecord(Record):
    """What came of one evaluation of a cell; see `jobs.store.records`."""

    evaluation: str
    kind: str
    name: str
    settings: Plain
    metrics: list[Figure]
    notes: Plain
    seconds: float
    gpu: str | None


class FailureRecord(Record):
    """A failed attempt; see `jobs.cell` and `jobs.drive`."""

    attempt: Int
    kind: str
    stage: str | None
    cause: str | None
    signature: str
    log: str | None


class DocumentNotes(BaseModel):
    """What is noted of a document that a calibration set takes tokens from."""

    model_config = ConfigDict(extra="ignore")

    domain: str | None = None
    quality: float | None = None
    gopher: float | None = None
    c4: float | None = None
    failed_rules: list[str] | None = None


class Manifest(BaseModel):
    """The part of a calibration set's manifest that the database holds; see `calib.draw`."""

    model_config = ConfigDict(extra="ignore")

    windows: list[Annotated[list[tuple[str, Long, Long]], Field(min_length=1)]]
    texts: list[str] = []
    documents: dict[str, DocumentNotes] = {}


class Text(BaseModel):
    """A generated text, but for the text itself; see `calib.generation`."""

    model_config = ConfigDict(extra="ignore")

    tokens: Int
    perplexity: float | None
    repetition: float | None = None
    language: str | None = None
    kept: bool
    source: str | None


@dataclass(frozen=True)
class Damaged:
    """A file that could not be read.

    Attributes:
        file: its name inside the run.
        reason: why, in one line.
    """

    file: str
    reason: str


class Damages:
    """The damaged files of a run: they are moved to `damaged/`, each beside its reason.

    So a relaunch computes them again, and every collection until then names them.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.found: list[Damaged] = []

    @property
    def folder(self) -> Path:
        """Where damaged files lie."""
        return self.run.damaged

    def set_aside(self, path: Path, reason: str) -> None:
        """Move a file out of the way and keep the reason."""
        reason = " ".join(reason.split())
        if not path.is_relative_to(self.run.path):  # a shared artefact, which others may be using
            self.found.append(Damaged(str(path), reason))
            return
        file = str(path.relative_to(self.run.path))
        target = self.folder / file
        if target.is_dir():
            shutil.rmtree(target)
        write_text(target.with_name(target.name + ".reason"), reason + "\n")
        path.replace(target)
        self.found.append(Damaged(file, reason))

    def known(self) -> list[Damaged]:
        """All that was found now, or before and has not been computed again since."""
        reasons = sorted(self.folder.rglob("*.reason"))
        files = [(str(p.relative_to(self.folder)).removesuffix(".reason"), p) for p in reasons]
        before = [
            Damaged(file, path.read_text("utf-8").strip())
            for file, path in files
            if not (self.run.path / file).exists()
        ]
        return list({d.file: d for d in [*before, *self.found]}.values())


def content_of(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read at the moment, which says nothing of what it holds.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        error.filename = str(path)  # a disk that fails while it is read does not tell it
        raise


R = TypeVar("R", bound=BaseModel)


def read_all(
    paths: Iterable[Path],
    model: type[R],
    identity: Callable[[R], str],
    damages: Damages,
) -> Iterator[tuple[Path, R]]:
    """The records of many files, in their order; what is damaged is set aside.

    Args:
        paths: the files.
        model: what a record has to hold.
        identity: the name inside its folder, without `.json`, that a record's content asks for.
        damages: takes the damaged ones.

    Raises:
        OSError: one is there and cannot be read at the moment; it may be sound, and stays.
    """

    def read(path: Path) -> tuple[Path, R | str]:
        try:
            record = model.model_validate_json(content_of(path))
        except ValidationError as error:
            return path, reason_of(error)
        except FileNotFoundError as error:  # a link to nowhere
            return path, str(error)
        wanted = identity(record)
        if wanted != path.stem and wanted != f"{path.parent.name}/{path.stem}":
            return path, f"it is the record of {wanted}, not of the name it has"
        return path, record

    def read_some(some: tuple[Path, ...]) -> list[tuple[Path, R | str]]:
        return list(map(read, some))

    with ThreadPoolExecutor(READERS) as pool:
        for path, result in chain.from_iterable(pool.map(read_some, _batched(paths))):
            if isinstance(result, str):
                damages.set_aside(path, result)
            else:
                yield path, result


def _batched(paths: Iterable[Path]) -> Iterator[tuple[Path, ...]]:
    """The paths, some at a time."""
    rest = iter(paths)
    while some := tuple(islice(rest, READ_TOGETHER)):
        yield some


def reason_of(error: ValidationError) -> str:
    """The first problems of a record in one line."""
    problems = [
        f"{'.'.join(map(str, e['loc']))}: {e['msg']}" if e["loc"] else e["msg"]
        for e in error.errors(include_url=False, include_input=False)
    ]
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more
