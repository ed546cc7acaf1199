"""The console of the commands: names are printed as they are."""

from __future__ import annotations

import sys

from rich.console import Console


def plain_console(**options: bool) -> Console:
    """A console that takes no `[name]` or `:name:` in a text for markup; logs have 120 columns.

    Args:
        options: of rich's console.
    """
    width = None if sys.stdout.isatty() else 120
    return Console(width=width, markup=False, emoji=False, **options)  # type: ignore[arg-type]
