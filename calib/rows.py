"""How a row of a dataset becomes a document: a column, a template, or a worked question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from calib.pool import Document

if TYPE_CHECKING:
    from jinja2 import Template

Form = Literal["zero_shot", "in_context", "chain_of_thought"]
"""Forms of a question-answer row (Bandari et al. 2024): the question alone; the question and its
answer; the question, the steps to the answer, and the answer."""

PARTS: dict[Form, tuple[str, ...]] = {
    "zero_shot": ("question",),
    "in_context": ("question", "answer"),
    "chain_of_thought": ("question", "rationale", "answer"),
}


@dataclass(frozen=True)
class RowFormat:
    """How a row becomes a text.

    Attributes:
        column: the column that is the text; None where templates make it.
        templates: Jinja templates over the columns, whose results stand on lines of their own;
            those that come out empty are left out.
        url: the column that holds the page's address, where there is such a column.
    """

    column: str | None = "text"
    templates: tuple[str, ...] = ()
    url: str = "url"

    def wanted(self, there: Iterable[str]) -> list[str] | None:
        """Of the columns of a file, those that are read; None = all, to say what there is.

        Raises:
            ValueError: a template is no Jinja template.
        """
        have = set(there)
        needed = {self.column} if self.column is not None else _columns(self.templates)
        if not needed <= have:
            return None
        return sorted(needed | ({self.url} & have))

    def document(self, row: Mapping[str, Any], number: int) -> Document:
        """The document of a row; an empty text where the row has none.

        Half a surrogate pair, which JSON can escape and UTF-8 cannot hold, becomes U+FFFD.

        Raises:
            ValueError: the row lacks a column, or holds something there that is no text.
        """
        text = self._rendered(row, number) if self.column is None else self._plain(row, number)
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        url = row.get(self.url)
        return Document(text, url if isinstance(url, str) else None)

    def _plain(self, row: Mapping[str, Any], number: int) -> str:
        assert self.column is not None
        if number == 0:
            _check({self.column}, row, "text")
        text = row.get(self.column)
        if text is None:
            return ""
        if not isinstance(text, str):
            raise ValueError(
                f"column {self.column!r} of row {number + 1} is no text but a "
                f"{type(text).__name__} (set `text:` to the column that holds the text)"
            )
        return text

    def _rendered(self, row: Mapping[str, Any], number: int) -> str:
        columns = _columns(self.templates)
        if number == 0:
            _check(columns, row, "template")
        given = {c: "" if row.get(c) is None else row[c] for c in columns}
        parts = []
        for template in self.templates:
            try:
                parts.append(_compiled(template).render(given).strip())
            except Exception as error:  # whatever a template does with a value
                raise ValueError(f"template {template!r} fails on a row: {error}") from error
        return "\n".join(part for part in parts if part)


def _check(needed: set[str], row: Mapping[str, Any], key: str) -> None:
    missing = sorted(needed - set(row))
    if missing:
        raise ValueError(
            f"no column {', '.join(map(repr, missing))}; it has: {some([str(c) for c in row], 20)} "
            f"(set `{key}:` to what the rows hold)"
        )


@cache
def _compiled(template: str) -> Template:
    """A template that can reach nothing but the row.

    Raises:
        ValueError: it is no Jinja template.
    """
    from jinja2 import StrictUndefined, TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        return ImmutableSandboxedEnvironment(undefined=StrictUndefined).from_string(template)
    except TemplateSyntaxError as error:
        raise ValueError(f"template {template!r} is no Jinja template: {error}") from error


@cache
def _columns(templates: tuple[str, ...]) -> set[str]:
    """The columns that templates name."""
    from jinja2 import Environment, meta

    for template in templates:
        _compiled(template)
    trees = (Environment(autoescape=True).parse(template) for template in templates)
    return set().union(*map(meta.find_undeclared_variables, trees))


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, for a message."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "") or "none"
