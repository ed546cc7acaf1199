"""Tasks by way of the requests artefact, against lm-eval's own evaluation with its HF model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.evaluate import task_documents
from jobs.evaluate.evaluation import TaskRunner
from jobs.evaluate.task_requests import Prepared, Settings, _set_shots, build
from jobs.evaluate.taskfiles import index_folder, metrics_of
from tests.conftest import sentences

COMMON = """\
dataset_path: json
dataset_kwargs: {data_files: {train: FOLDER/train.jsonl, test: FOLDER/test.jsonl}}
test_split: test
training_split: train
"""
CHOICE = """\
task: NAME
include: common
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: brier_score}]
"""
TASKS = {
    "first": CHOICE.replace("NAME", "first"),
    "second": CHOICE.replace("NAME", "second").replace("{{question}}", "Well: {{question}}"),
    "both": "group: both\ntask: [first, second]\n"
    "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n",
    "last_word": "task: last_word\ninclude: common\noutput_type: loglikelihood\n"
    'doc_to_text: "{{question}}"\ndoc_to_target: "{{choices[answer]}}"\n'
    "metric_list: [{metric: perplexity}, {metric: acc}]\n",
    "whole": "task: whole\ninclude: common\noutput_type: loglikelihood_rolling\n"
    'doc_to_text: ""\ndoc_to_target: "{{question}}"\n'
    "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n",
    "written": "task: written\ninclude: common\noutput_type: generate_until\n"
    'doc_to_text: "{{question}}"\ndoc_to_target: "{{choices[0]}}"\n'
    'generation_kwargs: {until: ["."], max_gen_toks: 6, do_sample: false}\n'
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
}
SHOTS = {"both": 2, "last_word": 1}


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of task files of every kind, with documents of their own."""
    folder = tmp_path_factory.mktemp("tasks")
    for split in ("train", "test"):
        lines = []
        for i, text in enumerate(sentences("farm", 9, len(split))):
            words = text.split()
            choices = [words[8], "the narrow bridge", words[9] + " glass", "a"]
            row = {"question": " ".join(words[: 4 + i]), "choices": choices, "answer": i % 2}
            lines.append(json.dumps(row) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8")
    (folder / "common").write_text(COMMON.replace("FOLDER", str(folder)), "utf-8")
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text, "utf-8")
    return folder


def ours(folder: Path, model: Path, name: str, scratch: Path, bos: bool = False) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(model)
    settings = Settings(SHOTS.get(name), 7, 60, bos)
    build(scratch, name, [str(folder)], {}, None, tokenizer, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_documents, "load_for_real", None)  # a job does not read data sets
        prepared = Prepared.load(scratch, name, [str(folder)])
    net = AutoModelForCausalLM.from_pretrained(model)
    return TaskRunner(net, tokenizer, 60, bos).run(prepared)


@pytest.mark.parametrize("name", ["both", "last_word", "whole", "written"])
def test_tasks_score_as_with_lm_eval(
    task_folder: Path, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    scores = ours(task_folder, tiny_model, name, tmp_path)
    manager = TaskManager(include_defaults=False, include_path=[str(task_folder)])
    lm = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(tiny_model),
        tokenizer=AutoTokenizer.from_pretrained(tiny_model),
        batch_size=2,
        max_length=60,
        add_bos_token=False,
    )
    tasks = manager.load([name])
    for task in tasks["tasks"].values():
        _set_shots(task, SHOTS.get(name))
    wanted = evaluate(lm=lm, task_dict=tasks, limit=7, bootstrap_iters=0, log_samples=True)
    found = {(m.task, m.metric): m for m in scores.metrics}
    for task, metrics in wanted["results"].items():
        for key, value in metrics.items():
            metric, _, which = key.partition(",")
            if which == "none" and isinstance(value, float) and "stderr" not in metric:
                assert found[task, metric].value == pytest.approx(value, rel=1e-4)
    assert all(m.stderr is not None for m in scores.metrics)
    outcomes = {(t, d, m): v for t, d, m, v in scores.outcomes}
    for task, samples in wanted["samples"].items():
        for sample in samples:
            if name in ("both", "last_word"):
                for i, (value, _) in enumerate(sample["filtered_resps"]):
                    own = outcomes[task, sample["doc_id"], f"loglikelihood_{i}"]
                    assert own == pytest.approx(value, rel=1e-4)
            for metric in set(sample["metrics"]) & {"acc", "acc_norm", "exact_match"}:
                assert outcomes[task, sample["doc_id"], metric] == sample[metric]


def test_bos_stands_once_before_every_request(
    task_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    ours(task_folder, tiny_model, "last_word", tmp_path, bos=True)
    prepared = Prepared.load(tmp_path, "last_word", [str(task_folder)])
    assert all(row["context"][0] == 0 and 0 not in row["context"][1:] for row in prepared.rows)


def test_task_files_tell_their_metrics(task_folder: Path) -> None:
    index = index_folder(task_folder)
    assert set(index) == set(TASKS)
    assert sorted(index["both"].files) == ["first.yaml", "second.yaml"]

    def metrics(name: str) -> list[str]:
        return metrics_of(str(task_folder / file) for file in index[name].files)

    assert metrics("both") == ["acc", "acc_norm", "brier_score"]
    assert metrics("written") == ["exact_match"]
