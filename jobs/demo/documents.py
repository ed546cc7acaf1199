"""From an installed package to documents: docstrings, guides, licences and code."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import inspect
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PYTHON = "python"  # the source that stands for the standard library
SHORTEST, LONGEST = 300, 6000  # characters of a document
# Where a longer text is cut. Licences are few, so short pieces let each be a window of its own.
CUT = {"docstring": LONGEST, "manual": 3000, "licence": 1000, "code": 3000}

_SKIPPED = re.compile(  # tests, vendored copies and other people's languages
    r"(^|/)(tests?|testing|idlelib|lib2to3|ensurepip|_vendor|site-packages|dist-packages|"
    r"__pycache__|config-[^/]*)(/|$)|(^|/)(test_[^/]*|conftest)\.py$|\.(so|pyc|dylib|h|dll)$"
)
_LICENCE = re.compile(r"(^|[/.\-_])(licen[cs]es?|copying|notices?)([.\-_][^/]*)?$", re.IGNORECASE)
_CODE_SUFFIX = re.compile(r"\.(py|pyi|c|cc|cpp|cu|cuh|html|json|toml|yaml|js|css)$")
_STRING = re.compile(r"\"\"\".*?\"\"\"|'''.*?'''", re.DOTALL)
_FENCE = re.compile(r"^[ \t]*```.*?(^[ \t]*```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_ROLE = re.compile(r":[a-z][a-z:]*:`[~!]?([^`<]*?)\s*(<[^`]*>)?`")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|<[^>\n]{1,200}>|`([^`<]+) <[^`]*>`__?")
_DROPPED = re.compile(r"[-=~^+*#|_. ]*$|\.\. |\||\+-|=+ +=|[:@$%{}]|https?://\S+$|In \[|Out\[|#!")
_BULLET = re.compile(r"([-*+•]|\d+[.)]|\[\d+\]) ")
_SYMBOL = re.compile(r"[^A-Za-z ,.;:'()\-`\"]")
_WORD = re.compile(r"[a-z]+")
_COMMON = frozenset(
    _WORD.findall(
        "the of a an to in is and for be that are this with if it by as or on not from will can "
        "which used at when has have was any all you your must may should its each than"
    )
)


@dataclass(frozen=True)
class Document:
    """One text. ``origin`` is the file's path below its installation root, not the machine's."""

    kind: str  # docstring | manual | licence | code
    origin: str
    text: str


def fold(origin: str) -> float:
    """Return where a file falls in [0, 1), by the hash of its path alone."""
    return int(hashlib.sha256(origin.encode()).hexdigest()[:8], 16) / 2**32


def read_source(name: str, code: Callable[[str], bool]) -> Iterator[Document]:
    """Read every document of one installed source.

    Args:
        name: a distribution's name, or ``python``.
        code: says of a file's path whether it is read as code and not for its docstrings.

    Yields:
        Documents of ``SHORTEST`` to ``LONGEST`` characters, sorted by file.
    """
    for origin, path in sorted(_files(name).items()):
        if _SKIPPED.search(origin) or not path.is_file():
            continue
        if origin.endswith(".py"):
            source = _read(path)
            if code(origin):
                yield from _documents("code", origin, _code(source))
            else:
                for text in _docstrings(source):
                    yield from _documents("docstring", origin, text)
        elif _LICENCE.search(origin) and not _CODE_SUFFIX.search(origin):
            yield from _documents("licence", origin, prose(_read(path)))
        elif origin.endswith((".md", ".rst")):
            yield from _documents("manual", origin, prose(_read(path)))
    for title, text in _guides(name):
        yield from _documents("manual", title, prose(text))


def _files(name: str) -> dict[str, Path]:
    """Return a source's files by their path below the installation root."""
    if name == PYTHON:
        root = Path(sysconfig.get_path("stdlib"))
        found = [*root.glob("*.py"), *root.glob("*/*.py"), *root.glob("*/*/*.py")]
        found.append(root / "LICENSE.txt")
        return {f"{PYTHON}/{path.relative_to(root).as_posix()}": path for path in found}
    files = importlib.metadata.distribution(name).files or []
    return {file.as_posix(): Path(str(file.locate())) for file in files if file.parts[0] != ".."}


def _guides(name: str) -> list[tuple[str, str]]:
    """Return titles and texts of the guides that lie in no file of their own."""
    if name != PYTHON:
        payload = importlib.metadata.metadata(name).get_payload()  # type: ignore[attr-defined]
        return [(f"{name}/description", str(payload or ""))]
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some systems package it apart
        return []
    return sorted((f"{PYTHON}/topic/{key}", text) for key, text in topics.items())


def _read(path: Path) -> str:
    """Read a file as UTF-8, whatever is in it, with one kind of line end."""
    text = path.read_bytes().decode("utf-8", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _documents(kind: str, origin: str, text: str) -> Iterator[Document]:
    """Cut a text at line ends into documents of an allowed length; a short rest is dropped."""
    part: list[str] = []
    size = 0
    for line in [*text.split("\n"), None]:
        if line is None or size + len(line) > CUT[kind]:
            joined = "\n".join(part)
            if SHORTEST <= len(joined) <= LONGEST and (kind == "code" or is_english(joined)):
                yield Document(kind, origin, joined)
            part, size = [], 0
        if line is not None:
            part.append(line)
            size += len(line) + 1


def _docstrings(source: str) -> Iterator[str]:
    """Yield the prose of every long triple-quoted string; a regex is 20 times a parser's speed."""
    for match in _STRING.finditer(source):
        length = match.end() - match.start() - 6
        formatted = source[max(match.start() - 1, 0) : match.start()] in ("f", "F", "b", "B")
        if length >= SHORTEST and not formatted:
            text = prose(match.group()[3:-3])
            if len(text) >= SHORTEST:
                yield text


def prose(raw: str) -> str:
    """Keep the sentences of a docstring or guide, one paragraph a line.

    Doctests, tables, fenced code, rules, directives and lines of symbols go; roles and links
    leave their label; wrapped lines are joined.
    """
    text = _LINK.sub(r"\1\2", _ROLE.sub(r"\1", _FENCE.sub("", raw)))
    blocks: list[list[str]] = [[]]
    depth, doctest = 0, False
    for line in inspect.cleandoc(text).split("\n"):
        bare = line.strip()
        doctest = bool(bare) and (doctest or bare.startswith(">>>"))
        if not bare or doctest or _DROPPED.match(bare):
            blocks.append([])
            continue
        indent = len(line) - len(line.lstrip())
        if indent != depth or _BULLET.match(bare):
            blocks.append([])
            depth = indent
        blocks[-1].append(bare)
    joined = (" ".join(" ".join(block).split()) for block in blocks)
    return "\n".join(line for line in joined if _is_plain(line))


def _is_plain(line: str) -> bool:
    """Tell words from formulas and code by the share of symbols, at most one in ten."""
    return bool(line) and len(_SYMBOL.findall(line)) <= 0.1 * len(line)


def is_english(text: str) -> bool:
    """Tell sentences from lists of names by the share of common words, at least one in five."""
    words = _WORD.findall(text.lower())
    return sum(word in _COMMON for word in words) >= 0.2 * max(len(words), 1)


def _code(source: str) -> str:
    """Return Python source without docstrings and comments; nothing where it does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            kept = [child for child in node.body if not _is_docstring(child)]  # type: ignore[attr-defined]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return "\n".join(line for line in ast.unparse(tree).split("\n") if 0 < len(line) < 200)


def _is_docstring(node: ast.stmt) -> bool:
    """Tell whether a statement is a bare string."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
