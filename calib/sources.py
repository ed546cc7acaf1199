"""From what a dataset names to the files it is read from, and to their texts."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from calib.spec import LOADERS, DatasetSpec
from prune.model import hub

ENDINGS = {
    "parquet": (".parquet",),
    "json": (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst"),
    "csv": (".csv", ".csv.gz", ".tsv"),
    "text": (".txt", ".txt.gz"),
}


@dataclass(frozen=True)
class Source:
    """The files of one dataset.

    Attributes:
        loader: one of `LOADERS`. files: in order of name.
        column: the column that holds the text.
    """

    loader: str
    files: tuple[Path, ...]
    column: str


def locate(spec: DatasetSpec, base: Path, mirror: Path | None, demo: Path | None) -> Source:
    """The files of a dataset that has a `path`, without fetching anything.

    Args:
        spec: the dataset.
        base: folder that relative paths are relative to.
        mirror: folder that hub ids resolve in, or None.
        demo: the demo's collected text, for `demo:` files.

    Raises:
        FileNotFoundError: nothing matches; the message says what was looked for, and where.
        hub.NotFetchedError: a hub repository that is not on this machine yet.
    """
    assert spec.path is not None
    if spec.path in LOADERS:
        return Source(spec.path, tuple(_local_files(spec, base, demo)), _column(spec, spec.path))
    name = f"{spec.path}@{spec.revision}" if spec.revision else spec.path
    folder = hub.find(name, "dataset", mirror, base)
    names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    card = folder / "README.md"
    chosen = select_files(spec, names, card.read_text("utf-8") if card.is_file() else "")
    loader = next((k for k, ends in ENDINGS.items() if chosen[0].endswith(ends)), None)
    if loader is None:
        raise FileNotFoundError(f"cannot read {chosen[0]} of {spec.path}: none of {LOADERS}")
    return Source(loader, tuple(folder / n for n in chosen), _column(spec, loader))


def fetch(spec: DatasetSpec) -> None:
    """Download the data files of a hub dataset to the hub cache."""
    from huggingface_hub import HfApi, hf_hub_download

    assert spec.path is not None
    names = HfApi().list_repo_files(spec.path, repo_type="dataset", revision=spec.revision)
    card = ""
    if "README.md" in names:
        file = hf_hub_download(spec.path, "README.md", repo_type="dataset", revision=spec.revision)
        card = Path(file).read_text("utf-8")
    name = f"{spec.path}@{spec.revision}" if spec.revision else spec.path
    hub.fetch(name, "dataset", ["README.md", *select_files(spec, names, card)])


def select_files(spec: DatasetSpec, names: Sequence[str], card: str) -> list[str]:
    """The data files of a repository that a dataset reads, by name, in order.

    The repository's card (README.md) declares them by configuration and split; without such a
    declaration, those whose path mentions the configuration and the split.

    Raises:
        FileNotFoundError: none matches.
    """
    patterns = spec.data_files or _declared(spec, card)
    endings = tuple(e for ends in ENDINGS.values() for e in ends)
    data = sorted(n for n in names if n.endswith(endings))
    if patterns:
        found = [n for n in data if any(fnmatch(n, p) for p in patterns)]
    else:
        found = [n for n in data if spec.split in n and (not spec.name or spec.name in n)]
    if not found:
        raise FileNotFoundError(
            f"{spec.path} has no data files for configuration {spec.name or 'default'!r}, split "
            f"{spec.split!r}" + (f" ({', '.join(patterns)})" if patterns else "")
        )
    return found[: spec.shards]


def _declared(spec: DatasetSpec, card: str) -> list[str]:
    """Patterns that the card's `configs` give for the wanted configuration and split."""
    if not card.startswith("---"):
        return []
    front = YAML(typ="safe").load(card.split("---", 2)[1]) or {}
    configs: list[dict[str, Any]] = front.get("configs", [])
    wanted = [c for c in configs if c.get("config_name") == spec.name] if spec.name else configs
    wanted = [c for c in wanted if c.get("default")] or wanted
    declared = wanted[0].get("data_files", []) if wanted else []
    if isinstance(declared, str):
        return [declared]
    patterns: list[str] = []
    for entry in declared:
        if isinstance(entry, str):
            patterns.append(entry)
        elif entry.get("split") == spec.split:
            path = entry["path"]
            patterns += [path] if isinstance(path, str) else path
    return patterns


def _local_files(spec: DatasetSpec, base: Path, demo: Path | None) -> list[Path]:
    found: list[Path] = []
    for pattern in spec.data_files or []:
        root = base
        if pattern.startswith("demo:"):
            assert demo is not None
            root, pattern = demo, pattern.removeprefix("demo:")
        full = str(root / Path(pattern).expanduser())
        # the pattern may be absolute, which Path.glob does not take
        matches = [Path(p) for p in glob.glob(full, recursive=True) if Path(p).is_file()]  # noqa: PTH207
        if not matches:
            raise FileNotFoundError(f"no file matches {full}")
        found += matches
    return sorted(set(found))[: spec.shards]


def _column(spec: DatasetSpec, loader: str) -> str:
    return "text" if loader == "text" else spec.text


def read_texts(source: Source) -> Iterator[str]:
    """The texts of a source, one a document; those without a visible character are left out."""
    return (text for text in read_rows(source) if text and not text.isspace())


def read_rows(source: Source) -> Iterator[str]:
    """The text of every row of a source, in order; an empty one where the row has none.

    Raises:
        ValueError: the column is missing, or holds something that is no text.
    """
    import datasets

    options: dict[str, Any] = {"sample_by": "document"} if source.loader == "text" else {}
    rows = datasets.load_dataset(
        source.loader,
        data_files=[str(f) for f in source.files],
        split="train",
        streaming=True,
        **options,
    )
    for number, row in enumerate(rows):
        if source.column not in row:
            raise ValueError(
                f"no column {source.column!r} in {source.files[0].name}; it has: "
                f"{', '.join(map(str, row))} (set `text:` to the column that holds the text)"
            )
        text = row[source.column]
        if not isinstance(text, str | None):
            raise ValueError(
                f"column {source.column!r}, row {number} from {source.files[0].name} on: a "
                f"{type(text).__name__}, not a text"
            )
        yield text or ""
