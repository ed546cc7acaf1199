"""What a grid may say of its evaluation, and what is refused before anything starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.yamlfile import InputError
from jobs.evaluate.gate import deviation
from jobs.evaluate.scores import Metric
from jobs.evaluate.tasks import PRESETS
from jobs.plan.plan import Evaluation
from jobs.plan.planning import plan_grid
from prune.model.load import refuse_larger

LOCAL = """\
task: barn
dataset_path: json
dataset_kwargs: {data_files: {test: barn.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: [" yes", " no"]
doc_to_target: "{{a}}"
"""


@pytest.fixture
def with_tasks(write_grid: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Write the grid with other tasks, beside a task file `barn.yaml` and its data."""
    (tmp_path / "barn.yaml").write_text(LOCAL, "utf-8")
    (tmp_path / "barn.jsonl").write_text(json.dumps({"q": "Is it red?", "a": 1}) + "\n", "utf-8")

    def write(tasks: str, **changes: str) -> Path:
        return write_grid(
            {"perplexity: [farm]": f"perplexity: [farm]\n  tasks: {tasks}", **changes}
        )

    return write


def refused(grid: Path, out: Path) -> str:
    with pytest.raises(InputError) as error:
        plan_grid(grid, [], out)
    return "\n".join(error.value.lines)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("[{name: arc_easy, metric: acc_nrom}]", "no metric 'acc_nrom'; allowed: acc, acc_norm"),
        ("[{name: gsm8k, metric: acc}]", "exact_match, exact_match,flexible-extract"),
        ("[arc_esay]", "unknown task 'arc_esay'"),
        ("[nowhere/barn.yaml]", "no file"),
        ("[{name: shed, path: barn.yaml}]", "it defines 'barn'; write {name: barn, path:"),
    ],
)
def test_what_is_wrong_with_a_task_is_said_at_launch(
    with_tasks: Callable[..., Path], tmp_path: Path, tasks: str, message: str
) -> None:
    assert message in refused(with_tasks(tasks), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("test_split: test", "metric_list: [acc]", ["metric_list.0", "'acc'", "mapping"]),
        (LOCAL, "just words", ["barn.yaml", "mapping of keys"]),
        (LOCAL, "[barn]", ["barn.yaml", "mapping of keys"]),
        ("{data_files: {test: barn.jsonl}}", "[a]", ["dataset_kwargs", "mapping"]),
        ("task: barn", "task: barn\ninclude: barn.yaml", ["barn.yaml includes itself"]),
        ("task: barn", "task: barn\ninclude: {a: 1}", ["include", "file name"]),
        ("task: barn", "task: barn\ninclude: none.yaml", ["none.yaml: no such file"]),
        ("test_split: test", "generation_kwargs: {max_gen_toks: lots}", ["max_gen_toks", "'lots'"]),
        ("multiple_choice", "multiple_choices", ["'multiple_choices'", "generate_until"]),
        ("test_split: test", "", ["test_split", "missing"]),
        ("dataset_path: json", "", ["dataset_path", "missing"]),
        ('"{{q}}"', "!function utils.words", ["utils.words", "no file"]),
        ("task: barn", "{task: barn}", ["barn.yaml"]),
    ],
)
def test_what_is_wrong_inside_a_task_file_is_said_at_launch(
    with_tasks: Callable[..., Path], tmp_path: Path, old: str, new: str, said: list[str]
) -> None:
    path = with_tasks("[barn.yaml]")
    (tmp_path / "barn.yaml").write_text(LOCAL.replace(old, new))
    message = refused(path, tmp_path)
    assert all(word in message for word in said), message
    assert message.startswith(f"{path}:")


def test_a_function_that_the_module_lacks(with_tasks: Callable[..., Path], tmp_path: Path) -> None:
    path = with_tasks("[barn.yaml]")
    text = LOCAL.replace('"{{q}}"', "!function utils.words")
    (tmp_path / "barn.yaml").write_text(text)
    (tmp_path / "utils.py").write_text("def letters(doc): ...\n")
    assert "defines no words" in refused(path, tmp_path)
    (tmp_path / "utils.py").write_text("def words(doc): ...\n")
    assert plan_grid(path, [], tmp_path).cells


def test_a_local_task_is_known_by_its_content(
    with_tasks: Callable[..., Path], tmp_path: Path
) -> None:
    plan = plan_grid(with_tasks("[barn.yaml]"), [], tmp_path).plan
    first = plan.inputs.tasks["barn"]
    assert (first.metric, first.folders) == ("acc", [str(tmp_path)])
    (tmp_path / "barn.jsonl").write_text(json.dumps({"q": "Is it old?", "a": 0}) + "\n", "utf-8")
    plan = plan_grid(tmp_path / "grid.yaml", [], tmp_path).plan
    assert plan.inputs.tasks["barn"].identity != first.identity


def test_a_data_set_that_is_not_there_is_to_be_prefetched(
    with_tasks: Callable[..., Path], tmp_path: Path
) -> None:
    grid = with_tasks("[arc_easy]", **{"dtype: float32": f"dtype: float32\nmirror: {tmp_path}"})
    message = refused(grid, tmp_path)
    assert "allenai/ai2_arc" in message
    assert "jobs.prefetch" in message


def test_a_prompt_must_fit_before_what_is_written(
    with_tasks: Callable[..., Path], tmp_path: Path
) -> None:
    written = "output_type: generate_until\ngeneration_kwargs: {max_gen_toks: 64}\n"
    grid = with_tasks("[barn.yaml]")
    (tmp_path / "barn.yaml").write_text(LOCAL.replace("output_type: multiple_choice\n", written))
    assert plan_grid(grid, [], tmp_path).plan.inputs.tasks["barn"].generates == 64
    text = grid.read_text().replace("limit: 6", "limit: 6\n  max_length: 64")
    grid.write_text(text)
    assert "lets a model write 64 tokens, and with prompt and all" in refused(grid, tmp_path)


def test_bos_needs_a_tokenizer_that_has_one(
    write_grid: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (model / file).is_file():
            settings = json.loads((model / file).read_text("utf-8"))
            settings.pop("bos_token", None)
            (model / file).write_text(json.dumps(settings), "utf-8")
    grid = write_grid({str(tiny_model): str(model), "limit: 6": "limit: 6\n  bos: add"})
    assert "has no BOS token: write none" in refused(grid, tmp_path)


def test_presets() -> None:
    study = {task["name"]: task for task in PRESETS["ji2025"]}
    assert study["hellaswag"]["metric"] == "acc_norm"
    assert {n: t["num_fewshot"] for n, t in study.items() if t["num_fewshot"]} == {"mmlu": 5}
    assert len(study) == len(PRESETS["wanda2023"]) == 7
    assert not any("metric" in task for task in PRESETS["wanda2023"])


def test_a_dense_figure_is_compared_with_what_is_known() -> None:
    def found(value: float, **settings: object) -> str | None:
        evaluation = Evaluation("text", "wikitext2", {"limit": None, "seqlen": 2048} | settings)
        metrics = [Metric("wikitext2", "perplexity", value, None, 1)]
        return deviation("/mirror/huggyllama/llama-7b", evaluation, metrics)

    assert found(5.70) is None
    assert "5.68 is known" in (found(7.72) or "")
    assert found(7.72, limit=4) is None
    assert found(7.72, seqlen=512) is None


def test_a_model_larger_than_a_device_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    refuse_larger(tiny_model, "float32", 10**6, "a GPU")
    with pytest.raises(ValueError, match="model tiny does not fit one device"):
        refuse_larger(tiny_model, "float32", 1000, "a GPU")
    cached = tmp_path / "models--owner--big" / "snapshots" / "0123abcd"
    shutil.copytree(tiny_model, cached)
    with pytest.raises(ValueError, match="model owner/big does not fit one device: its weights"):
        refuse_larger(cached, "float32", 1000, "a GPU")
