"""What task files fetch by NLTK: found before anything starts, fetched into a mirror alone."""

from __future__ import annotations

import hashlib
import io
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nltk
import pytest

from cluster.yamlfile import InputError
from jobs.evaluate import nltkdata
from jobs.plan.planning import plan_grid

TASK = """\
task: barn
dataset_path: json
dataset_kwargs: {data_files: {test: barn.jsonl}}
test_split: test
output_type: generate_until
generation_kwargs: {max_gen_toks: 8}
doc_to_text: "{{q}}"
doc_to_target: "yes"
process_results: !function utils.right
metric_list: [{metric: exact_match}]
"""
CODE = 'import nltk\n\nnltk.download("tiny_tab")\n\n\ndef right(doc, results):\n    return {}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a task whose code wants data of NLTK."""
    folder = tmp_path / "barn"
    folder.mkdir()
    (folder / "barn.yaml").write_text(TASK, "utf-8")
    (folder / "barn.jsonl").write_text('{"q": "Is it red?"}\n', "utf-8")
    (folder / "utils.py").write_text(CODE, "utf-8")
    return folder


def put(mirror: Path) -> Path:
    place = mirror / "nltk_data" / "tokenizers" / "tiny_tab"
    place.mkdir(parents=True)
    return mirror / "nltk_data"


def test_a_launch_wants_it_and_hands_it_to_jobs(
    folder: Path, write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    tasks = f"perplexity: [farm]\n  tasks: [{folder}/barn.yaml]"
    grid = write_grid({"perplexity: [farm]": tasks})
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for override, where in (([], "on this machine"), ([f"mirror={mirror}"], "in the mirror")):
        with pytest.raises(InputError) as error:
            plan_grid(grid, override, tmp_path / "runs")
        assert f"barn: NLTK's tiny_tab is not {where}" in error.value.lines[0]
        assert "jobs.prefetch" in error.value.lines[0]
    found = put(mirror)
    inputs = plan_grid(grid, [f"mirror={mirror}"], tmp_path / "runs").plan.inputs
    assert inputs.tasks["barn"].words == [found]
    assert found in inputs.tasks["barn"].reads


def test_jobs_fetch_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.data.path", [str(tmp_path / "nltk_data")])
    with nltkdata.not_fetching([folder]):
        with pytest.raises(FileNotFoundError, match=r"tiny_tab.*jobs\.prefetch"):
            nltk.download("tiny_tab")
        put(tmp_path)
        assert nltk.download("tiny_tab")


class Server(BaseHTTPRequestHandler):
    """NLTK's index of one package, and the package."""

    def do_GET(self) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("tiny_tab/words.txt", "barn\n")
        packed = buffer.getvalue()
        index = (
            '<nltk_data><packages><package id="tiny_tab" name="words" subdir="tokenizers" '
            f'unzip="1" size="{len(packed)}" unzipped_size="5" '
            f'checksum="{hashlib.md5(packed).hexdigest()}" '
            f'sha256_checksum="{hashlib.sha256(packed).hexdigest()}" '
            f'url="http://{self.headers["Host"]}/tiny_tab.zip"/></packages></nltk_data>'
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(packed if self.path.endswith(".zip") else index.encode())

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """NLTK asks this machine, which its own `urlopen` would refuse to do."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("nltk.downloader.urlopen", urllib.request.urlopen)
        address = f"http://127.0.0.1:{server.server_port}/index.xml"
        monkeypatch.setattr(nltk.downloader._downloader, "_url", address)
        yield
        server.shutdown()


@pytest.mark.usefixtures("index")
def test_a_prefetch_puts_it_into_the_mirror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"NLTK's other cannot be fetched .* copy that folder to"):
        nltkdata.fetch("other", tmp_path)
    assert not list(tmp_path.iterdir())
    nltkdata.fetch("tiny_tab", tmp_path)
    assert (tmp_path / "nltk_data/tokenizers/tiny_tab/words.txt").read_text() == "barn\n"
