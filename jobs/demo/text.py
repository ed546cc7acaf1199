"""The demo's text: English that every installation has, gathered into one artefact folder.

The sources are the project's own dependencies and the standard library: docstrings, guides,
licences and code. Nothing here depends on where they are installed or in which order files lie.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from jobs.demo.documents import PYTHON, Document, read_source
from jobs.demo.questions import continuation_questions, order_questions
from jobs.demo.split import QUESTIONS, reads_as_code, split

VERSION = 1  # raise it when the same packages give other text

# Fixed and not "all that is installed", so that a developer's extra tools change nothing.
SOURCES: tuple[str, ...] = (
    PYTHON, "absl-py", "accelerate", "aiohttp", "anyio", "attrs", "click", "dataproperty",
    "datasets", "datasketch", "dill", "duckdb", "evaluate", "filelock", "fsspec",
    "huggingface-hub", "jinja2", "joblib", "lm-eval", "lxml", "markdown-it-py", "more-itertools",
    "mpmath", "multidict", "networkx", "nltk", "numpy", "packaging", "pandas", "portalocker",
    "psutil", "pyarrow", "pydantic", "pygments", "pytablewriter", "python-dateutil", "pyyaml",
    "regex", "requests", "rich", "rouge-score", "sacrebleu", "safetensors", "scikit-learn",
    "scipy", "setuptools", "sqlitedict", "submitit", "sympy", "tabulate", "threadpoolctl",
    "tokenizers", "torch", "tqdm", "transformers", "typer", "typing-extensions", "urllib3", "yarl",
)  # fmt: skip

CORPORA = ("pretraining", "docstrings", "manuals", "licences", "code", "heldout")
FILES = (*(f"{name}.jsonl" for name in (*CORPORA, "continuation", "order")), "manifest.json")


def collect(artefacts: Path, sources: Sequence[str] = SOURCES) -> Path:
    """Gather the demo's text, once per set of installed versions.

    Args:
        artefacts: folder of shared artefacts; made if missing.
        sources: names of distributions, and ``python`` for the standard library. What is not
            installed is skipped and named in the manifest.

    Returns:
        The folder ``demo-<hash>`` in ``artefacts``, with every one of ``FILES``.

    Raises:
        ValueError: the sources that are installed hold too little text for the questions.
    """
    found = find(artefacts, sources)
    if found is not None:
        return found
    versions, pointer = _identity(artefacts, sources)
    folder = _publish(artefacts, _contents(versions), versions)
    pointer.parent.mkdir(parents=True, exist_ok=True)
    beside = pointer.with_name(f".{pointer.name}-{uuid.uuid4().hex}")
    beside.write_text(folder.name + "\n", encoding="utf-8")
    beside.replace(pointer)
    return folder


def find(artefacts: Path, sources: Sequence[str] = SOURCES) -> Path | None:
    """The folder that `collect` made for what is installed now, or None."""
    _, pointer = _identity(artefacts, sources)
    if not pointer.is_file():
        return None
    folder = artefacts / pointer.read_text(encoding="utf-8").strip()
    return folder if all((folder / name).is_file() for name in FILES) else None


def _identity(artefacts: Path, sources: Sequence[str]) -> tuple[dict[str, str | None], Path]:
    """The installed versions of the sources, and the file that names what they contain."""
    versions = {name: _version(name) for name in sorted(set(sources))}
    return versions, artefacts / "demo-inputs" / _digest(json.dumps([VERSION, versions]))


def _version(name: str) -> str | None:
    """Return the version of a source, or None where it is not installed."""
    if name == PYTHON:
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _contents(versions: dict[str, str | None]) -> dict[str, list[dict]]:
    """Return the rows of every JSONL file, by its name without the suffix."""
    documents: list[Document] = []
    for name, version in versions.items():
        if version is not None:
            documents.extend(read_source(name, reads_as_code))
    corpora = split(documents)
    passages = corpora.pop(QUESTIONS)
    rows: dict[str, list[dict]] = {
        name: [{"text": text} for text in corpora[name]] for name in CORPORA
    }
    rows["continuation"] = continuation_questions(passages)
    rows["order"] = order_questions(passages)
    return rows


def _publish(
    artefacts: Path, contents: dict[str, list[dict]], versions: dict[str, str | None]
) -> Path:
    """Write the files beside and rename the folder into place; a finished one is left alone."""
    encoded = {name: _jsonl(rows) for name, rows in sorted(contents.items())}
    content = _digest(*(part for name, data in encoded.items() for part in (name, data)))
    folder = artefacts / f"demo-{content}"
    beside = artefacts / f".demo-{uuid.uuid4().hex}"
    beside.mkdir(parents=True)
    for name, data in encoded.items():
        (beside / f"{name}.jsonl").write_bytes(data)
    manifest = {
        "collector": VERSION,
        "files": {
            name: {"documents": len(contents[name]), "bytes": len(data)}
            for name, data in encoded.items()
        },
        "sources": {name: version for name, version in versions.items() if version},
        "missing": [name for name, version in versions.items() if not version],
    }
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    (beside / "manifest.json").write_text(text, encoding="utf-8")
    try:
        if folder.is_dir() and not all((folder / name).is_file() for name in FILES):
            shutil.rmtree(folder)  # someone purged a part of it
        beside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(beside)  # another process was first with the same content
    return folder


def _jsonl(rows: Iterable[dict]) -> bytes:
    """Encode rows as UTF-8 JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _digest(*parts: str | bytes) -> str:
    """Return 12 hex digits of the sha256 of all parts, each with its length."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(b"%d:" % len(data))
        total.update(data)
    return total.hexdigest()[:12]
