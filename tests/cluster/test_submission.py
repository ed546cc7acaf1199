"""What sbatch is given: every key of a profile, nothing of an allocation, no tokens."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import slurm
from cluster.arrays import Array
from cluster.backend import Job, open_backend
from cluster.profile import Profile
from cluster.squeue import AwayError
from cluster.submission import FullError, RefusedError, submit
from cluster.yamlfile import InputError

JOB = Job(
    "abc", ("-m", "jobs.cell", "/runs/x", "abc"), Path("/runs/x/logs/abc.log"), gpus=2, mem_gb=48
)


def flags(profile: Profile, *jobs: Job) -> list[str]:
    """What a script asks for, in order."""
    (text,) = [
        t for t in open_backend(profile, Path("/runs/x")).preview(jobs or [JOB]) if "#SB" in t
    ]
    return text.splitlines()


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"account": "a"}, "#SBATCH --account=a"),
        ({"partition": "p"}, "#SBATCH --partition=p"),
        ({"qos": "q"}, "#SBATCH --qos=q"),
        ({"constraint": "a&b"}, "#SBATCH --constraint='a&b'"),
        ({"reservation": "r"}, "#SBATCH --reservation=r"),
        ({"exclude": "n[1-2]"}, "#SBATCH --exclude='n[1-2]'"),
        ({}, "#SBATCH --gpus-per-node=2"),
        ({"gpu_type": "a100"}, "#SBATCH --gpus-per-node=a100:2"),
        ({"gpu_request": "gres"}, "#SBATCH --gres=gpu:2"),
        ({"gpu_request": "gres", "gpu_type": "a100"}, "#SBATCH --gres=gpu:a100:2"),
        ({}, "#SBATCH --mem=48GB"),
        ({"sbatch": {"licenses": "x:1"}}, "#SBATCH --licenses=x:1"),
        ({"sbatch": {"contiguous": True}}, "#SBATCH --contiguous"),
        ({"setup": ["module load cuda"]}, "module load cuda"),
        ({"cpus": 6}, "#SBATCH --cpus-per-task=6"),
        ({}, "#SBATCH --requeue"),
        ({}, "#SBATCH --kill-on-invalid-dep=yes"),
        ({}, "#SBATCH --time=60"),
        ({}, "#SBATCH --signal=USR2@120"),
    ],
)
def test_a_key_becomes_its_flag(keys: dict[str, object], line: str) -> None:
    assert line in flags(Profile(backend="slurm", **keys))  # type: ignore[arg-type]


def test_what_is_not_asked_for_is_not_there() -> None:
    text = "\n".join(flags(Profile(backend="slurm", mem="none", gpu_request="none")))
    assert "--mem" not in text
    assert "gpu" not in text
    assert "wckey" not in text  # submitit's own is refused where a site keeps a list
    assert "--array" not in text  # one job is no array


def test_srun_is_told_the_cores_too() -> None:
    (line,) = [
        x for x in flags(Profile(backend="slurm", cpus=6, srun_args=["--x"])) if x[:4] == "srun"
    ]
    assert "--cpus-per-task=6 --x " in line


def test_arrays_are_throttled_split_and_of_jobs_that_ask_for_the_same() -> None:
    jobs = [replace(JOB, name=str(i)) for i in range(5)]
    jobs += [replace(JOB, name="big", mem_gb=96)]
    profile = Profile(backend="slurm", max_array_size=3, concurrency=2)
    scripts = list(open_backend(profile, Path("/runs/x")).preview(jobs))
    arrays = [line for s in scripts for line in s.splitlines() if "--array" in line]
    assert arrays == ["#SBATCH --array=0-2%2", "#SBATCH --array=0-1%2"]
    assert sum("--mem=96GB" in s for s in scripts) == 1


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for sbatch that says what the file `says` says; notes its environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(f"#!/bin/sh\nenv > {tmp_path}/env\n. {tmp_path}/says\n")
    (folder / "srun").write_text("")
    for program in folder.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    (tmp_path / "says").write_text("echo Submitted batch job 77")
    return tmp_path


def send(folder: Path, count: int = 1) -> Array:
    profile = Profile(backend="slurm")
    array = Array.create(
        folder / "slurm", [replace(JOB, name=str(i)) for i in range(count)], profile
    )
    submit(array, profile, "calgrid-x", ["5", "6"])
    return array


def test_nothing_of_an_allocation_and_no_token_goes_along(
    sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = ["SLURM_JOB_ID", "SLURM_MEM_PER_GPU", "SLURM_CPUS_PER_TASK", "SUBMITIT_EXECUTOR"]
    hidden += ["HF_TOKEN", "MY_PASSWORD", "CUDA_VISIBLE_DEVICES"]
    for name in hidden:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/x.conf")
    send(sbatch)
    names = {line.partition("=")[0] for line in (sbatch / "env").read_text().splitlines()}
    assert names.isdisjoint(hidden)
    assert {"SLURM_CONF", "PYTHONPATH"} <= names
    assert os.environ["HF_TOKEN"] == "1"  # here it is still


@pytest.mark.parametrize("count", [1, 3])
def test_the_id_is_kept_and_every_job_has_its_call(sbatch: Path, count: int) -> None:
    array = send(sbatch, count)
    assert array.id == "77"
    elements = ["77"] if count == 1 else ["77_0", "77_1", "77_2"]
    assert [array.element(i) for i in range(count)] == elements
    assert all((array.folder / f"{e}_submitted.pkl").is_file() for e in elements)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Batch job submission failed: Invalid qos specification", RefusedError),
        ("Memory specification can not be satisfied", RefusedError),
        ("QOSMaxSubmitJobPerUserLimit", FullError),
        ("Batch job submission failed: Unable to contact slurm controller", AwayError),
        ("Batch job submission failed: Socket timed out on send/recv operation", AwayError),
    ],
)
def test_a_refusal_is_told_from_an_outage(sbatch: Path, said: str, kind: type[Exception]) -> None:
    (sbatch / "says").write_text(f"echo 'sbatch: error: {said}' >&2; exit 1")
    with pytest.raises(kind, match=said[:20]):
        send(sbatch)


def test_pickles_name_a_function_and_carry_no_code(sbatch: Path) -> None:
    array = send(sbatch)
    data = (array.folder / "77_submitted.pkl").read_bytes()
    assert b"cluster.task" in data
    assert len(data) < 1000


def test_no_slurm_is_needed_to_see_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert any("--job-name=calgrid-x" in line for line in flags(Profile(backend="slurm")))


def test_the_shell_reads_the_script(tmp_path: Path) -> None:
    path = tmp_path / "script.sh"
    path.write_text("\n".join(flags(Profile(backend="slurm", setup=["echo 'a b'"]))))
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_last_job_takes_the_place_of_the_one_before_and_never_of_itself(
    sbatch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scancel = sbatch / "bin" / "scancel"
    scancel.write_text(f'#!/bin/sh\necho "$@" >> {sbatch}/cancelled\n')
    scancel.chmod(0o755)
    backend = open_backend(Profile(backend="slurm"), sbatch / "run")
    backend.at_last(JOB)
    monkeypatch.setenv("CALGRID_SLURM_JOB", "77")  # as in the job that collects
    backend.at_last(JOB)
    assert not (sbatch / "cancelled").exists()
    monkeypatch.delenv("CALGRID_SLURM_JOB")
    backend.at_last(JOB)
    assert (sbatch / "cancelled").read_text().split() == ["77", "77"]
    backend.finish()
    assert not list((sbatch / "run" / "slurm" / "last").iterdir())


def test_a_machine_without_slurm_is_told_so_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    backend = open_backend(Profile(backend="slurm"), tmp_path / "run")
    with pytest.raises(InputError, match=r"no Slurm here.*--cluster local"):
        backend.prepare(print)
    assert list(tmp_path.iterdir()) == []


def test_a_slurm_that_does_not_answer_is_waited_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "scontrol"):
        (tmp_path / name).write_text("#!/bin/sh\necho Unable to contact >&2; exit 1\n", "utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 1.0)
    said: list[str] = []
    with pytest.raises(InputError, match=r"does not answer \(Unable to contact\); launch again"):
        open_backend(Profile(backend="slurm"), tmp_path / "run").prepare(said.append)
    assert said == ["Slurm does not answer (Unable to contact); for 1 s this waits for it"]
