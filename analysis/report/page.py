"""The page itself: data, style and script put into one HTML file."""

from __future__ import annotations

import html
import json
import math
from importlib.resources import files
from typing import Any

SCRIPTS = ("data.js", "plot.js", "views.js", "tables.js", "main.js")
"""In the order in which they build on each other."""


def render(report: dict[str, Any]) -> str:
    """One self-contained HTML page of what `data.read` found."""
    folder = files("analysis") / "report" / "page"
    script = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    parts = {
        "title": html.escape(f"{report['meta']['run']}: calibration data report"),
        "style": (folder / "page.css").read_text("utf-8"),
        "data": embed(report),
        "script": script,
    }
    page = (folder / "page.html").read_text("utf-8")
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text, 1)
    return page


def embed(data: Any) -> str:
    """Data as JSON that can stand inside a `<script>` element, whatever texts it holds."""
    text = json.dumps(finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def finite(data: Any) -> Any:
    """The same data with None where a number is NaN or infinite, which JSON has no word for."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return data
