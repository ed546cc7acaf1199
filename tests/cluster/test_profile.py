"""Profiles: every key is checked, every mistake is named with its line, allowed and nearest."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import profile
from cluster.profile import Profile, load_profile
from cluster.yamlfile import InputError

EVERY_KEY = """\
backend: slurm
container:
  {runtime: apptainer, image: /s/c.sif, mounts: [/data, "/a:/b:ro"], network: true, shm_gb: 4}
concurrency: 8
cpus: 6
scratch: /scratch/$USER
local_disk: /tmp
account: a
partition: p
qos: q
constraint: c
reservation: r
exclude: n[1-2]
gpu_request: gres
gpu_type: a100
mem: none
sbatch: {licenses: "x:1", nice: 100, contiguous: true}
srun_args: [--mpi=none]
setup: [module load cuda]
max_array_size: 1001
submit_limit: 500
"""


def refusal(folder: Path, text: str) -> list[str]:
    path = folder / "site.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_profile(str(path))
    return error.value.lines


def test_every_key_may_be_set(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(EVERY_KEY)
    assert load_profile(str(path)).model_fields_set == set(Profile.model_fields)


@pytest.mark.parametrize("name", profile.shipped())
def test_what_ships_is_right(name: str) -> None:
    assert load_profile(name).backend == name


def test_every_mistake_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    lines = refusal(tmp_path, "backend: slum\npartion: x\nconcurrency: 0\n")
    assert [line.split(": ")[0].rpartition(":")[2] for line in lines] == ["1", "2", "3"]
    assert "'slurm'" in lines[0]
    assert "did you mean 'partition'" in lines[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("backend: slurm\nsbatch: {time: 5}", "resources.timeout_min"),
        ("backend: slurm\nsbatch: {partition: x}", "key of the profile itself"),
        ("backend: slurm\nsbatch: {--nice: 5}", "without its dashes"),
        ("backend: slurm\nsbatch: {exclusive: false}", "leave a flag out"),
        ("backend: local\npartition: x", "on backend slurm only"),
        ("backend: local\ncontainer: {runtime: docker, image: x}", "use docker"),
        ("backend: docker\ncontainer: {runtime: docker}", "needs an image"),
        ("backend: docker", "allowed: docker, podman, apptainer"),
        ("backend: slurm\ncontainer: {mounts: [data]}", "no mount"),
        ("concurrency: 2", "missing"),
        ("- backend", "a profile is a mapping"),
    ],
)
def test_what_is_refused_says_why(tmp_path: Path, text: str, said: str) -> None:
    assert said in " ".join(refusal(tmp_path, text))


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'slurm'"):
        load_profile("slrm")
    with pytest.raises(InputError, match="No such file"):
        load_profile(str(tmp_path / "nothing.yaml"))


def test_variables_of_paths_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE", "/fast")
    assert profile.expand("$SITE/x") == "/fast/x"
    with pytest.raises(InputError, match="not set"):
        profile.expand("$NOT_SET_ANYWHERE/x")


def test_without_a_name_it_is_slurm_where_jobs_can_be_submitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/sbatch")
    assert profile.default_name() == "slurm"
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert profile.default_name() == "local"
