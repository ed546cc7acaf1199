"""Fetching repositories of the hub into a mirror, and keeping its manifest."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from calib import datafiles
from calib.spec import DatasetSpec
from cluster.yamlfile import InputError
from jobs.files import sha256_of
from prune.model import files as models
from prune.model import hub
from prune.model.manifest import Fetched, File, Manifest

ATTEMPTS = 4
"""Tries at one file in a row that bring nothing new."""


@dataclass(frozen=True)
class Wanted:
    """A repository that a grid needs: a model, or the data files that `spec` reads."""

    kind: hub.Kind
    name: str
    spec: DatasetSpec | None

    def choose(self, names: Sequence[str], card: str) -> list[str]:
        """The files that are needed, of all that the repository has.

        Raises:
            FileNotFoundError: it has none that fit.
        """
        if self.spec is None:
            return models.wanted_files(names)
        described = [n for n in ("README.md", *datafiles.NOT_DATA) if n in names]
        return sorted({*described, *datafiles.select_files(self.spec, names, card)})


class Fetcher:
    """Fills one mirror.

    A repository stays at the commit that it was first fetched at, so that a mirror never holds a
    mixture, and a study does not change under its author's hands.
    """

    def __init__(self, mirror: Path, console: Console) -> None:
        self.mirror = mirror
        self.console = console
        self.manifest = Manifest.read(mirror).model_copy(deep=True)

    def fetch(self, wanted: Iterable[Wanted], grid: Path) -> None:
        """Fetch what is wanted and not there yet.

        Raises:
            InputError: something cannot be had; every such thing, before anything large is fetched.
            hub.BrokenTransferError: the network broke.
        """
        plans: list[tuple[hub.Repository, list[str]]] = []
        problems: list[str] = []
        for want in _distinct(wanted):
            try:
                plan = self.plan(want)
            except (FileNotFoundError, ValueError) as error:
                problems.append(f"{grid}: {want.kind} {want.name}: {error}")
            else:
                if plan is not None:
                    plans.append(plan)
        if problems:
            raise InputError(problems)
        self._check_space([(r, self._missing(r, names)) for r, names in plans])
        for repository, names in plans:
            try:
                self.download(repository, names)
            except ValueError as error:
                line = f"{grid}: {repository.kind} {repository.repo}: {error}"
                raise InputError([line]) from error

    def plan(self, want: Wanted) -> tuple[hub.Repository, list[str]] | None:
        """The repository and the files of it that are needed; None where all are there.

        Raises:
            FileNotFoundError, ValueError: it cannot be had; the message says why.
            hub.BrokenTransferError: the hub cannot be reached.
        """
        repo, revision = hub.split_revision(want.name)
        entry = self.manifest.repository(want.kind, repo)
        wrong = entry is not None and revision not in (None, entry.revision, entry.commit)
        if entry is not None and not wrong and self._has_all(want, entry):
            return None
        repository = self.open(want.kind, want.name)
        return repository, want.choose(list(repository.files), self.card(repo))

    def open(self, kind: hub.Kind, name: str) -> hub.Repository:
        """A repository at the commit that the mirror has it at, else at its newest.

        Raises:
            ValueError: it cannot be had; the message says why.
            hub.BrokenTransferError: the hub cannot be reached.
        """
        repo, revision = hub.split_revision(name)
        entry = self.manifest.repository(kind, repo)
        other: hub.Kind = "dataset" if kind == "model" else "model"
        if self.manifest.repository(other, repo) is not None:
            raise ValueError(f"the mirror has a {other} of the same name; use another mirror")
        if entry is not None and revision not in (None, entry.revision, entry.commit):
            raise ValueError(
                f"the mirror has it at {entry.revision} ({entry.commit}); use another mirror"
            )
        with plain_refusals():
            repository = hub.resolve(name if entry is None else f"{repo}@{entry.commit}", kind)
        if entry is None:
            self.manifest.repositories[f"{kind} {repo}"] = Fetched(
                revision=revision or hub.DEFAULT_REVISION,
                commit=repository.commit,
                listing=sorted(repository.files),
            )
        describing = "README.md" if kind == "dataset" else "config.json"
        self.download(repository, [n for n in (describing,) if n in repository.files])
        return repository

    def _has_all(self, want: Wanted, entry: Fetched) -> bool:
        """Can the wanted files be named, and are all of them there as they were fetched?"""
        repo, _ = hub.split_revision(want.name)
        try:
            names = want.choose(entry.listing, self.card(repo))
        except FileNotFoundError:
            return False
        folder = self.mirror / repo
        kept = [_kept_name(name) for name in names]
        return all(n in entry.files and entry.files[n].is_untouched(folder / n) for n in kept)

    def card(self, repo: str) -> str:
        """The README of a repository, as far as it is there."""
        card = self.mirror / repo / "README.md"
        return card.read_text("utf-8", "replace") if card.is_file() else ""

    def is_whole(self, kind: hub.Kind, repo: str) -> bool:
        """Is every file of a repository that was fetched there as it was?"""
        entry = self.manifest.repository(kind, repo)
        folder = self.mirror / repo
        return entry is not None and all(f.is_untouched(folder / n) for n, f in entry.files.items())

    def _missing(self, repository: hub.Repository, names: Sequence[str]) -> list[str]:
        entry = self.manifest.repositories[f"{repository.kind} {repository.repo}"]
        folder = self.mirror / repository.repo
        return [
            name
            for name in names
            if (kept := entry.files.get(_kept_name(name))) is None
            or not kept.is_untouched(folder / _kept_name(name))
        ]

    def _check_space(self, plans: Sequence[tuple[hub.Repository, list[str]]]) -> None:
        needed = sum(r.files[name].size for r, names in plans for name in names)
        free = shutil.disk_usage(self.mirror).free
        if needed > free:
            raise InputError(
                [f"{needed / 1e9:.1f} GB to fetch, and {self.mirror} has {free / 1e9:.1f} GB free"]
            )

    def download(self, repository: hub.Repository, names: Sequence[str]) -> None:
        """Fetch files that are missing or changed, convert pickled weights, note each at once."""
        missing = self._missing(repository, names)
        if not missing:
            return
        total = sum(repository.files[name].size for name in missing)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        shown = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        with shown as bar:
            task = bar.add_task(f"{repository.kind} {repository.repo}", total=total)
            done = 0
            for name in missing:
                size = repository.files[name].size
                if not self.console.is_terminal:
                    self.console.print(f"{repository.repo}: {name} ({size / 1e6:,.1f} MB)")
                before = done
                self._one(repository, name, lambda n, b=before: bar.update(task, completed=b + n))  # type: ignore[misc]
                done += size
                bar.update(task, completed=done)

    def _one(self, repository: hub.Repository, name: str, progress: Callable[[int], None]) -> None:
        folder = self.mirror / repository.repo
        remote = repository.files[name]
        kept = _kept_name(name)
        target = folder / (name if kept == name else f".{name}")
        failures = 0
        while True:
            try:
                with plain_refusals():
                    sha256 = hub.download(repository, name, target, progress)
                break
            except hub.BrokenTransferError as error:
                failures = 1 if error.progressed else failures + 1
                if failures == ATTEMPTS:
                    raise
                self.console.print(f"{error}; going on from there")
                time.sleep(failures)
        made_from = None
        if kept != name:
            from prune.model import convert

            make = convert.convert_index if name == models.PICKLED_INDEX else convert.convert
            make(target, folder / kept)
            target.unlink()
            made_from, sha256 = sha256, sha256_of(folder / kept)
        stat = (folder / kept).stat()
        size = stat.st_size
        assert made_from or size == remote.size
        entry = self.manifest.repositories[f"{repository.kind} {repository.repo}"]
        entry.files[kept] = File(
            sha256=sha256, size=size, mtime_ns=stat.st_mtime_ns, made_from=made_from
        )
        self.manifest.write(self.mirror)


def _kept_name(name: str) -> str:
    """The name of a file in the mirror: pickled weights are kept as safetensors."""
    if not models.pickled([name]) and name != models.PICKLED_INDEX:
        return name
    return models.converted_name(name)


def _distinct(wanted: Iterable[Wanted]) -> list[Wanted]:
    """Each repository and choice of files once."""
    unique: dict[tuple[str, str, str], Wanted] = {}
    for want in wanted:
        spec = "" if want.spec is None else want.spec.model_dump_json()
        unique.setdefault((want.kind, want.name, spec), want)
    return list(unique.values())


@contextmanager
def plain_refusals() -> Iterator[None]:
    """What the hub refuses, as `ValueError` with what to do about it.

    Raises:
        ValueError: it refused.
        hub.BrokenTransferError: it could not be reached, or did not answer as a hub does.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,  # of the HTTP library that this version of the hub's library uses
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise ValueError(
            "it is gated: accept its terms on its page on the hub, then log in here with "
            "`hf auth login` (the token stays on this machine)"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            "the hub has no such repository; correct the name, or log in with `hf auth login` if "
            "it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError("the hub has no such revision of it") from error
    except OfflineModeIsEnabled as error:
        raise ValueError("HF_HUB_OFFLINE is set, so nothing can be fetched; unset it") from error
    except (HTTPError, OSError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise hub.BrokenTransferError(f"the hub cannot be reached ({cause})") from error
