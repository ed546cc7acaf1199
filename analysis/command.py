"""What the commands of this package have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def database_parser(
    name: str, description: str | None, out: str | None = None
) -> argparse.ArgumentParser:
    """The parser of a command that is given a database.

    Args:
        name: the module. description: its docstring.
        out: default of `--out`, the folder that it writes; None where it writes none.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m analysis.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("database", type=Path, help="the database, runs/<name>/results.duckdb")
    if out is not None:
        parser.add_argument("--out", type=_folder, default=Path(out), help=f"a folder ({out})")
    return parser


def _folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file; give a folder")
    return path


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command and exit.

    Whoever reads the output may stop doing so (`... | head`): that is no failure of the command.
    """
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush
        code = 0
    sys.exit(code)
