"""Named queries answer on a real database, in every format; mistakes are said, not thrown."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet
import pytest

from analysis.query import FORMATS, main, named_queries, question

QUESTION = (
    "SELECT dataset, count(*) AS n FROM results WHERE dataset IS NOT NULL GROUP BY 1 ORDER BY 1"
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def database(finished_run: Path) -> str:
    return str(finished_run / "results.duckdb")


@pytest.mark.parametrize("name", named_queries())
def test_every_named_query_runs_and_says_its_question(
    database: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert question(named_queries()[name]).endswith("?")
    assert main([database, name]) == 0
    assert capsys.readouterr().out.strip()


def test_without_a_name_the_queries_are_listed(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([database]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in named_queries())


def answer(database: str, form: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([database, "--sql", QUESTION, "--format", form]) == 0
    return capsys.readouterr().out


def test_formats(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(answer(database, "csv", capsys))))
    assert rows == [{"dataset": "city", "n": "2"}, {"dataset": "farm", "n": "2"}]
    found = json.loads(answer(database, "json", capsys))
    assert found == [{"dataset": "city", "n": 2}, {"dataset": "farm", "n": 2}]
    lines = answer(database, "md", capsys).splitlines()
    assert lines == ["| dataset | n |", "| --- | --- |", "| city | 2 |", "| farm | 2 |"]
    assert "farm" in answer(database, "table", capsys)


def test_every_format_is_offered() -> None:
    assert {"table", "csv", "md", "json"} <= set(FORMATS)


def test_wrong_sql_is_explained(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([database, "--sql", "SELECT sparsityy FROM results"]) == 2
    assert "sparsity" in capsys.readouterr().err


def test_a_database_of_another_version_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with duckdb.connect(str(tmp_path / "old.duckdb")) as connection:
        connection.execute("CREATE TABLE runs AS SELECT 1 AS schema_version")
    assert main([str(tmp_path / "old.duckdb"), "gaps"]) == 2
    assert "builds it anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["gapz"], "'gaps'"), (["gaps", "--sql", "x"], "not both"), (["--format", "xml"], "csv")],
)
def test_wrong_arguments_are_explained(
    database: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([database, *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_a_database_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none.duckdb")])
    assert "jobs.collect" in capsys.readouterr().err


def test_the_database_cannot_be_written_to(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([database, "--sql", "DROP TABLE cells"]) == 2
    assert "read-only" in capsys.readouterr().err


def test_latex_is_escaped(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT '50 % & a_b' AS what, 1.5 AS value, NULL AS none"
    assert main([database, "--sql", sql, "--format", "latex"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == r"\begin{tabular}{lrl}"
    assert r"50 \% \& a\_b & 1.5 & - \\" in lines
    assert lines[-1] == r"\end{tabular}"


def test_parquet_is_a_file_that_can_be_read(database: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "analysis.query", database, "datasets", "--format", "parquet"]
    path = tmp_path / "answer.parquet"
    with path.open("wb") as file:
        subprocess.run(command, stdout=file, check=True, cwd=ROOT)
    table = pyarrow.parquet.read_table(path)
    assert set(table["dataset"].to_pylist()) == {"city", "farm"}


def test_values_that_json_and_tables_do_not_have(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT 'nan'::DOUBLE AS a, '[x|y]' AS b, 123456.789 AS c"
    assert main([database, "--sql", sql, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"a": None, "b": "[x|y]", "c": 123456.789}]
    assert main([database, "--sql", sql, "--format", "md"]) == 0
    assert r"[x\|y]" in capsys.readouterr().out
    assert main([database, "--sql", sql]) == 0
    assert "[x|y]" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["analysis.query", "analysis.compare"])
def test_who_reads_may_stop_reading(module: str, database: str) -> None:
    arguments = [database, *(["axes"] if module == "analysis.query" else [])]
    command = [sys.executable, "-m", module, *arguments]
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does once it has seen enough
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_pipe_gets_the_whole_width(database: str) -> None:
    sql = "SELECT " + ", ".join(f"'{'wide' * 10}' AS column_{i}" for i in range(9))
    command = [sys.executable, "-m", "analysis.query", database, "--sql", sql]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert told.count("wide" * 10) == 9
    assert len(told.splitlines()) == 5
