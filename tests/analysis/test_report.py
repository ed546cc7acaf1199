"""The report in a real browser, on made databases of known effects and on a real run."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from analysis.gaps import Arms, best_set
from analysis.report.__main__ import main
from analysis.report.findings import gather
from analysis.report.page import embed
from analysis.scores import opened
from tests.analysis.browser import CHROMIUM, Browser
from tests.analysis.databases import make_database

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

MOST_SECONDS = 3.0
SCREENSHOTS = Path(tempfile.gettempdir()) / "calgrid-screenshots"
"""Where pictures of the report are kept for a look after the tests."""


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Reports of 1,000 and of 10,000 cells."""
    found = {}
    for cells in (1000, 10_000):
        folder = tmp_path_factory.mktemp(f"report{cells}")
        database = make_database(folder / "results.duckdb", cells=cells)
        assert main([str(database), "--out", str(folder / "report")]) == 0
        found[cells] = folder / "report" / "index.html"
    return found


def test_the_best_datasets_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[bool] = []

    def counted(arms: Arms) -> list[bool]:
        found = best_set(arms)
        judged.extend(found)
        return found

    monkeypatch.setattr("analysis.tables.best_set", counted)
    with opened(make_database(tmp_path / "results.duckdb", cells=500)) as connection:
        found = gather(connection)
    assert judged == [row["may_be_best"] for f in found for row in f.teller.best]
    assert judged


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.S
    )
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_stands_alone(reports: dict[int, Path]) -> None:
    page = reports[1000]
    assert [p.name for p in page.parent.iterdir()] == ["index.html"]
    outside = re.sub(
        r'<script type="application/json".*?</script>', "", page.read_text(), flags=re.S
    )
    assert "src=" not in outside
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", outside)


def test_texts_cannot_leave_their_place() -> None:
    hostile = "</script><script>alert(1)</script>\u2028"
    assert "</" not in embed({"text": hostile})
    assert json.loads(embed([hostile, float("nan")])) == [hostile, None]


def test_the_planted_effects_are_told(reports: dict[int, Path]) -> None:
    data = data_of(reports[1000])
    answers = {a["question"]: a for a in data["answers"]["mean_accuracy"]}
    matter = answers["Does the choice of calibration data change the result?"]
    assert matter["verdict"] == "yes"
    assert "worst wikipedia" in matter["sentence"]
    where = answers["Where does it matter most?"]
    assert where["verdict"] == "60 %"
    pruner = answers["Does the data matter more than the pruner?"]
    assert "with 95 % intervals: dataset" in pruner["sentence"]
    assert pruner["verdict"] in ("yes", "no", "undecided")
    best = answers["Which calibration data is best?"]
    assert best["verdict"] == "not wikipedia"
    assert "synthetic in 40" in best["sentence"]


def test_nearer_text_is_told_better_where_its_perplexity_is_lower(tmp_path: Path) -> None:
    database = make_database(tmp_path / "results.duckdb", recipes=("wanda",))
    with duckdb.connect(str(database)) as connection:  # nearer in the order of perplexity
        connection.execute("""
            UPDATE similarity SET value = 1 / rank FROM (
                SELECT r.dataset, avg(r.ppl_wikitext2) AS rank FROM results r GROUP BY ALL
            ) AS near WHERE similarity.dataset = near.dataset
        """)
    assert main([str(database), "--out", str(tmp_path / "report")]) == 0
    data = data_of(tmp_path / "report" / "index.html")
    for score in ("ppl_wikitext2", "mean_accuracy"):
        (told,) = [
            a for a in data["answers"][score] if "nearer to the pre-training" in a["question"]
        ]
        assert "tend to score better: median rank correlation +" in told["sentence"], told


def test_a_real_run_shows_its_logs_texts_and_provenance(finished_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(finished_run, copy)
    assert main([str(copy / "results.duckdb"), "--out", str(tmp_path / "report")]) == 0
    data = data_of(tmp_path / "report" / "index.html")
    assert {s["dataset"] for s in data["windows"]} == {"farm", "city"}
    for shown in data["windows"]:
        manifest = finished_run / "calibration" / shown["calibration"] / "manifest.json"
        texts = [w["text"] for w in shown["windows"]]
        assert texts == json.loads(manifest.read_text("utf-8"))["texts"]
    columns = data["cells"]["columns"]
    assert set(data["cells"]["logs"]) <= set(columns["cell"])
    assert data["cells"]["logs"]
    assert all("packages" in json.loads(p) for p in columns["provenance"]["values"])


def test_a_database_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import duckdb

    duckdb.connect(str(tmp_path / "other.duckdb")).close()
    assert main([str(tmp_path / "other.duckdb"), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    assert "other.duckdb" in capsys.readouterr().err
    assert main([str(tmp_path / "none.duckdb")]) == 2


@pytest.fixture(scope="module")
def browser(reports: dict[int, Path]) -> Iterator[Browser]:
    """A browser with the report of 1,000 cells."""
    SCREENSHOTS.mkdir(exist_ok=True)
    with Browser() as page:
        page.open(reports[1000])
        yield page
        assert page.errors == []


@needs_browser
@pytest.mark.parametrize("cells", [1000, 10_000])
def test_it_renders_quickly_and_without_errors(reports: dict[int, Path], cells: int) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    with Browser() as page:
        seconds = page.open(reports[cells])
        assert page.evaluate("document.querySelectorAll('figure svg').length") > 5
        assert page.evaluate("document.querySelector('#table-cells caption').textContent") == (
            f"{cells:,} cells"
        )
        page.screenshot(SCREENSHOTS / f"report-{cells}.png")
        assert page.errors == []
    assert seconds < MOST_SECONDS


def choose(page: Browser, axis: str, wanted: str) -> None:
    """Leave one value of a filter checked."""
    page.evaluate(
        f"""(() => {{
            const menu = document.querySelector('details[data-axis={axis}]');
            menu.querySelectorAll('button')[1].click();
            [...menu.querySelectorAll('label')]
                .find((l) => l.textContent.trim() === {wanted!r}).querySelector('input').click();
        }})()"""
    )


@needs_browser
def test_filters_by_pruner_and_pattern(browser: Browser) -> None:
    choose(browser, "recipe", "wanda (owl)")
    choose(browser, "pattern", "2:4")
    captions = browser.evaluate(
        "[...document.querySelectorAll('#plot-scores figcaption')].map((c) => c.firstChild.data)"
    )
    assert captions
    assert all("owl" in c and "2:4" in c for c in captions)
    rows = browser.evaluate(
        "[...document.querySelectorAll('#table-cells tbody tr')].map((r) => r.textContent)"
    )
    assert rows
    assert all("owl" in r and "2:4" in r for r in rows)
    browser.screenshot(SCREENSHOTS / "filtered.png")
    browser.evaluate("document.getElementById('reset').click()")
    assert "everything" in browser.evaluate("document.getElementById('filtered').textContent")


@needs_browser
def test_another_score_is_shown(browser: Browser) -> None:
    browser.evaluate(
        "(() => { const s = document.getElementById('metric'); s.value = 'ppl_wikitext2';"
        " s.dispatchEvent(new Event('change')); })()"
    )
    assert "perplexity" in browser.evaluate(
        "document.querySelector('#table-scores caption').textContent"
    )
    browser.evaluate(
        "(() => { const s = document.getElementById('metric'); s.value = 'mean_accuracy';"
        " s.dispatchEvent(new Event('change')); })()"
    )


@needs_browser
def test_tables_sort_both_ways(browser: Browser) -> None:
    def column() -> list[float]:
        browser.evaluate(
            "document.querySelector('#table-cells button[data-key=mean_accuracy]').click()"
        )
        cells = browser.evaluate(
            "(() => { const heads = [...document.querySelectorAll('#table-cells thead th')];"
            "const k = heads.findIndex((h) => h.textContent === 'mean accuracy');"
            "return [...document.querySelectorAll('#table-cells tbody tr')]"
            ".map((r) => r.children[k].textContent); })()"
        )
        return [float(c) for c in cells if c != "–"]

    down, up = column(), column()
    assert down == sorted(down, reverse=True)
    assert up == sorted(up)
    assert down[0] > up[-1]


@needs_browser
def test_a_cell_opens_with_the_keyboard_and_shows_where_it_comes_from(browser: Browser) -> None:
    browser.evaluate(
        "(() => { const s = document.querySelector('#cells input[type=search]');"
        "s.value = 'failed'; s.dispatchEvent(new Event('input'));"
        "document.querySelector('#table-cells tbody button').focus(); })()"
    )
    browser.press("Enter", 13, "\r")
    shown = browser.evaluate("document.getElementById('cell').textContent")
    for part in (
        "Failed: CUDA out of memory <b>&amp;</b>",
        "0123abcd",
        "torch",
        "logs/",
        "--check",
    ):
        assert part in shown, part
    browser.screenshot(SCREENSHOTS / "cell.png")
    browser.press("Escape", 27)
    assert browser.evaluate("document.getElementById('cell').open") is False
    browser.evaluate(
        "(() => { const s = document.querySelector('#cells input[type=search]');"
        "s.value = ''; s.dispatchEvent(new Event('input')); })()"
    )


@needs_browser
def test_points_of_a_plot_are_reached_with_arrow_keys(browser: Browser) -> None:
    browser.evaluate("document.querySelector('#plot-scores svg').focus()")
    browser.press("ArrowRight", 39)
    first = browser.evaluate("document.getElementById('tip').textContent")
    browser.press("ArrowRight", 39)
    browser.press("ArrowRight", 39)
    assert first
    assert browser.evaluate("document.getElementById('tip').hidden") is False
    assert browser.evaluate("document.getElementById('tip').textContent") != first
    browser.press("Escape", 27)
    assert browser.evaluate("document.getElementById('tip').hidden") is True


@needs_browser
def test_calibration_text_is_text(browser: Browser) -> None:
    read = browser.evaluate("document.querySelector('#windows pre').textContent")
    assert read.startswith("<script>alert(0)</script> The river & the mill.")
    assert browser.evaluate("document.querySelectorAll('#windows script').length") == 0


@needs_browser
def test_a_phone_needs_no_sideways_scrolling(reports: dict[int, Path]) -> None:
    with Browser(width=390, height=844, mobile=True) as phone:
        phone.open(reports[1000])
        phone.screenshot(SCREENSHOTS / "phone.png")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        assert phone.errors == []


@needs_browser
def test_it_prints(browser: Browser) -> None:
    printed = browser.print(SCREENSHOTS / "report.pdf")
    assert printed.read_bytes().startswith(b"%PDF")
    assert printed.stat().st_size > 20_000
