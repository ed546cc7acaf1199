"""A hub id becomes a folder: a local one, the mirror's, or the hub cache's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prune.model.hub import NotFetchedError, find, split_revision


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any call of the hub's library fails the test."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_a_revision_stands_behind_an_at_sign() -> None:
    assert split_revision("owner/name@v1") == ("owner/name", "v1")
    assert split_revision("owner/name") == ("owner/name", None)


@pytest.mark.usefixtures("no_hub")
def test_a_mirror_holds_hub_ids_whatever_the_revision(tmp_path: Path) -> None:
    there = folder(tmp_path / "mirror/owner/name")
    for name in ("owner/name", "owner/name@v1"):
        assert find(name, "model", tmp_path / "mirror", tmp_path) == there


@pytest.mark.usefixtures("no_hub")
def test_what_the_mirror_lacks_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        find("owner/name", "dataset", tmp_path, tmp_path)
    assert f"dataset 'owner/name' is not in the mirror: no folder {tmp_path}/owner/name" in str(
        error.value
    )
    assert "mirror: null" in str(error.value)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["models/a", "./models/a", "models/../models/a"])
def test_a_relative_folder_is_relative_to_the_grid(name: str, tmp_path: Path) -> None:
    there = folder(tmp_path / "models/a")
    assert find(name, "model", None, tmp_path) == there
    assert find(name, "model", tmp_path / "mirror", tmp_path) == there
    assert find(str(there), "model", None, Path("/")) == there


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    "name", ["./a", "/no/such", "~/no-such-folder", "~nobody-here/a", "a", "a/b/c", "a/..", "a b/c"]
)
def test_a_folder_that_is_not_there(name: str, tmp_path: Path) -> None:
    for mirror in (None, folder(tmp_path / f"mirror{len(name)}")):
        with pytest.raises(FileNotFoundError, match=r"no folder .* is no hub id"):
            find(name, "model", mirror, tmp_path / "grids")


def cached(home: Path, kind: str, commit: str, reference: str) -> Path:
    """A repository in the hub cache at `home`, as the hub's library lays it out."""
    storage = home / f"{kind}s--owner--name"
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / reference).write_text(commit)
    return folder(storage / "snapshots" / commit)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(("asked", "reference"), [("owner/name", "main"), ("owner/name@v1", "v1")])
def test_the_hub_cache_is_looked_into_and_nothing_is_fetched(
    asked: str, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    there = cached(tmp_path, "dataset", "a" * 40, reference)
    assert find(asked, "dataset", None, tmp_path) == there
    assert find(f"owner/name@{'a' * 40}", "dataset", None, tmp_path) == there


@pytest.mark.usefixtures("no_hub")
def test_an_id_that_is_not_in_the_cache_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NotFetchedError, match="model 'owner/name@v1' is not on this machine yet"):
        find("owner/name@v1", "model", None, tmp_path)
