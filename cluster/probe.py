"""Write or check a profile: `python -m cluster.probe [PROFILE]`.

Asks the site what it is (Slurm's limits, partitions and accounts, container runtimes, quota,
driver). A PROFILE that is not there yet is written, with what was found as comments; one that is
there, or ships, is checked. Either way one short job then runs through it and reports what it
finds where it runs. Exit codes: 0 all holds, 1 something does not, 2 the input was wrong.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from signal import SIGTERM

from rich.console import Console
from ruamel.yaml import YAML

from cluster import site
from cluster.backend import Job, open_backend
from cluster.profile import Profile, load_profile, shipped
from cluster.yamlfile import InputError

EXIT_HOLDS, EXIT_FAILS, EXIT_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

QUEUE_SECONDS = 1800.0
"""How long the job may take, queue included."""

OPTIONAL = {"none": ("network refused", "read-only root"), "pyxis": ("network refused",)}
"""What a runtime cannot do, and nobody promised."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.probe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "profile", nargs="?", help="a name or file; a file that is not there is written"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs"), help="where runs will lie (runs)"
    )
    parser.add_argument("--no-job", action="store_true", help="ask the site only")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        return _probe(options, console)
    except InputError as error:
        for line in error.lines:
            print(line, file=sys.stderr)
        return EXIT_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _probe(options: argparse.Namespace, console: Console) -> int:
    options.folder.mkdir(parents=True, exist_ok=True)
    found = site.ask(options.folder)
    name = options.profile or f"{found.slurm.get('ClusterName', 'local')}.yaml"
    if name not in shipped() and not Path(name).expanduser().exists():
        written, comments = site.profile_of(found)
        write(Path(name).expanduser(), written, comments)
        console.print(f"wrote {name}; look it through, and add what your site wants")
    profile = load_profile(name if "/" in name or name in shipped() else f"./{name}")
    wrong = contradictions(profile, found)
    for line in wrong:
        console.print(f"[red]no[/red]   {line}")
    if options.no_job:
        return EXIT_FAILS if wrong else EXIT_HOLDS
    failed = run_job(profile, options.folder, console)
    return EXIT_FAILS if wrong or failed else EXIT_HOLDS


def write(path: Path, profile: dict[str, object], comments: list[str]) -> None:
    """Write a profile, what was found above it."""
    if path.suffix not in (".yaml", ".yml"):
        raise InputError([f"{path}: a profile file ends in .yaml"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for comment in comments:
            file.writelines(f"# {line}\n" for line in comment.splitlines())
        YAML().dump(profile, file)


def contradictions(profile: Profile, found: site.Site) -> list[str]:
    """What a profile says against what the site says."""
    wrong = []
    if profile.backend == "slurm" and not found.slurm:
        return ["backend slurm: there is no sbatch here, or Slurm does not answer"]
    partitions = {p["name"] for p in found.partitions}
    asked = set((profile.partition or "").split(",")) - {""}
    if profile.backend == "slurm" and asked - partitions:
        wrong.append(
            f"partition {profile.partition}: there is none of this name; there are: "
            + ", ".join(sorted(partitions))
        )
    accounts = {account for account, _ in found.accounts}
    if profile.account and accounts and profile.account not in accounts:
        wrong.append(f"account {profile.account}: yours are: {', '.join(sorted(accounts))}")
    largest = found.max_array_size
    if profile.max_array_size and largest and profile.max_array_size > largest:
        wrong.append(f"max_array_size {profile.max_array_size}: Slurm's MaxArraySize is {largest}")
    runtime = profile.container.runtime
    if runtime != "none" and profile.backend != "slurm" and runtime not in found.runtimes:
        wrong.append(f"container.runtime {runtime}: it is not installed here")
    return wrong


def run_job(profile: Profile, folder: Path, console: Console) -> bool:
    """Run `cluster.inside` once as a job of a profile and print what it found; True if bad."""
    run = folder.resolve() / f".probe-{int(time.time())}"
    run.mkdir()
    (run / "nonce").write_text(run.name, "utf-8")
    backend = open_backend(profile, run)
    backend.prepare(lambda line: console.print(line, markup=False))
    job = Job(
        name="probe",
        command=("-m", "cluster.inside", str(run)),
        log=run / "probe.log",
        writes=(str(run),),
        gpus=1 if profile.gpu_request != "none" else 0,
        timeout_min=10,
    )
    console.print(f"one job: {backend.describe()}")
    since, signalled, over = time.monotonic(), False, None
    backend.submit([job])
    try:
        while over is None and time.monotonic() - since < QUEUE_SECONDS:
            time.sleep(backend.interval)
            over = next(iter(backend.poll()), None)
            if not signalled and (run / "ready").exists():
                backend.send(SIGTERM)
                signalled = True
    finally:
        if over is None:
            backend.stop()
    if not (run / "inside.json").is_file():
        cause = "it did not end in time" if over is None else over.cause or f"exit code {over.code}"
        console.print(f"[red]no[/red]   the job: {cause}; its log: {job.log}")
        return True
    answers = json.loads((run / "inside.json").read_text("utf-8"))
    if (run / "answer").read_text("utf-8") != run.name:
        answers["shared path"] = (False, f"{run} is another folder there")
    bad = show(answers, profile, console)
    shutil.rmtree(run)
    return bad


def show(answers: dict[str, tuple[bool | None, str]], profile: Profile, console: Console) -> bool:
    """Print the answers, a line each; True if one is bad."""
    optional = set(OPTIONAL.get(profile.container.runtime, ()))
    if profile.container.network:
        optional.add("network refused")
    bad = False
    for name, (holds, seen) in answers.items():
        word = {True: "[green]yes[/green]", False: "[red]no[/red] ", None: "-  "}[holds]
        if holds is False and name in optional:
            word = "-  "
        else:
            bad |= holds is False
        console.print(f"{word}  {name}: {seen}")
    return bad


if __name__ == "__main__":
    sys.exit(main())
