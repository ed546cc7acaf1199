"""Arrays on disk: which jobs were submitted together, and what they left when they were over."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from cluster.backend import Job
from cluster.logfile import tail
from cluster.profile import Profile


class Array:
    """Jobs that were submitted as one array: a folder of the run.

    The folder holds `array.json` (the jobs, before they are submitted), `id` (Slurm's id, once it
    took them), `ended/INDEX.json` (left by each job), `settled` (the indices that were dealt with),
    and what submitit and Slurm write.
    """

    def __init__(self, folder: Path) -> None:
        data = json.loads((folder / "array.json").read_text("utf-8"))
        self.folder = folder
        self.jobs = [job_from_json(job) for job in data["jobs"]]
        self.settled = {int(line) for line in _read(folder / "settled").split()}
        self.id = _read(folder / "id").strip()

    @classmethod
    def create(cls, root: Path, jobs: Sequence[Job], profile: Profile) -> Array:
        """Write down jobs that are to be submitted, in a new folder in `root`."""
        folder = root / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}"
        (folder / "ended").mkdir(parents=True)
        data = {"jobs": [job_to_json(job) for job in jobs], "profile": profile.model_dump()}
        _write(folder / "array.json", json.dumps(data))
        return cls(folder)

    @classmethod
    def all_in(cls, root: Path) -> list[Array]:
        """The arrays of a run that are not over, oldest first."""
        return [cls(path.parent) for path in sorted(root.glob("*/array.json"))]

    @property
    def token(self) -> str:
        """What the array is known by to Slurm even where its id never arrived here."""
        return f"calgrid {self.folder.name}"

    def accepted(self, slurm_id: str) -> None:
        """Slurm took the array, under this id."""
        _write(self.folder / "id", slurm_id)
        self.id = slurm_id

    def element(self, index: int) -> str:
        """Slurm's id of one job; an array of one is submitted as a plain job."""
        return f"{self.id}_{index}" if len(self.jobs) > 1 else self.id

    def unsettled(self) -> list[int]:
        """The indices of the jobs that were not dealt with yet."""
        return [i for i in range(len(self.jobs)) if i not in self.settled]

    def settle(self, index: int) -> None:
        """A job is over and was dealt with."""
        self.settled.add(index)
        with (self.folder / "settled").open("a", encoding="utf-8") as file:
            file.write(f"{index}\n")

    def said(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """What jobs that are over said of themselves, those that were not dealt with yet."""
        for name in os.listdir(self.folder / "ended"):  # noqa: PTH208  (asked every second)
            stem, _, suffix = name.partition(".")
            if suffix == "json" and int(stem) not in self.settled:
                with suppress(FileNotFoundError):  # it has just been requeued
                    yield int(stem), self.words(int(stem))

    def words(self, index: int) -> dict[str, Any]:
        """What one job said of its end.

        Raises:
            FileNotFoundError: it said nothing.
        """
        text = (self.folder / "ended" / f"{index}.json").read_text("utf-8")
        words: dict[str, Any] = json.loads(text)
        return words

    def log(self, index: int) -> str:
        """The end of what Slurm itself printed about a job."""
        return tail(self.folder / f"{self.element(index)}_0_log.out")

    def close(self) -> None:
        """All is dealt with: pack the folder into one file."""
        packed = self.folder.with_suffix(".tar.gz")
        partial = packed.with_name(f".{packed.name}.{os.getpid()}.partial")
        with tarfile.open(partial, "w:gz", compresslevel=1) as tar:
            tar.add(self.folder, self.folder.name)
        partial.replace(packed)
        shutil.rmtree(self.folder, ignore_errors=True)  # a job may still write its last line

    def discard(self) -> None:
        """Slurm did not take it: as if it had never been."""
        shutil.rmtree(self.folder, ignore_errors=True)


def job_to_json(job: Job) -> dict[str, Any]:
    """A job as plain data."""
    return vars(job) | {"log": str(job.log)}


def job_from_json(data: dict[str, Any]) -> Job:
    """What `job_to_json` made, also of another version of this code."""
    known = {field.name: data[field.name] for field in fields(Job) if field.name in data}
    return Job(**known | {"log": Path(data["log"])})


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    """Put `text` under `path` in one step."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)
