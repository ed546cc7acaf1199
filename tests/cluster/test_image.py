"""Which image a profile means, and refusing one that holds other code; engines are scripts here.

The real ones are in tests/real.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import image
from cluster.code import ROOT, code_files, code_hash, differences
from cluster.profile import Container
from cluster.yamlfile import InputError

Engine = Callable[[str], Path]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Makes `docker` a shell script, which notes its arguments in `asked`."""

    def make(script: str) -> Path:
        program = tmp_path / "docker"
        asked = tmp_path / "asked"
        program.write_text(f'#!/bin/sh\necho "$@" >>{asked}\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return asked

    for name in image.BUILD_ARGUMENTS:
        monkeypatch.delenv(name, raising=False)
    return make


def said(container: Container) -> str:
    with pytest.raises(InputError) as error:
        image.prepare(container, False, Path("/nowhere"), print)
    return "\n".join(error.value.lines)


OURS = Container(runtime="docker", image="calgrid")
THEIRS = Container(runtime="docker", image="site/calgrid:7")


def test_an_image_without_a_tag_is_built_once(engine: Engine, tmp_path: Path) -> None:
    built = tmp_path / "built"
    asked = engine(
        f"case $1 in build) echo '#5 [2/4] RUN it'; touch {built} ;; "
        f"image) test -e {built} && echo sha256:aa ;; esac"
    )
    steps: list[str] = []
    name, digest = image.prepare(OURS, False, tmp_path, steps.append)
    assert digest == "sha256:aa"
    assert re.fullmatch(r"calgrid:[0-9a-f]{12}", name)
    assert any("RUN it" in step for step in steps)
    (build,) = [line for line in asked.read_text().splitlines() if line.startswith("build")]
    assert "--build-arg TORCH=cpu" in build
    assert f"--build-arg CODE_SHA256={code_hash()}" in build
    assert "--pull" not in build  # there may be no registry
    assert not any("earlier code" in step for step in steps)
    asked.unlink()
    assert image.prepare(OURS, False, tmp_path, steps.append) == (name, digest)
    assert "build" not in asked.read_text()
    assert image.prepare(OURS, True, tmp_path, steps.append)[0] != name  # with GPUs it is another


def test_images_of_earlier_code_are_told_of(engine: Engine, tmp_path: Path) -> None:
    built = tmp_path / "built"
    engine(
        f"case $1-$2 in build-*) touch {built} ;; image-ls) printf 'aa\\nbb\\ncc\\ncc\\n' ;; "
        f"image-*) test -e {built} && echo sha256:aa ;; esac"
    )
    steps: list[str] = []
    image.prepare(OURS, False, tmp_path, steps.append)
    assert "earlier code are kept: 2; to remove" in steps[-1]
    assert f"docker image prune --all --filter {image.TITLE} --filter until=24h" in steps[-1]
    label = image.TITLE.removeprefix("label=")
    assert label in (ROOT / "Dockerfile").read_text()


def test_a_folder_of_wheels_comes_into_the_build(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    flags = list(image._build_flags("docker", False))
    assert flags[flags.index("--build-context") + 1] == f"wheels={tmp_path}"
    assert "PIP_FIND_LINKS=/wheels" in flags


def test_a_password_does_not_get_into_the_image(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine("exit 0")
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:secret@index/simple")
    assert "PIP_INDEX_URL: an address with a password" in said(OURS)


def test_a_build_that_fails_says_what_the_engine_said(engine: Engine) -> None:
    engine("case $1 in build) echo 'ERROR: no space'; exit 1 ;; image) exit 1 ;; esac")
    assert "ERROR: no space" in said(OURS)


def test_an_image_that_is_not_there(engine: Engine) -> None:
    engine("case $1 in image) exit 1 ;; esac")
    assert "site/calgrid:7 is not on this machine" in said(THEIRS)


def test_podman_behind_the_docker_client_is_refused(engine: Engine) -> None:
    engine("echo 'Server: Podman Engine'")
    assert "write runtime: podman" in said(OURS)


def test_an_engine_that_does_not_answer(engine: Engine) -> None:
    engine("echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    assert "Cannot connect to the Docker daemon" in said(OURS)


def test_other_code_is_refused_by_name(engine: Engine, tmp_path: Path) -> None:
    theirs = code_files() | {"jobs/cell.py": "0" * 64}
    del theirs["prune/wanda.py"]
    (tmp_path / "code.json").write_text(json.dumps(theirs))
    engine(f"case $1 in image) echo sha256:aa ;; run) cat {tmp_path}/code.json ;; esac")
    assert "holds other code than this launcher: jobs/cell.py, prune/wanda.py;" in said(THEIRS)


def test_an_image_with_this_code_is_taken(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "code.json").write_text(json.dumps(code_files()))
    engine(f"case $1 in image) echo sha256:aa ;; run) cat {tmp_path}/code.json ;; esac")
    assert image.prepare(THEIRS, False, tmp_path, print) == ("site/calgrid:7", "sha256:aa")


def test_an_image_that_does_not_start(engine: Engine) -> None:
    engine("case $1 in image) echo sha256:aa ;; run) echo 'exec format error' >&2; exit 1 ;; esac")
    assert "does not start: exec format error" in said(THEIRS)


def test_differences_are_both_ways() -> None:
    assert differences({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == ["a", "b", "c"]


DOCKERFILE = (ROOT / "Dockerfile").read_text()
DEFINITION = (ROOT / "apptainer.def").read_text()


class TestDockerfile:
    def test_it_needs_no_registry_but_for_the_base(self) -> None:
        assert "# syntax=" not in DOCKERFILE  # looked up at a registry before anything else
        assert re.findall(r"^ARG BASE_IMAGE=(.*)$", DOCKERFILE, re.M) == ["python:3.12-slim"]

    def test_no_minor_version_of_python_is_named_elsewhere(self) -> None:
        rest = DOCKERFILE.replace("python:3.12-slim", "", 1)
        script = (ROOT / "cluster/image.sh").read_text()
        assert not re.search(r"3\.1\d", rest + script)

    def test_code_comes_last(self) -> None:
        steps = [m[1] for m in re.finditer(r"image\.sh (\w+)$", DOCKERFILE, re.M)]
        assert steps == ["compiler", "dependencies", "code"]

    def test_its_entry_point_is_no_shell(self) -> None:
        assert 'ENTRYPOINT ["python", "-P", "-m", "cluster.pid1"]' in DOCKERFILE

    def test_it_runs_without_root(self) -> None:
        assert re.search(r"^USER 1000:1000$", DOCKERFILE, re.M)

    def test_arguments_are_declared_where_they_are_used(self) -> None:
        for name in image.BUILD_ARGUMENTS:
            assert re.search(rf"^ARG {name}=", DOCKERFILE, re.M), name


def test_the_apptainer_image_is_made_by_the_same_steps() -> None:
    steps = [m[1] for m in re.finditer(r"image\.sh (\w+)$", DEFINITION, re.M)]
    assert steps == ["compiler", "dependencies", "code"]
    copied = re.findall(r"^    (\S+) /src/$", DEFINITION, re.M)  # a line each, or it is no copy
    assert copied == re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.M)


def test_an_apptainer_image_that_is_not_there() -> None:
    container = Container(runtime="apptainer", image="/no/calgrid.sif")
    assert "no file /no/calgrid.sif; make it with `apptainer build" in said(container)
