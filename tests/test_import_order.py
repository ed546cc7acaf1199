"""Imports go one way: prune.model -> calib -> prune -> jobs -> analysis; cluster is a leaf."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "prune.model", "calib", "prune", "jobs", "analysis")
MAY_IMPORT = {
    "cluster": {"cluster"},
    "prune.model": {"prune.model"},
    "calib": {"calib", "prune.model"},
    "prune": {"prune", "prune.model", "calib"},
    "jobs": {"jobs", "prune", "prune.model", "calib", "cluster"},
    "analysis": {"analysis"},
}


def package(module: str) -> str:
    if module.startswith("prune.model"):
        return "prune.model"
    return module.split(".")[0]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_imports_only_what_comes_before_it(name: str) -> None:
    folder = ROOT / name.replace(".", "/")
    for path in folder.rglob("*.py"):
        if package(".".join(path.relative_to(ROOT).with_suffix("").parts)) != name:
            continue
        ours = {m for m in imports(path) if package(m) in PACKAGES}
        if name == "analysis":
            ours = {m for m in ours if not m.startswith("jobs.store.schema")}
        assert {package(m) for m in ours} <= MAY_IMPORT[name], path


COMMANDS = {
    "dry run": "from jobs.launch import main; main([{grid!r}, '--dry-run', '--out', {out!r}])",
    "status": "from jobs.status import main; main([{run!r}])",
    "collect": "from jobs.collect import collect; from jobs.run import RunFolder; "
    "from pathlib import Path; RunFolder(Path({run!r})).read_plan()",
    "query": "from analysis.query import main; main([{run!r} + '/results.duckdb', 'datasets'])",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_torch_is_not_imported_where_nothing_is_computed(
    command: str, finished_run: Path, tmp_path: Path
) -> None:
    grid = str(finished_run.parents[1] / "grid.yaml")
    code = COMMANDS[command].format(grid=grid, out=str(tmp_path), run=str(finished_run))
    check = f"import sys\n{code}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True, capture_output=True)
