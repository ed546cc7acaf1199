"""The data of NLTK that task files want when they are imported, as ifeval's want `punkt_tab`.

Their code would fetch it wherever it is imported. Here it is looked up before anything starts,
`jobs.prefetch` puts it into the mirror, and jobs fetch nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

NLTK_FOLDER = "nltk_data"
"""Of a mirror, and how NLTK calls its folders elsewhere."""

DOWNLOAD = re.compile(r"""nltk\.download\(\s*["'](\w+)["']""")


def wanted(task_folders: Sequence[str | Path]) -> list[str]:
    """What the code beside task files fetches by NLTK."""
    files = [path for folder in task_folders for path in sorted(Path(folder).glob("*.py"))]
    return sorted({name for path in files for name in DOWNLOAD.findall(path.read_text("utf-8"))})


def find(name: str, mirror: Path | None) -> Path | None:
    """The folder that has some data of NLTK: the mirror's, or without one any that NLTK uses."""
    folders = _usual_folders() if mirror is None else [mirror / NLTK_FOLDER]
    return next((f for f in folders if any(_places(f, name))), None)


def _places(folder: Path, name: str) -> Iterator[Path]:
    for pattern in (f"*/{name}", f"*/{name}.zip"):
        yield from folder.glob(pattern)


def _usual_folders() -> list[Path]:
    """Where NLTK looks, which takes seconds to import."""
    named = [Path(p) for p in os.environ.get("NLTK_DATA", "").split(os.pathsep) if p]
    roots = [Path(sys.prefix), *(Path(sys.prefix, d) for d in ("share", "lib"))]
    roots += [Path.home(), *(Path("/usr", d) for d in ("share", "local/share", "lib", "local/lib"))]
    return named + [root / NLTK_FOLDER for root in roots]


def fetch(name: str, mirror: Path) -> None:
    """Fetch data of NLTK into a mirror that lacks it.

    Raises:
        OSError: it cannot be had; says how to put it there by hand.
    """
    if find(name, mirror) is not None:
        return
    import nltk

    folder = mirror / NLTK_FOLDER
    folder.mkdir(exist_ok=True)
    try:
        nltk.download(name, download_dir=str(folder), quiet=True, raise_on_error=True)
    except ValueError as error:  # as NLTK passes on what its index or the network says
        cause = error
    else:
        cause = ValueError("it came empty")
    if find(name, mirror) is None:
        if not any(folder.iterdir()):
            folder.rmdir()
        raise OSError(
            f"NLTK's {name} cannot be fetched ({cause}); fetch it where that works with `python "
            f"-m nltk.downloader -d {NLTK_FOLDER} {name}`, and copy that folder to {folder}"
        )


@contextmanager
def not_fetching(task_folders: Sequence[str | Path]) -> Iterator[None]:
    """Within, the code beside task files finds data of NLTK on this machine, or fails."""
    if not wanted(task_folders):
        yield
        return
    import nltk

    def download(name: str, *arguments: Any, **options: Any) -> bool:
        if any(any(_places(Path(folder), name)) for folder in nltk.data.path):
            return True
        raise FileNotFoundError(f"NLTK's {name} is not on this machine; {remedy(name)}")

    with mock.patch.object(nltk, "download", download):
        yield


def remedy(name: str) -> str:
    """What to do where data of NLTK is missing."""
    return (
        "`python -m jobs.prefetch GRID --mirror DIR` fetches it for `mirror: DIR`, and without a "
        f"mirror `python -m nltk.downloader {name}` does"
    )
