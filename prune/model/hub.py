"""Where the files of a hub id lie: a mirror folder, the local hub cache, or the hub itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from prune.model.manifest import Manifest

if TYPE_CHECKING:
    from httpx import Response

Kind = Literal["model", "dataset"]

DEFAULT_REVISION = "main"


class NotFetchedError(LookupError):
    """A hub repository that is not on this machine, where nothing may be fetched."""


class BrokenTransferError(Exception):
    """A file did not arrive whole; `progressed` says whether any of it did."""

    def __init__(self, message: str, progressed: bool = False) -> None:
        super().__init__(message)
        self.progressed = progressed


STALL_SECONDS = 30.0
"""A server that says nothing for so long has gone."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub: its size in bytes, and what its content hashes to.

    Attributes:
        sha256: of the content, where the hub keeps the file apart from git; else None.
        blob: git's own hash of the content, which every other file has.
    """

    size: int
    sha256: str | None
    blob: str


@dataclass(frozen=True)
class Repository:
    """A repository on the hub at one commit, and all its files by name."""

    repo: str
    kind: Kind
    commit: str
    files: dict[str, RemoteFile]


def split_revision(name: str) -> tuple[str, str | None]:
    """`owner/name@revision` as (`owner/name`, revision or None)."""
    repo, _, revision = name.partition("@")
    return repo, revision or None


def under(base: Path, name: str) -> Path:
    """`name` as a path: absolute, from a home folder (`~`), or relative to `base`."""
    try:
        return base / Path(name).expanduser()
    except RuntimeError:  # a `~user` that there is not
        return base / name


def is_hub_id(name: str, base: Path) -> bool:
    """Is `name` a hub id, and no folder or file relative to `base`?"""
    repo, _ = split_revision(name)
    known = re.fullmatch(r"(?!.*(--|\.\.))\w[\w.-]*/\w[\w.-]*", repo)
    return known is not None and not under(base, name).exists()


def find(name: str, kind: Kind, mirror: Path | None, base: Path) -> Path:
    """The folder that holds a repository, without fetching anything.

    Args:
        name: hub id (`owner/name`, optionally `@revision`) or a folder.
        kind: "model" or "dataset".
        mirror: a folder that hub ids resolve in, as `<mirror>/<owner>/<name>`; nothing else is
            looked at then. A mirror holds one revision of each. A prefetched one has it in its
            manifest, and is not taken for another; one that was put there by hand is taken for
            whatever is asked for.
        base: what a relative folder is relative to.

    Raises:
        FileNotFoundError: a folder was named, or a mirror given, and it is not there.
        NotFetchedError: a hub id that is neither mirrored nor in the hub cache.
    """
    repo, revision = split_revision(name)
    folder = under(base, name)
    if folder.is_dir():
        return folder.resolve()
    if not is_hub_id(name, base):
        if folder.is_file():
            raise FileNotFoundError(f"{folder} is a file; name a folder, or a hub id (owner/name)")
        raise FileNotFoundError(f"no folder {folder}, and {name!r} is no hub id (owner/name)")
    if mirror is not None:
        if not (mirror / repo).is_dir():
            raise FileNotFoundError(
                f"{kind} {repo!r} is not in the mirror: no folder {mirror / repo}; {prefetch_hint}"
            )
        entry = Manifest.read(mirror).repository(kind, repo)
        if entry is not None and revision not in (None, entry.revision, entry.commit):
            raise FileNotFoundError(
                f"the mirror {mirror} holds {kind} {repo!r} at {entry.revision} ({entry.commit}), "
                f"not at {revision}; prefetch that into another mirror"
            )
        return (mirror / repo).resolve()
    cached = _cached(repo, kind, revision or DEFAULT_REVISION)
    if cached is None:
        raise NotFetchedError(f"{kind} {name!r} is not on this machine yet")
    return cached


prefetch_hint = (
    "fetch it there with `python -m jobs.prefetch GRID --mirror MIRROR`, or set mirror: null to "
    "use the hub"
)


def listing(name: str, kind: Kind, mirror: Path | None, folder: Path) -> list[str] | None:
    """Every file that a repository has on the hub; None where this machine was never told.

    A folder may hold a part of a repository: the files that somebody else needed.

    Args:
        name, kind, mirror: as for `find`.
        folder: what `find` gave.
    """
    repo, _ = split_revision(name)
    if mirror is not None:
        entry = Manifest.read(mirror).repository(kind, repo)
        return None if entry is None else entry.listing
    path = _listing_path(repo, kind, folder.name)
    return list(json.loads(path.read_text("utf-8"))) if path.is_file() else None


def _listing_path(repo: str, kind: Kind, commit: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "calgrid" / f"{kind}s" / repo / f"{commit}.json"


def _cached(repo: str, kind: Kind, revision: str) -> Path | None:
    """The folder of a revision in the hub cache; parts of it may be missing."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    storage = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind)
    reference = storage / "refs" / revision
    commit = reference.read_text("utf-8").strip() if reference.is_file() else revision
    folder = storage / "snapshots" / commit
    return folder if folder.is_dir() else None


def resolve(name: str, kind: Kind) -> Repository:
    """Ask the hub which commit a hub id stands for now, and for the files of that commit.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: the hub refused, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    repo, revision = split_revision(name)
    api = HfApi()
    commit = api.repo_info(repo, repo_type=kind, revision=revision).sha
    assert commit is not None
    files = {
        entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
        for entry in api.list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind)
        if isinstance(entry, RepoFile)
    }
    return Repository(repo, kind, commit, files)


def fetch(repository: Repository, revision: str | None, names: Sequence[str]) -> Path:
    """Download files of a repository to the hub cache, and remember what else it has.

    Args:
        repository: as `resolve` gave it. revision: that was asked for.
        names: of the files.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: the hub refused, or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(
            repository.repo,
            repo_type=repository.kind,
            revision=revision,
            allow_patterns=[re.sub(r"([*?[])", r"[\1]", name) for name in names],
        )
    )
    folder.mkdir(parents=True, exist_ok=True)  # which it leaves out where there is no file
    path = _listing_path(repository.repo, repository.kind, folder.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    files = {name: asdict(file) for name, file in sorted(repository.files.items())}
    partial.write_text(json.dumps(files), "utf-8")
    partial.replace(path)
    return folder


def remembered(name: str, kind: Kind) -> Repository | None:
    """A repository as it was when some of it was fetched to the hub cache; None = never."""
    repo, revision = split_revision(name)
    folder = _cached(repo, kind, revision or DEFAULT_REVISION)
    path = None if folder is None else _listing_path(repo, kind, folder.name)
    if folder is None or path is None or not path.is_file():
        return None
    files = {n: RemoteFile(**entry) for n, entry in json.loads(path.read_text("utf-8")).items()}
    return Repository(repo, kind, folder.name, files)


def download(
    repository: Repository, name: str, target: Path, progress: Callable[[int], None]
) -> str:
    """Download one file to `target`, and return its SHA-256.

    What a broken transfer left is gone on from; a file is renamed into place when it is whole and
    hashes to what the hub says. (The hub's own library starts a file anew in every process.)

    Args:
        repository: as `resolve` gave it. name: of the file in it.
        target: where it shall be.
        progress: called with the bytes that are there.

    Raises:
        BrokenTransferError: it did not arrive whole; what did arrive is kept, unless it is wrong.
        huggingface_hub.errors.HfHubHTTPError: the hub refused.
    """
    remote = repository.files[name]
    partial = target.with_name(f".{target.name}.{repository.commit[:12]}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    if partial.is_file() and partial.stat().st_size > remote.size:
        partial.unlink()
    with partial.open("ab") as file:
        before, cause = file.tell(), "the server ended it"
        try:
            if before < remote.size:
                _receive(repository, name, file, progress)
        except Exception as error:
            if is_refusal(error):
                raise
            cause = " ".join(f"{type(error).__name__}: {error}".split())
        received = file.tell()
    if received < remote.size:
        raise BrokenTransferError(
            f"{repository.repo}/{name} broke off at {received:,} of {remote.size:,} bytes "
            f"({cause})",
            received > before,
        )
    sha256, blob = _hashes(partial)
    if (remote.sha256 or blob) != (sha256 if remote.sha256 else remote.blob):
        partial.unlink()
        raise BrokenTransferError(
            f"{repository.repo}/{name} arrived damaged: its hash is not the one that the hub says"
        )
    partial.replace(target)
    return sha256


def _receive(
    repository: Repository, name: str, file: IO[bytes], progress: Callable[[int], None]
) -> None:
    """Append to `file` what it lacks; from its beginning where the server knows no ranges."""
    with request(repository, name, file.tell()) as response:
        if response.status_code != 206:
            file.truncate(0)
        for chunk in response.iter_bytes():
            file.write(chunk)
            progress(file.tell())


@contextmanager
def request(
    repository: Repository, name: str, start: int, stop: int | None = None
) -> Iterator[Response]:
    """The hub's answer with a file's bytes from `start` to `stop`, if the server knows ranges.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: the hub refused.
    """
    from huggingface_hub.file_download import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(repository.repo, name, repo_type=repository.kind, revision=repository.commit)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-" + ("" if stop is None else str(stop - 1))
    with get_session().stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=STALL_SECONDS
    ) as response:
        hf_raise_for_status(response)
        yield response


def is_refusal(error: Exception) -> bool:
    """Did the hub answer, with a no? Else something broke on the way."""
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, HfHubHTTPError) and error.response.status_code < 500


def _hashes(path: Path) -> tuple[str, str]:
    """SHA-256 of a file's content, and the hash that git has for it."""
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            blob.update(chunk)
    return sha256.hexdigest(), blob.hexdigest()
