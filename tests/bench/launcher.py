"""How long a launcher takes for 10,000 cells: `python -m tests.bench.launcher [CELLS]`.

Launches a grid on a real Slurm (`tests/real/slurm_engine.py up`) whose jobs are held, so that the
launcher's own work is what is timed; beside it, submitit's plain single submissions; then
`jobs.status` on as many finished cells.
"""

from __future__ import annotations

import getpass
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from submitit import SlurmExecutor

from jobs.built import LISTING
from jobs.files import write_json
from jobs.run import RunFolder

ROOT = Path(__file__).parents[2]
NAMES = ("calgrid-bench", "calgrid-bench-collect", "submitit")
"""What the benchmark submits, and cancels at its end."""

SINGLE = 50
"""Plain submissions that are timed."""

GRID = """\
name: bench
model: demo
datasets: {{mine: {{path: json, data_files: texts.jsonl}}}}
cells: {{dataset: mine, pruner: wanda, sparsity: [{sparsities}], size: 4, seed: [{seeds}]}}
calibration: {{seqlen: 64}}
evaluate: {{perplexity: [mine]}}
dtype: float32
resources: {{gpus: 1, mem_gb: 1}}
"""


def main(cells: int = 10_000) -> None:
    """Print the times."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = _write(folder, cells)
        try:
            launch = ["jobs.launch", str(grid), "--cluster", str(folder / "held.yaml"), "--detach"]
            seconds, busy = _time(*launch, "--out", str(folder / "runs"))
            print(
                f"{cells:,} cells planned, written, submitted: {seconds:.1f} s ({busy:.1f} s of "
                f"processors); jobs in the queue: {len(_queue()):,}",
                flush=True,
            )
            single = _plain(folder / "plain")
            print(
                f"plain submitit, one by one: {single:.2f} s each ({SINGLE} timed), so about "
                f"{single * cells:,.0f} s"
            )
        finally:
            for job in NAMES:
                subprocess.run(["scancel", "--user", getpass.getuser(), "--name", job], check=False)
        run = RunFolder(folder / "runs" / "bench")
        _finish(run)
        seconds, busy = min(_time("jobs.status", str(run.path)) for _ in range(3))
        print(
            f"jobs.status on {cells:,} records: {seconds:.2f} s ({busy:.2f} s of processors), best "
            "of 3"
        )


def _write(folder: Path, cells: int) -> Path:
    """A grid of so many cells, its text, and a profile whose jobs are held."""
    words = [f"word{i % 977} and word{i % 541} with word{i % 89}" for i in range(4000)]
    lines = (json.dumps({"text": " ".join(words[i : i + 40])}) for i in range(0, 4000, 40))
    (folder / "texts.jsonl").write_text("\n".join(lines), "utf-8")
    (folder / "held.yaml").write_text("backend: slurm\nsbatch: {hold: true}\n", "utf-8")
    sparsities = ", ".join(f"0.{i}" for i in range(1, 10)) + ", 0.55"
    seeds = ", ".join(map(str, range(-(-cells // 10))))
    path = folder / "grid.yaml"
    path.write_text(GRID.format(sparsities=sparsities, seeds=seeds), "utf-8")
    return path


def _time(*module: str) -> tuple[float, float]:
    """Seconds that `python -m MODULE ...` takes: by the clock, and of processors."""
    started, before = time.perf_counter(), _processor()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", *module], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started, _processor() - before


def _processor() -> float:
    """Processor seconds of the processes started so far; what a busy machine does not change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _queue() -> list[str]:
    show = ["squeue", "--noheader", "--array", "--user", getpass.getuser()]
    return subprocess.run(show, capture_output=True, text=True, check=True).stdout.splitlines()


def _plain(folder: Path) -> float:
    """Seconds that submitit takes for a single submission."""
    executor = SlurmExecutor(folder)
    executor.update_parameters(mem="100MB", additional_parameters={"hold": True})
    started = time.perf_counter()
    for _ in range(SINGLE):
        executor.submit(time.sleep, 0)
    return (time.perf_counter() - started) / SINGLE


def _finish(run: RunFolder) -> None:
    """Write what is left of cells that are done, as far as `jobs.status` looks at it."""
    plan = run.read_plan()
    wanted = plan.evaluations("demo")
    for key in plan.cells:
        paths = [run.record(key), *(run.evaluation(key, e.key(key)) for e in wanted)]
        if (draw := plan.cell(key).draw) is not None:
            drawn = run.calibration(plan.calibration_key(draw, "demo"))
            paths.append(drawn / "manifest")  # beside its listing, which ends in .json
            write_json(drawn / LISTING, {"manifest": 2, "manifest.parquet": 2})
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
            path.with_suffix(".parquet").write_text("{}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
