"""Grid files: YAML with `--set` overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cluster.yamlfile import InputError, YamlFile


class GridFile(YamlFile):
    """A grid file as plain data that remembers where its lines are."""

    kind = "grid"
    keys = "name, model, cells"

    def __init__(self, path: Path, overrides: Sequence[str] = ()) -> None:
        """Read `path`, then apply `overrides` (`key.key=value`, the value in YAML).

        Raises:
            InputError: the file is missing, is no YAML, or an override does not fit.
        """
        super().__init__(path)
        for override in overrides:
            self._override(override)

    def _override(self, override: str) -> None:
        name, equals, text = override.partition("=")
        keys = [int(k) if k.isdigit() else k for k in name.split(".")]
        try:
            value = YAML(typ="safe").load(text)
        except YAMLError:
            raise InputError([f"--set {override}: {text!r} is no YAML value"]) from None
        target: Any = self.data
        for key in keys[:-1]:
            if isinstance(target, dict):
                target = target.setdefault(key, {})
            elif isinstance(target, list) and isinstance(key, int) and key < len(target):
                target = target[key]
            else:
                target = None
        last = keys[-1]
        if (
            not equals
            or not name
            or not (
                isinstance(target, dict)
                or (isinstance(target, list) and isinstance(last, int) and last < len(target))
            )
        ):
            raise InputError(
                [
                    f"--set {override}: write key=value, keys of the grid joined by dots "
                    "(a number for an item of a list), for example cells.size=[16,32]"
                ]
            )
        target[last] = value  # type: ignore[index]
        self.lines[tuple(keys)] = f"--set {name}"
