"""A recipe: pruner, allocation and refiner with every option, as a grid file names them.

Nothing here imports torch: recipes are read, checked and hashed wherever grids are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from prune.allocation import Allocation
from prune.pattern import Target
from prune.pruner import Pruner
from prune.refiner import Refiner

PRUNERS = {
    "dsnot": "prune.dsnot:DSnoT",
    "magnitude": "prune.magnitude:Magnitude",
    "pruner-zero": "prune.pruner_zero:PrunerZero",
    "random": "prune.random_mask:Random",
    "ria": "prune.ria:RIA",
    "sparsegpt": "prune.sparsegpt:SparseGPT",
    "wanda": "prune.wanda:Wanda",
}
ALLOCATIONS = {"owl": "prune.owl:Owl"}
REFINERS = {"reconstruct": "prune.reconstruct:Reconstruct"}

DENSE = "dense"


@dataclass(frozen=True)
class Recipe:
    """What is done to a model; `pruner` None is the dense baseline.

    Attributes:
        name: the base method, as the database's `pruner` column has it.
        pruner: the method with its options.
        allocation: sparsity per block, None = uniform.
        refiner: what tunes the survivors, None = nothing.
    """

    name: str
    pruner: Pruner | None = None
    allocation: Allocation | None = None
    refiner: Refiner | None = None

    @property
    def parts(self) -> list[Any]:
        """The parts that are there, in the order they are applied."""
        return [part for part in (self.allocation, self.pruner, self.refiner) if part is not None]

    @property
    def needs_data(self) -> bool:
        """Does any part read calibration data?"""
        return any(part.needs for part in self.parts)

    @property
    def needs_seed(self) -> bool:
        """Does any part depend on the seed, by its data or by drawing random numbers?"""
        return self.needs_data or any(part.random for part in self.parts)

    @property
    def updates_weights(self) -> bool:
        """Do surviving weights change too, so that a mask alone does not restore the result?"""
        refined = self.refiner is not None
        return refined or (self.pruner is not None and self.pruner.updates_weights)

    def check(self, target: Target) -> None:
        """Refuse a target without meaning for this recipe.

        Raises:
            ValueError: says what was asked and what is possible.
        """
        if target.sparsity < target.pattern.least_sparsity:
            raise ValueError(
                f"sparsity {float(target.sparsity):g} is less than pattern {target.pattern} gives "
                f"by itself ({float(target.pattern.least_sparsity):g}); ask for that or more"
            )
        for part in self.parts:
            part.check(target)

    def canonical(self) -> dict[str, Any]:
        """Every option of every part as plain data, in the form that `parse` reads."""
        options = _fields(self.pruner) if self.pruner else {}
        extras = {"allocation": self.allocation, "refine": self.refiner}
        return {"name": self.name, **options} | {
            role: {"name": _name(part), **_fields(part)}
            for role, part in extras.items()
            if part is not None
        }

    def short(self) -> str:
        """The recipe with the options that differ from their defaults, for people."""
        set_ = [
            f"{k}={v}"
            for k, v in (_fields(self.pruner) if self.pruner else {}).items()
            if v != getattr(type(self.pruner), k, None)
        ]
        parts = [_name(part) for part in (self.allocation, self.refiner) if part is not None]
        return "+".join([self.name + (f"({', '.join(set_)})" if set_ else ""), *parts])

    def __str__(self) -> str:
        extras = [
            f"{role}={_spell(part)}"
            for role, part in (("allocation", self.allocation), ("refine", self.refiner))
            if part is not None
        ]
        options = [f"{k}={v}" for k, v in _fields(self.pruner).items()] if self.pruner else []
        inside = ", ".join(options + extras)
        return f"{self.name}({inside})" if inside else self.name


def parse(given: str | Mapping[str, Any]) -> Recipe:
    """Read a recipe as a grid writes it: a name, or a mapping with `name` and options.

    Raises:
        ValueError: unknown name or option, or a value that is not allowed; the message lists
            what is.
    """
    options = {"name": given} if isinstance(given, str) else dict(given)
    name = options.pop("name", None)
    if name in ALLOCATIONS:  # an allocation alone means: over wanda
        options = {"allocation": {"name": name, **options}}
        name = "wanda"
    if name == DENSE:
        if options:
            raise ValueError(f"'{DENSE}' takes no options, not {', '.join(options)}")
        return Recipe(DENSE)
    allocation = options.pop("allocation", None)
    refiner = options.pop("refine", None)
    return Recipe(
        name=str(name),
        pruner=_build("pruner", PRUNERS, {"name": name, **options}),
        allocation=None
        if allocation in (None, "uniform")
        else _build("allocation", ALLOCATIONS, allocation),
        refiner=None if refiner is None else _build("refiner", REFINERS, refiner),
    )


@cache
def _load(target: str) -> type:
    module, _, name = target.partition(":")
    cls: type = getattr(import_module(module), name)
    return cls


def _build(kind: str, table: Mapping[str, str], given: str | Mapping[str, Any]) -> Any:
    """The part that `given` names in `table`, its options checked by their types."""
    options = {"name": given} if isinstance(given, str) else dict(given)
    name = options.pop("name", None)
    if name not in table:
        raise ValueError(_unknown(kind, name, [*table, DENSE] if kind == "pruner" else list(table)))
    cls = _load(table[str(name)])
    known = {f.name: get_type_hints(cls)[f.name] for f in dataclasses.fields(cls)}
    for option in options:
        if option not in known:
            extras = ["allocation", "refine"] if kind == "pruner" else []
            raise ValueError(_unknown(f"option of {name}", option, [*known, *extras]))
    try:
        checked = {
            option: TypeAdapter(known[option], config=ConfigDict(strict=True)).validate_python(
                value
            )
            for option, value in options.items()
        }
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{name}: {problem['input']!r}: {problem['msg']}") from None
    return cls(**checked)


def _unknown(kind: str, name: object, known: list[str]) -> str:
    close = get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}; there is: {', '.join(known) or 'nothing to set'}{hint}"


def _fields(part: Any) -> dict[str, Any]:
    return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}


def _name(part: Any) -> str:
    """The name that the tables give the class of `part`."""
    target = f"{type(part).__module__}:{type(part).__qualname__}"
    tables = {**PRUNERS, **ALLOCATIONS, **REFINERS}
    return next(name for name, value in tables.items() if value == target)


def _spell(part: Any) -> str:
    inside = ", ".join(f"{k}={v}" for k, v in _fields(part).items())
    return f"{_name(part)}({inside})" if inside else _name(part)
