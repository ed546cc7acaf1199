"""Reading what people write in YAML 1.2: plain data, with the line of everything for errors."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

Place = tuple[str | int, ...]
"""Where something stands in a file: keys and list indices from the top."""


MOST_CHOICES = 40
"""Names that an error message lists; of more it tells the nearest."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file: where, and what to do."""

    place: Place
    message: str


class InputError(Exception):
    """What a person wrote cannot be used; carries every problem found, each as a printable line."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = list(lines)


class YamlFile:
    """A YAML file as plain data that remembers where its lines are.

    Attributes:
        kind, keys: what such a file is called, and some keys that it has, for error messages.
    """

    kind: ClassVar[str]
    keys: ClassVar[str]

    def __init__(self, path: Path) -> None:
        """Read `path`.

        Raises:
            InputError: the file is missing, or is no YAML.
        """
        self.path = path
        self.lines: dict[Place, str] = {}
        try:
            tree = YAML(typ="rt").load(path.read_text("utf-8"))
        except OSError as error:
            raise InputError(
                [f"{path}: {error.strerror}; give the path of a {self.kind} file"]
            ) from None
        except UnicodeDecodeError as error:
            raise InputError([f"{path}: not UTF-8 text ({error.reason})"]) from None
        except YAMLError as error:
            raise InputError([_syntax(path, error)]) from None
        if not isinstance(tree, dict):
            raise InputError([f"{path}:1: a {self.kind} is a mapping of keys such as {self.keys}"])
        self.data: dict[str, Any] = self._plain(tree, ())

    def _plain(self, node: Any, place: Place) -> Any:
        """`node` without ruamel's types; notes the line of every key and item."""
        if isinstance(node, CommentedMap):
            for key, position in (node.lc.data or {}).items():  # not those that `<<` merges in
                self.lines[(*place, key)] = f"{self.path}:{position[0] + 1}"
            return {key: self._plain(value, (*place, key)) for key, value in node.items()}
        if isinstance(node, CommentedSeq):
            for i in range(len(node)):
                self.lines[(*place, i)] = f"{self.path}:{node.lc.item(i)[0] + 1}"
            return [self._plain(value, (*place, i)) for i, value in enumerate(node)]
        for plain in (bool, int, float, str):
            if isinstance(node, plain):
                return plain(node)
        return node

    def line(self, place: Place) -> str:
        """`file:line` of a place, or of the nearest thing around it that is written down."""
        for end in range(len(place), 0, -1):
            if place[:end] in self.lines:
                return self.lines[place[:end]]
        return str(self.path)

    def error(self, problems: Iterable[Problem]) -> InputError:
        """The problems as one error, in the order of the file."""
        numbered = [(self.line(p.place), ".".join(map(str, p.place)), p.message) for p in problems]
        numbered.sort(key=lambda x: _number(x[0]))
        lines = [f"{line}: {place + ': ' if place else ''}{text}" for line, place, text in numbered]
        return InputError(list(dict.fromkeys(lines)))


def _number(line: str) -> int:
    """The number in `file:line`; 0 where there is none."""
    number = line.rpartition(":")[2] if ":" in line else ""
    return int(number) if number.isdecimal() else 0


def _syntax(path: Path, error: YAMLError) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        problem = " ".join(str(error.problem).split())
        return f"{path}:{error.problem_mark.line + 1}: not readable as YAML: {problem}"
    return f"{path}: not readable as YAML: {' '.join(str(error).split())}"


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """What pydantic found, in the words of a file: given, allowed, nearest name."""
    return [Problem(_place(problem["loc"]), _message(problem, model)) for problem in error.errors()]


def _place(loc: tuple[int | str, ...]) -> Place:
    # pydantic adds the name of the type it tried inside unions; no key of ours looks like that
    return tuple(x for x in loc if isinstance(x, int) or not (x == "[key]" or x[-1:] in ")]"))


EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping of keys and values",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list, for example [a, b]",
    "model_type": "a mapping of keys and values",
    "string_type": "text (in quotes where it looks like a number)",
}
"""What a file calls the types of pydantic's messages."""


def _message(problem: ErrorDetails, model: type[BaseModel]) -> str:
    given, kind = problem["input"], problem["type"]
    if kind == "extra_forbidden":
        key = str(problem["loc"][-1])
        return "unknown key; " + choices(key, _keys(model, problem["loc"][:-1]))
    if kind == "missing":
        return "missing, and there is no default"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return f"{given!r} is not allowed; " + choices(str(given), allowed)
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind == "value_error":
        return text
    if kind in EXPECTED:
        return f"{given!r} is not allowed; write {EXPECTED[kind]}"
    return f"{given!r}: {text[0].lower()}{text[1:]}"


def choices(given: str, allowed: Sequence[str]) -> str:
    """What is allowed, and the names nearest to what was given."""
    if len(allowed) > MOST_CHOICES:
        near = get_close_matches(given, allowed, n=5, cutoff=0.5)
        return f"{len(allowed):,} names are known; nearest: {', '.join(near) or 'none like it'}"
    near = get_close_matches(given, allowed, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"allowed: {', '.join(sorted(allowed))}{hint}"


def _keys(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The keys that the section at `loc` of a file may have."""
    current: Any = model
    for part in loc:
        for candidate in _models(current):
            fields = {f.alias or name: f for name, f in candidate.model_fields.items()}
            if part in fields:
                current = fields[str(part)].annotation
                break
    found = _models(current)
    return [f.alias or name for m in found for name, f in m.model_fields.items()]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models inside an annotation such as `dict[str, Spec] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, dict, list, tuple):
        return [m for arg in get_args(annotation) for m in _models(arg)]
    return []
