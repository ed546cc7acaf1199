"""Figures and the LaTeX table of a study, from one command."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis.figures import FIGURES, main
from analysis.latex import escape, latex_table
from analysis.report.findings import gather, listed_ties
from analysis.results import Results, recipe_labels
from analysis.scores import opened
from tests.analysis.databases import DATASETS, make_database


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("figures") / "results.duckdb"
    return make_database(path, cells=5 + 4 * 2 * 5 * 5, recipes=("wanda",))


@pytest.fixture(scope="module")
def table(database: Path) -> str:
    with opened(database) as connection:
        results = Results.read(connection)
        ties = listed_ties(gather(connection))
    return latex_table(results, results.primary, ties[results.primary.name])


def test_every_figure_is_written_twice_and_the_same_again(database: Path, tmp_path: Path) -> None:
    assert main([str(database), "--out", str(tmp_path / "a")]) == 0
    found = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert set(found) == {f"{n}.{s}" for n in FIGURES for s in ("pdf", "png")} | {"scores.tex"}
    for name, content in found.items():
        start = {"pdf": b"%PDF", "png": b"\x89PNG", "tex": b"\\begin{table}"}[name[-3:]]
        assert content.startswith(start)
        assert len(content) > 1000


def test_rows_of_the_table_have_all_columns(table: str) -> None:
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", table)
    body = table.split(r"\toprule")[1].split(r"\bottomrule")[0].replace(r"\midrule", "")
    rows = [row for row in body.strip().split("\\\\\n") if row.strip()]
    assert len(rows) == 1 + 4 * 2
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1, row
    for left, right in (("{", "}"), (r"\begin", r"\end")):
        assert table.count(left) == table.count(right)


def test_the_best_of_each_row_is_bold(table: str) -> None:
    rows = [r for r in table.splitlines() if r.startswith(("wanda &", "sparsegpt &"))]
    assert rows
    assert all(row.count(r"\textbf") == 1 for row in rows)
    strong = [r for r in rows if r"60 \%" in r]
    order = sorted(DATASETS)
    for row in strong:  # the planted effects are large there
        entries = row.split("&")[-len(order) :]
        assert r"\approx" not in entries[order.index("wikipedia")]


def test_special_characters_are_harmless() -> None:
    assert escape("a_b & 50% {x} ~^\\") == (
        r"a\_b \& 50\% \{x\} \textasciitilde{}\^{}\textbackslash{}"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
@pytest.mark.parametrize("width", ["12cm", "5cm"])
def test_latex_accepts_the_table_and_it_fits(table: str, width: str, tmp_path: Path) -> None:
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}"
    head += rf"\setlength{{\textwidth}}{{{width}}}\begin{{document}}"
    (tmp_path / "page.tex").write_text(head + table + r"\end{document}")
    command = ["pdflatex", "-interaction=batchmode", "-halt-on-error", "page.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert "Overfull" not in (tmp_path / "page.log").read_text("latin-1")


def test_labels_say_what_tells_recipes_apart() -> None:
    recipes = ["wanda", "wanda(allocation=owl(lam=0.08, m=5.0))", "ria(a=0.5)", "ria(a=1.0)"]
    recipes += ["dsnot(initial=wanda, max_cycles=50)"]
    assert recipe_labels(recipes) == {
        "wanda": "wanda",
        "wanda(allocation=owl(lam=0.08, m=5.0))": "wanda (owl)",
        "ria(a=0.5)": "ria (a=0.5)",
        "ria(a=1.0)": "ria (a=1.0)",
        "dsnot(initial=wanda, max_cycles=50)": "dsnot",
    }


def test_a_score_that_is_not_there(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(database), "--metric", "ppl_ptb"])
    assert stop.value.code == 2
    assert "mean_accuracy" in capsys.readouterr().err
