"""Which files of a dataset repository a dataset reads, by their names and the repository's card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from calib.rows import some
from calib.spec import DatasetSpec

ENDINGS = {
    "parquet": (".parquet",),
    "json": (".json", ".jsonl"),
    "csv": (".csv", ".tsv"),
    "text": (".txt",),
}
"""How the names of a loader's files end; all but parquet may be compressed."""

COMPRESSED = (".gz", ".zst", ".zstd")

NOT_DATA = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
"""Files of a dataset repository that describe it."""

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in the name of a file that tell its split, where the repository declares none."""


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
    plain = next((name.removesuffix(end) for end in COMPRESSED if name.endswith(end)), name)
    return next((k for k, ends in ENDINGS.items() if plain.endswith(ends)), None)


def _named(spec: DatasetSpec, data: Sequence[str]) -> list[str]:
    """The files whose path names the configuration and the split."""

    def naming(words: Sequence[str]) -> list[str]:
        pattern = "|".join(map(re.escape, words))
        return [n for n in own if re.search(rf"(?<![a-zA-Z])({pattern})(?![a-zA-Z])", n)]

    own = list(data)
    if spec.name:  # `en` is not `en.noclean`
        own = [n for n in data if spec.name in Path(n).parts] or naming([spec.name])
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
