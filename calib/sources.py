"""From what a dataset names to the files it is read from."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from calib.rows import RowFormat, some
from calib.spec import LOADERS, DatasetSpec
from prune.model import hub

ENDINGS = {
    "parquet": (".parquet",),
    "json": (".json", ".jsonl"),
    "csv": (".csv", ".tsv"),
    "text": (".txt",),
}
"""How the names of a loader's files end; all but parquet may be compressed, `.gz` or `.zst`."""

NOT_DATA = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
"""Files of a dataset repository that describe it."""

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in the name of a file that tell its split, where the repository declares none."""


@dataclass(frozen=True)
class Source:
    """The files of one dataset.

    Attributes:
        loader: one of `LOADERS`. files: in order of name.
        rows: how a row becomes a document.
    """

    loader: str
    files: tuple[Path, ...]
    rows: RowFormat


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
        return Source(spec.path, tuple(_local_files(spec, base, demo)), _rows(spec, spec.path))
    name = hub_name(spec)
    folder = hub.find(name, "dataset", mirror, base)
    there = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    from_hub = hub.is_hub_id(name, base)
    names = hub.listing(name, "dataset", mirror, folder) if from_hub else None
    card = folder / "README.md"
    readme = card.read_text("utf-8", "replace") if card.is_file() else ""
    chosen = select_files(spec, names or there, readme)
    missing = [n for n in chosen if not (folder / n).is_file()]
    if from_hub and names is None:
        missing = _gaps(spec, chosen)
    if missing and mirror is None:
        raise hub.NotFetchedError(f"dataset {name!r} is not whole on this machine yet")
    if missing:
        raise FileNotFoundError(f"{folder} lacks {some(missing)}; {hub.prefetch_hint}")
    loader = loader_of(chosen[0])
    assert loader is not None
    return Source(loader, tuple(folder / n for n in chosen), _rows(spec, loader))


def hub_name(spec: DatasetSpec) -> str:
    """The hub id of a dataset, with its revision where one is asked for."""
    assert spec.path is not None
    return f"{spec.path}@{spec.revision}" if spec.revision else spec.path


def _gaps(spec: DatasetSpec, chosen: Sequence[str]) -> list[str]:
    """What must be missing of a repository of which only the files that are here are known.

    Numbered files say how many they are (`train-00000-of-00003`); and where a dataset asks for
    more files than there are, somebody else did not need them all.
    """
    numbered = [m for name in chosen if (m := re.match(r"(.*?)(\d+)-of-(\d+)", name))]
    found = {(m[1], int(m[2]), m[3]) for m in numbered}
    wanted = []
    for stem, total in sorted({(m[1], m[3]) for m in numbered}):
        first = int((stem, int(total), total) in found)  # some count from 1
        wanted += [(stem, number, total) for number in range(first, first + int(total))]
    missing = [part for part in wanted[: spec.shards] if part not in found]
    if not numbered and len(chosen) < (spec.shards or 0):
        return [f"files, for it has {len(chosen)} of {spec.shards}"]
    return [f"{stem}{number:0{len(total)}}-of-{total}" for stem, number, total in missing]


def fetch(spec: DatasetSpec) -> None:
    """Download the data files of a hub dataset to the hub cache."""
    repository = hub.resolve(hub_name(spec), "dataset")
    card = ""
    if "README.md" in repository.files:
        folder = hub.fetch(repository, spec.revision, ["README.md"])
        card = (folder / "README.md").read_text("utf-8", "replace")
    chosen = select_files(spec, list(repository.files), card)
    hub.fetch(repository, spec.revision, chosen)


def select_files(spec: DatasetSpec, names: Sequence[str], card: str) -> list[str]:
    """The data files of a repository that a dataset reads, by name, in order.

    The repository's card (README.md) declares them by configuration and split. Where it does not,
    they are those whose path names the configuration and the split; and if no path names any
    split, all of them are `train`, as the hub has it.

    Raises:
        FileNotFoundError: none matches.
    """
    data = sorted(n for n in names if loader_of(n) and Path(n).name not in NOT_DATA)
    configs = _configs(card)
    patterns = spec.data_files or _declared(spec, configs)
    found = _named(spec, data) if patterns is None else _matching(data, patterns)
    found = [n for n in found if loader_of(n) == loader_of(found[0])]
    if not found:
        what = f"configuration {spec.name or 'default'!r}, split {spec.split!r}"
        if patterns:
            what = ", ".join(patterns) + ("" if spec.data_files else f" ({what})")
        declared = [f"{c.get('config_name')} ({_splits(c)})" for c in configs]
        raise FileNotFoundError(
            f"{spec.path} has no data files for {what}; "
            + (f"its card declares: {some(declared)}; " if declared else "")
            + f"its data files: {some(data)} (set name, split or data_files)"
        )
    return found[: spec.shards]


def every_split(
    names: Sequence[str], card: str, config: str | None, patterns: Sequence[str] | None
) -> list[str]:
    """The files with which `datasets` can load a configuration, whatever the split.

    Args:
        names: all files of the repository. card: its README.md.
        config: the configuration; None = the default one.
        patterns: data files that are asked for by name.
    """
    data = [n for n in names if loader_of(n) and Path(n).name not in NOT_DATA]
    configs = _configs(card)
    if patterns is None:
        wanted = [c for c in configs if c.get("config_name") == config] if config else configs
        wanted = [c for c in wanted if c.get("default")] or wanted[:1]
        # the first one is looked at whatever is asked for
        patterns = [p for c in [*wanted, *configs[:1]] for _, p in _split_patterns(c)]
    found = _matching(data, patterns)
    if not found:
        found = [n for n in data if config and config in n] or data
    described = [n for n in names if n == "README.md" or Path(n).name in NOT_DATA]
    return sorted({*described, *found})


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that match a pattern; `**/` may stand for no folder, a `*` here for several."""
    wanted = {p for pattern in patterns for p in (pattern, pattern.replace("**/", ""))}
    return [n for n in names if any(fnmatchcase(n, p) for p in wanted)]


def loader_of(name: str) -> str | None:
    """The loader that reads a file of this name."""
    plain = name.removesuffix(".gz").removesuffix(".zst")
    return next((k for k, ends in ENDINGS.items() if plain.endswith(ends)), None)


def _named(spec: DatasetSpec, data: Sequence[str]) -> list[str]:
    """The files whose path names the configuration and the split."""

    def naming(words: Sequence[str]) -> list[str]:
        pattern = "|".join(map(re.escape, words))
        return [n for n in own if re.search(rf"(?<![a-zA-Z])({pattern})(?![a-zA-Z])", n)]

    own = list(data)
    own = naming([spec.name]) if spec.name else own
    found = naming(SPLIT_WORDS.get(spec.split, (spec.split,)))
    if spec.split == "train" and not naming([w for words in SPLIT_WORDS.values() for w in words]):
        return own
    return found


def _configs(card: str) -> list[dict[str, Any]]:
    """The configurations that the head of a card declares."""
    head = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    try:
        front = YAML(typ="safe").load(head[1]) if head else None
    except YAMLError:
        return []
    return list(front.get("configs") or []) if isinstance(front, dict) else []


def _declared(spec: DatasetSpec, configs: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Patterns for the wanted configuration and split; None where the card does not say."""
    wanted = [c for c in configs if c.get("config_name") == spec.name] if spec.name else configs
    wanted = [c for c in wanted if c.get("default")] or wanted
    if not wanted or "data_files" not in wanted[0]:
        return None
    return [p for split, p in _split_patterns(wanted[0]) if split == spec.split]


def _split_patterns(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(split, pattern) of a configuration; without a split, a pattern is for `train`."""
    folder = config.get("data_dir")
    entries = config.get("data_files") or ([f"{folder}/**"] if folder else [])
    if isinstance(entries, dict):
        entries = [{"split": split, "path": path} for split, path in entries.items()]
    pairs: list[tuple[str, str]] = []
    for entry in [entries] if isinstance(entries, str) else entries:
        split, path = (
            ("train", entry) if isinstance(entry, str) else (entry["split"], entry["path"])
        )
        pairs += [(split, p) for p in ([path] if isinstance(path, str) else path)]
    return pairs


def _splits(config: Mapping[str, Any]) -> str:
    return ", ".join(dict.fromkeys(split for split, _ in _split_patterns(config)))


def _local_files(spec: DatasetSpec, base: Path, demo: Path | None) -> list[Path]:
    found: set[Path] = set()
    for pattern in spec.data_files or []:
        root = base
        if pattern.startswith("demo:"):
            assert demo is not None
            root, pattern = demo, pattern.removeprefix("demo:")
        full = hub.under(root, pattern)
        # the pattern may be absolute, which Path.glob does not take; `root` is no pattern
        names = glob.glob(str(hub.under(Path(), pattern)), root_dir=root, recursive=True)  # noqa: PTH207
        matches = [p for p in (full, *(root / n for n in names)) if p.is_file()]
        if not matches:
            folder = next((p for p in full.parents if p.is_dir()), root)
            there = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
            raise FileNotFoundError(
                f"no file matches {full}; {folder} has: {some(there)} (data_files are names or "
                "globs, relative to the grid file)"
            )
        found.update(matches)
    return sorted(found)[: spec.shards]


def _rows(spec: DatasetSpec, loader: str) -> RowFormat:
    if spec.questions is not None:
        return RowFormat(None, spec.questions.templates, spec.url)
    if spec.template is not None:
        return RowFormat(None, (spec.template,), spec.url)
    return RowFormat("text" if loader == "text" else spec.text, (), spec.url)
