"""The command line of each runtime; every test is a trap that real engines have."""

from __future__ import annotations

import csv
import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.backend import Job
from cluster.contained import meaning
from cluster.container import (
    RUNTIMES,
    Mount,
    Runtime,
    Sandbox,
    User,
    command,
    kill_command,
    outermost,
    visible_gpus,
)

PROGRAM = ["python", "-m", "jobs.cell", "/shared/runs/a", "0123"]
ME = User(1000, 100, (5000, 5001), "ada")
ENGINES: list[Runtime] = ["docker", "podman"]


def box(runtime: Runtime, **changes: object) -> Sandbox:
    local_disk = "/local/job" if runtime == "apptainer" else None
    made = Sandbox(
        runtime,
        "calgrid:1",
        ME,
        mounts=(Mount("/shared/runs", writable=True), Mount("/data/models")),
        local_disk=local_disk,
        name="calgrid-a-0123",
        labels={"calgrid.run": "/shared/runs/a"},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def values(line: list[str], flag: str) -> list[str]:
    """The values of a flag, written `--flag value` or `--flag=value`."""
    pairs = [b for a, b in itertools.pairwise(line) if a == flag]
    return pairs + [a.removeprefix(f"{flag}=") for a in line if a.startswith(f"{flag}=")]


def variables(runtime: Runtime, line: list[str]) -> dict[str, str]:
    """What the program's environment is given by a command line."""
    if runtime in ENGINES:
        given = values(line, "--env")
    else:
        given = [a.removeprefix("APPTAINERENV_") for a in line if "=" in a and a[0] != "-"]
    return dict(v.split("=", 1) for v in given)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_program_comes_last_and_whole(runtime: Runtime) -> None:
    line = command(box(runtime), PROGRAM, {"A": "1 2"})
    assert line[-len(PROGRAM) :] == PROGRAM
    assert variables(runtime, line)["A"] == "1 2"


@pytest.mark.parametrize("runtime", ENGINES)
class TestEngines:
    def test_root_is_read_only_and_powerless(self, runtime: Runtime) -> None:
        line = command(box(runtime), PROGRAM, {})
        assert {"--read-only", "--cap-drop=ALL", "--rm"} <= set(line)
        assert "no-new-privileges" in values(line, "--security-opt")

    def test_the_network_is_refused_unless_wanted(self, runtime: Runtime) -> None:
        assert values(command(box(runtime), PROGRAM, {}), "--network") == ["none"]
        assert values(command(box(runtime, network=True), PROGRAM, {}), "--network") == []

    def test_files_are_the_invoking_users(self, runtime: Runtime) -> None:
        assert values(command(box(runtime), PROGRAM, {}), "--user") == ["1000:100"]

    def test_a_user_without_an_entry_has_a_home_and_a_name(self, runtime: Runtime) -> None:
        given = variables(runtime, command(box(runtime), PROGRAM, {}))
        assert given["HOME"].startswith("/tmp/")
        assert given["USER"] == "ada"

    def test_programs_may_be_loaded_from_the_temporary_folder(self, runtime: Runtime) -> None:
        (options,) = values(command(box(runtime), PROGRAM, {}), "--tmpfs")
        assert options.startswith("/tmp:")
        assert "exec" in options.split(":")[1].split(",")

    def test_shared_memory_is_larger_than_the_default(self, runtime: Runtime) -> None:
        assert values(command(box(runtime, shm_gb=2), PROGRAM, {}), "--shm-size") == ["2048m"]

    def test_a_missing_folder_is_not_made(self, runtime: Runtime) -> None:
        line = command(box(runtime), PROGRAM, {})
        assert "-v" not in line
        assert "--volume" not in line
        assert values(line, "--mount") == [
            "type=bind,source=/shared/runs,target=/shared/runs",
            "type=bind,source=/data/models,target=/data/models,ro",
        ]

    def test_a_path_with_a_comma(self, runtime: Runtime) -> None:
        line = command(box(runtime, mounts=[Mount('/a,b"c')]), PROGRAM, {})
        (mount,) = values(line, "--mount")
        assert next(csv.reader([mount])) == ["type=bind", 'source=/a,b"c', 'target=/a,b"c', "ro"]

    def test_limits(self, runtime: Runtime) -> None:
        line = command(box(runtime, memory_gb=1.5, cpus=2, cpuset="0-1"), PROGRAM, {})
        assert values(line, "--memory") == ["1536m"] == values(line, "--memory-swap")
        assert values(line, "--cpus") == ["2"]
        assert values(line, "--cpuset-cpus") == ["0-1"]  # --cpus leaves torch's threads alone

    def test_limits_of_open_files_are_left_alone(self, runtime: Runtime) -> None:
        assert "--ulimit" not in " ".join(command(box(runtime), PROGRAM, {}))

    def test_a_container_is_found_when_its_client_is_gone(self, runtime: Runtime) -> None:
        line = command(box(runtime), PROGRAM, {})
        assert values(line, "--name") == ["calgrid-a-0123"]
        assert values(line, "--label") == ["calgrid.run=/shared/runs/a"]
        assert kill_command(box(runtime)) == [runtime, "rm", "--force", "calgrid-a-0123"]

    def test_a_lifeline_is_standard_input(self, runtime: Runtime) -> None:
        line = command(box(runtime, lifeline=True), PROGRAM, {})
        assert "--interactive" in line
        assert variables(runtime, line)["CALGRID_LIFELINE"] == "stdin"
        assert "--interactive" not in command(box(runtime), PROGRAM, {})

    def test_gpus_are_numbered_anew_inside(self, runtime: Runtime) -> None:
        line = command(box(runtime, gpus=("3",)), PROGRAM, {"CUDA_VISIBLE_DEVICES": "3"})
        assert "CUDA_VISIBLE_DEVICES" not in variables(runtime, line)


def test_docker_takes_its_devices_as_csv() -> None:
    assert values(command(box("docker", gpus=("0", "1")), PROGRAM, {}), "--gpus") == [
        '"device=0,1"'
    ]
    assert values(command(box("docker", gpus=("all",)), PROGRAM, {}), "--gpus") == ["all"]
    assert values(command(box("docker"), PROGRAM, {}), "--gpus") == []


def test_podman_takes_devices_by_cdi() -> None:
    line = command(box("podman", gpus=("0", "1")), PROGRAM, {})
    assert values(line, "--device") == ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    assert "label=disable" in values(line, "--security-opt")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (125, 'could not select device driver "" with capabilities: [[gpu]].'),  # docker, --gpus
        (125, 'could not select device driver "cdi" with capabilities: [].'),  # docker, --device
        (126, "setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=0"),  # podman
    ],
)
def test_an_engine_that_has_no_gpus_to_give(code: int, said: str, tmp_path: Path) -> None:
    job = Job("cell", ("-c", "pass"), tmp_path / "log")
    job.log.write_text(f"Error: {said}\nSee 'docker run --help'\n")
    ended = meaning(job, code)
    assert ended.kind == "error"
    assert "install the NVIDIA container toolkit" in str(ended.cause)


@pytest.mark.parametrize(
    ("code", "kind", "means"),
    [(3, None, 3), (130, None, 130), (139, None, -11), (140, None, -12), (137, "lost", -9)],
)
def test_a_signal_inside_is_a_negative_code(
    code: int, kind: str | None, means: int, tmp_path: Path
) -> None:
    """As of processes; 130 is a cell that was asked to stop, and did."""
    ended = meaning(Job("cell", ("-c", "pass"), tmp_path / "log"), code)
    assert (ended.code, ended.kind) == (means, kind)


def test_the_groups_of_shared_folders_come_along() -> None:
    assert values(command(box("docker"), PROGRAM, {}), "--group-add") == ["5000", "5001"]
    assert values(command(box("podman"), PROGRAM, {}), "--group-add") == ["keep-groups"]
    assert values(command(box("podman"), PROGRAM, {}), "--userns") == ["keep-id"]
    root = replace(ME, uid=0)
    assert values(command(box("podman", user=root), PROGRAM, {}), "--userns") == []


class TestApptainer:
    def test_it_is_contained(self) -> None:
        line = command(box("apptainer"), PROGRAM, {})
        assert {"--contain", "--cleanenv", "--no-home", "--net"} <= set(line)  # no token gets in
        assert values(line, "--network") == ["none"]
        assert "--network" not in command(box("apptainer", network=True), PROGRAM, {})

    def test_its_process_ids_are_the_nodes(self) -> None:
        """Claims look for the process of their owner."""
        assert not {"--containall", "--pid", "-C"} & set(command(box("apptainer"), PROGRAM, {}))

    def test_its_temporary_folder_is_a_real_one(self) -> None:
        assert values(command(box("apptainer"), PROGRAM, {}), "--workdir") == ["/local/job"]
        with pytest.raises(ValueError, match="64 MB"):
            command(box("apptainer", local_disk=None), PROGRAM, {})

    def test_values_with_commas_are_not_split(self) -> None:
        line = command(box("apptainer", gpus=("0", "1")), PROGRAM, {"CUDA_VISIBLE_DEVICES": "0,1"})
        assert "APPTAINERENV_CUDA_VISIBLE_DEVICES=0,1" in line[: line.index("apptainer")]
        assert "--nv" in line

    def test_home_is_set_inside_since_it_may_not_be_from_outside(self) -> None:
        line = command(box("apptainer"), PROGRAM, {})
        assert "HOME=/tmp/home" in line[line.index("calgrid:1") :]
        assert not any(a.startswith("APPTAINERENV_HOME") for a in line)

    def test_mounts(self) -> None:
        assert values(command(box("apptainer"), PROGRAM, {}), "--mount") == [
            "type=bind,source=/shared/runs,destination=/shared/runs",
            "type=bind,source=/data/models,destination=/data/models,ro",
        ]


class TestPyxis:
    def test_srun_starts_the_container(self) -> None:
        flags = command(box("pyxis"), PROGRAM, {})
        assert flags[:3] == ["srun", "--ntasks=1", "--overlap"]
        assert values(flags, "--container-image") == ["calgrid:1"]
        assert values(flags, "--container-mounts") == [
            "/shared/runs:/shared/runs,/data/models:/data/models:ro"
        ]

    def test_what_sites_set_differently_is_always_said(self) -> None:
        flags = command(box("pyxis"), PROGRAM, {})
        assert {
            "--container-readonly",
            "--no-container-mount-home",
            "--no-container-remap-root",
            "--no-container-entrypoint",
        } <= set(flags)

    def test_srun_is_told_what_it_does_not_inherit(self) -> None:
        line = command(box("pyxis", cpus=8.0, srun_args=["--mpi=none"]), PROGRAM, {})
        assert {"--cpus-per-task=8", "--mpi=none"} <= set(line[: line.index("env")])

    def test_paths_that_it_cannot_be_told(self) -> None:
        with pytest.raises(ValueError, match="/a:b"):
            command(box("pyxis", mounts=[Mount("/a:b")]), PROGRAM, {})

    def test_gpus_are_slurms(self) -> None:
        line = command(box("pyxis", gpus=("0",)), PROGRAM, {"CUDA_VISIBLE_DEVICES": "0"})
        before, inside = line[: line.index("srun")], line[line.index("srun") :]
        assert before[:2] == ["env", "NVIDIA_VISIBLE_DEVICES=all"]  # inside it would be too late
        assert "CUDA_VISIBLE_DEVICES=0" in inside


def test_mounts_as_profiles_write_them() -> None:
    assert Mount.parse("/a") == Mount("/a", None, writable=True)
    assert Mount.parse("/a:/b") == Mount("/a", "/b", writable=True)
    assert Mount.parse("/a:/b:ro") == Mount("/a", "/b")


def test_folders_inside_others_need_no_mount() -> None:
    paths = [Path(p) for p in ("/a/b", "/a", "/a/b/c", "/ab", "/a")]
    assert outermost(paths) == [Path("/a"), Path("/ab")]


class TestVisibleGpus:
    def test_none_without_a_driver(self, tmp_path: Path) -> None:
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path) == ()

    def test_numbers_within_the_job_become_uuids(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "driver/gpus/0000:07:00.0").mkdir(parents=True)
        smi = tmp_path / "nvidia-smi"
        smi.write_text("#!/bin/sh\necho '0, GPU-aa'\necho '1, GPU-bb'\n")
        smi.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        driver = tmp_path / "driver"
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1"}, driver) == ("GPU-bb",)
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-bb"}, driver) == ("GPU-bb",)
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, driver) == ()
        assert visible_gpus({}, driver) == ("GPU-aa", "GPU-bb")
