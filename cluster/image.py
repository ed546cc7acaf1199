"""Images: which one a profile means, building it where it is missing, and whether it is ours.

An image without a tag (`calgrid`) is built here, from this code, on docker and podman; its tag is
a hash of all that it is made of. Any other is taken as it is, and refused where its code is not
the code that launches.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from cluster.backend import Say
from cluster.code import ROOT, code_files, code_hash, commit, differences
from cluster.container import Sandbox, User, command
from cluster.profile import Container, expand
from cluster.yamlfile import InputError

RECIPE = ("Dockerfile", "cluster/image.sh", "constraints.txt", "pyproject.toml")
"""What an image is made of beside the code."""

BUILD_ARGUMENTS = ("BASE_IMAGE", "TORCH", "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
"""Variables of the launcher that go into a build; see the Dockerfile."""

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

TITLE = "label=org.opencontainers.image.title=calgrid"
"""What an engine finds all of our images by."""

MOST_LINES = 25
"""Last lines of a failed build that are shown."""


def prepare(
    container: Container, gpus: bool, runs: Path, say: Say, build: bool = True
) -> tuple[str, str]:
    """Make sure that the image of a profile is there and holds this code.

    Args:
        container: of the profile. gpus: will it be given any?
        runs: the folder of runs, where the hashes of image files are remembered.
        say: told what takes long.
        build: build it here if it is missing; not where other machines run the jobs.

    Returns:
        The image as the runtime takes it, and its digest.

    Raises:
        InputError: it cannot be had, or holds other code; the message says what to do.
    """
    assert container.image is not None
    if container.runtime in ("apptainer", "pyxis"):
        image = expand(container.image)
        if container.runtime == "apptainer":
            if "://" not in image and not Path(image).exists():
                raise InputError(
                    [
                        f"container.image: no file {image}; make it with `apptainer build {image} "
                        "apptainer.def`, or from an image of Docker (README, In containers)"
                    ]
                )
            check_code(container, image)
        return image, digest_of(container, runs)
    check_engine(container.runtime)
    built_here = (
        build and ":" not in container.image.rpartition("/")[2] and "@" not in container.image
    )
    image = f"{container.image}:{_tag(gpus)}" if built_here else container.image
    digest = engine_digest(container.runtime, image)
    if digest is None and built_here:
        build_image(container.runtime, image, gpus, say)
        digest = engine_digest(container.runtime, image)
        _tell_older(container.runtime, image, say)
    if digest is None:
        raise InputError(
            [
                f"container.image: {image} is not on this machine; pull or build it "
                f"(`{container.runtime} build -t {image} .`), or name it without a tag to have it "
                "built"
            ]
        )
    if not built_here:
        check_code(container, image)
    return image, digest


def check_engine(runtime: str) -> None:
    """See that the engine answers, and is what it is called.

    Raises:
        InputError: it is not there, does not answer, or podman stands behind the docker client,
            which then loses exit codes.
    """
    if shutil.which(runtime) is None:
        raise InputError(
            [f"container.runtime: {runtime} is not installed here; use --cluster local, or install"]
        )
    done = subprocess.run([runtime, "version"], capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise InputError([f"container.runtime: {runtime} does not work here: {why[-1]}"])
    if runtime == "docker" and "podman" in done.stdout.lower():
        raise InputError(
            [
                "container.runtime: docker is a client of podman here, and loses exit codes; "
                "write runtime: podman"
            ]
        )


def engine_digest(runtime: str, image: str) -> str | None:
    """The id of an image that an engine has, None where it has none of this name."""
    inspect = [runtime, "image", "inspect", "--format", "{{.Id}}", image]
    done = subprocess.run(inspect, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def digest_of(container: Container, runs: Path) -> str:
    """The digest of an image on this node; its name where there is none to be had.

    Image files are hashed once, and remembered by path, size and time in the folder of runs.
    """
    image = expand(container.image or "")
    if container.runtime in ("docker", "podman"):
        return engine_digest(container.runtime, image) or image
    path = Path(image)
    if not path.is_file():
        return image  # a tag, which pyxis resolves itself
    stat = path.stat()
    name = f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
    known = runs / ".fingerprints" / f"image-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    if not known.is_file() or not known.read_text("utf-8").startswith("sha256:"):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        known.parent.mkdir(parents=True, exist_ok=True)
        partial = known.with_name(f"{known.name}.{platform.node()}.{os.getpid()}")
        partial.write_text(f"sha256:{digest}", "utf-8")
        partial.replace(known)
    return known.read_text("utf-8")


def check_code(container: Container, image: str) -> None:
    """Compare the code of an image with this code.

    Raises:
        InputError: they differ, with the names of files; or the image does not start.
    """
    assert container.runtime != "none"
    scratch = "/tmp" if container.runtime == "apptainer" else None
    box = Sandbox(container.runtime, image, User.invoking(), local_disk=scratch)
    line = command(box, ["python", "-P", "-m", "cluster.code"], {})
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)
        theirs = json.loads(done.stdout)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise InputError([f"container.image: {image} does not start: {error}"]) from error
    except ValueError:
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise InputError([f"container.image: {image} does not start: {said}"]) from None
    wrong = differences(code_files(), theirs)
    if wrong:
        raise InputError([drift_message(image, wrong)])


def drift_message(image: str, wrong: list[str]) -> str:
    """What is said where an image holds other code than the launcher."""
    some = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    return (
        f"container.image: {image} holds other code than this launcher: {some}; build it anew, or "
        "launch from the code that it was built from"
    )


def build_image(runtime: str, image: str, gpus: bool, say: Say) -> None:
    """Build an image from this code, saying each step.

    Raises:
        InputError: it cannot be built, with the end of what the engine said.
    """
    if not (ROOT / "Dockerfile").is_file():
        raise InputError(
            [
                f"container.image: {image} cannot be built: there is no Dockerfile beside the code "
                f"in {ROOT}; launch from a checkout, or name an image with its tag"
            ]
        )
    say(f"building {image}: it is missing; a few minutes the first time")
    process = subprocess.Popen(
        [runtime, "build", "--tag", image, *_build_flags(runtime, gpus), str(ROOT)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"},
    )
    assert process.stdout is not None
    last: deque[str] = deque(maxlen=MOST_LINES)
    try:
        for line in process.stdout:
            last.append(line.rstrip())
            if _is_step(line):
                say("  " + re.sub(r"--mount=\S+\s+", "", line.strip()))
        code = process.wait()
    finally:
        process.kill()
    if code:
        raise InputError([*last, f"container.image: {image} could not be built; see above"])


def _tell_older(runtime: str, image: str, say: Say) -> None:
    """Say how to be rid of what was built from earlier code; another launch may still use it."""
    listing = [runtime, "image", "ls", "--quiet", image.rpartition(":")[0]]
    done = subprocess.run(listing, capture_output=True, text=True, check=False)
    older = len(set(done.stdout.split())) - 1
    if older > 0:
        say(
            f"images of earlier code are kept: {older}; to remove those that are a day old: "
            f"{runtime} image prune --all --filter {TITLE} --filter until=24h"
        )


def _is_step(line: str) -> bool:
    """Does a line of progress begin a step: `#7 [stage-1 2/4] RUN ...` or `STEP 3/9: RUN ...`?"""
    return re.match(r"#\d+ \[.*\d/\d+\] |STEP \d", line) is not None


def _build_flags(runtime: str, gpus: bool) -> Iterator[str]:
    revision, _ = commit()
    constraints = hashlib.sha256((ROOT / "constraints.txt").read_bytes()).hexdigest()
    arguments = _arguments(gpus) | {
        "GIT_COMMIT": revision or "",
        "CONSTRAINTS_SHA256": constraints,
        "CODE_SHA256": code_hash(),
    }
    wheels = Path(arguments.get("PIP_FIND_LINKS") or _wheels_of_pip())
    if wheels.is_absolute() and wheels.is_dir():  # a folder here, which the build sees as /wheels
        arguments["PIP_FIND_LINKS"] = "/wheels"
        yield from ("--build-context", f"wheels={wheels}")
    for name, value in arguments.items():
        yield from ("--build-arg", f"{name}={value}")
    for name in PROXIES:
        if os.environ.get(name):
            yield from ("--build-arg", name)  # by name: the value stays out of the image


def _wheels_of_pip() -> str:
    """The folder that pip's configuration on this machine looks into for wheels, if any."""
    ask = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _arguments(gpus: bool) -> dict[str, str]:
    given = {name: os.environ[name] for name in BUILD_ARGUMENTS if os.environ.get(name)}
    with_password = [n for n, v in given.items() if "://" in v and "@" in v]
    if with_password:
        raise InputError(
            [f"{', '.join(with_password)}: an address with a password would stay in the image"]
        )
    return {"TORCH": "cuda" if gpus else "cpu"} | given


def _tag(gpus: bool) -> str:
    """A hash of all that an image is made of."""
    parts = [code_hash(), json.dumps(_arguments(gpus), sort_keys=True)]
    parts += [(ROOT / name).read_text("utf-8") for name in RECIPE if (ROOT / name).is_file()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
