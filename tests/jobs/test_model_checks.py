"""What a grid asks of a model that its files show to be impossible: refused with the plan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cluster.yamlfile import InputError
from jobs.plan.planning import plan_grid

Write = Callable[..., Path]


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        plan_grid(path, list(overrides), path.parent / "out")
    return "\n".join(error.value.lines)


def accepted(path: Path, *overrides: str) -> bool:
    return bool(plan_grid(path, list(overrides), path.parent / "out").cells)


@pytest.fixture
def openlm(tiny_model: Path, tmp_path: Path) -> Path:
    """A folder with the configuration and the weights' names of an OpenLM model."""
    folder = tmp_path / "openlm"
    shutil.copytree(tiny_model, folder)
    config = {"model_type": "openlm", "seq_len": 128}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    rows = {"attention.in_proj": 96, "attention.out_proj": 32, "feed_forward.w12": 96}
    rows |= {"feed_forward.w3": 32}
    weights = {f"model.layers.0.{n}.weight": torch.zeros(r, 32) for n, r in rows.items()}
    embedding = {"model.tok_embeddings.weight": torch.zeros(400, 32)}
    save_file(weights | embedding, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("skip", "said"),
    [
        ("[self_attn.q_prj]", ["'self_attn.q_prj'", "'self_attn.q_proj'", "mlp.down_proj"]),
        ("['mlp.*', lm_head]", ["skip.1", "'lm_head'", "no projection of a block"]),
        ("['*']", ["leaves nothing", "self_attn.q_proj"]),
        ("['mlp.*', 'self_attn.*']", ["leaves nothing", "mlp.up_proj"]),
    ],
)
def test_what_skip_cannot_mean_is_refused(write_grid: Write, skip: str, said: list[str]) -> None:
    path = write_grid({"keep: none": f"pruning: {{skip: {skip}}}"})
    message = refusal(path)
    assert all(word in message for word in said), message


@pytest.mark.parametrize("skip", ["mlp.down_proj", "*.down_proj", "self_attn.?_proj", "*[qk]_proj"])
def test_patterns_that_match_are_accepted(write_grid: Write, skip: str) -> None:
    assert accepted(write_grid({"keep: none": f"pruning: {{skip: ['{skip}']}}"}))


@pytest.mark.parametrize(
    ("skip", "fused", "fits"),
    [
        ("*.in_proj[q]", "split", True),
        ("attention.in_proj", "split", True),
        ("attention.in_proj", "whole", True),
        ("*.in_proj[q]", "whole", False),
        ("*.in_proj[x]", "split", False),
    ],
)
def test_parts_of_fused_projections_have_names(
    write_grid: Write, tiny_model: Path, openlm: Path, skip: str, fused: str, fits: bool
) -> None:
    pruning = f"pruning: {{skip: ['{skip}'], fused: {fused}}}"
    path = write_grid({"keep: none": pruning, str(tiny_model): str(openlm)})
    if fits:
        assert accepted(path)
    else:
        assert "attention.in_proj" in refusal(path)


def test_experts_that_the_files_name_otherwise_are_left_to_the_run(
    write_grid: Write, tiny_model: Path, openlm: Path
) -> None:
    weights = {f"model.layers.0.moe.experts.{i}.w1.weight": torch.zeros(8, 32) for i in range(2)}
    save_file(weights, openlm / "model.safetensors")
    skip = "pruning: {skip: ['mlp.experts.*']}"
    assert accepted(write_grid({"keep: none": skip, str(tiny_model): str(openlm)}))


@pytest.fixture
def with_tokenizer(write_grid: Write, tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a grid whose model's tokenizer states other things than before; None = nothing."""

    def write(changes: dict[str, str], **stated: str | None) -> Path:
        folder = tmp_path / "other"
        shutil.copytree(tiny_model, folder)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text()) | stated
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return write_grid({str(tiny_model): str(folder), **changes})

    return write


WRITES = "perplexity: [farm]", "tasks: [{name: mine, path: mine.yaml}]"
TASK = """\
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: q.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{text}}"
generation_kwargs: {max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""
ALONE = {"datasets:\n": "datasets:\n  own: {generate: {from: null, texts: 20}}\n"}
ALONE |= {"dataset: [farm, city]": "dataset: own"}


def test_special_tokens_that_are_needed(
    with_tokenizer: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(TASK)
    (tmp_path / "q.jsonl").write_text('{"text": "a"}\n')
    path = with_tokenizer(dict([WRITES]), eos_token=None)
    message = refusal(path)
    assert "EOS" in message
    assert "evaluate.tasks.0: mine" in message


@pytest.mark.parametrize("changes", [ALONE, {"limit: 6": "bos: add"}], ids=["from", "bos"])
@pytest.mark.parametrize("stated", [{}, {"tokenizer_class": "PreTrainedTokenizerFast"}], ids=str)
def test_a_bos_that_no_file_states_is_missing(
    with_tokenizer: Callable[..., Path], changes: dict[str, str], stated: dict[str, str]
) -> None:
    assert "no BOS token" in refusal(with_tokenizer(changes, bos_token=None, **stated))


def test_classes_have_special_tokens_of_their_own(with_tokenizer: Callable[..., Path]) -> None:
    assert accepted(with_tokenizer(ALONE, bos_token=None, tokenizer_class="GPT2Tokenizer"))


@pytest.mark.parametrize("special", [False, True])
def test_a_tokenizer_larger_than_the_embedding_is_refused(
    with_tokenizer: Callable[..., Path], tmp_path: Path, special: bool
) -> None:
    path = with_tokenizer({})
    file = tmp_path / "other/tokenizer.json"
    tokenizer = json.loads(file.read_text())
    rows = json.loads((tmp_path / "other/config.json").read_text())["vocab_size"]
    known = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"].append(known | {"id": rows, "content": "<more>", "special": special})
    file.write_text(json.dumps(tokenizer))
    if special:  # no text has it
        assert accepted(path)
    else:
        assert f"{rows + 1:,} tokens, and the model's embedding {rows:,} rows" in refusal(path)
    file.write_text(file.read_text()[:-9])
    assert "copy it from the model again" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seqlen: 32": "seqlen: 1"}, ["calibration.seqlen", "evaluate.seqlen"]),
        ({"limit: 6": "seqlen: 1"}, ["evaluate.seqlen", "2"]),
        ({"limit: 6": "max_length: 1"}, ["evaluate.max_length", "2"]),
        (
            {"seqlen: 32": "seqlen: 1", "magnitude, wanda": "pruner-zero", "limit: 6": "seqlen: 9"},
            ["pruner-zero", "gradients"],
        ),
        ({"seqlen: 32": "seqlen: 32, folds: 60"}, ["fold 1 of calibration.folds: 60", "tokens"]),
    ],
    ids=str,
)
def test_windows_that_cannot_be(
    write_grid: Write, changes: dict[str, str], said: list[str]
) -> None:
    message = refusal(write_grid(changes))
    assert all(word in message for word in said), message


def test_windows_of_one_token_calibrate(write_grid: Write) -> None:
    assert accepted(write_grid({"seqlen: 32": "seqlen: 1", "limit: 6": "seqlen: 16"}))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{select: {from: farm, by: zipcal, documents: 61}}", ["61", "60 documents"]),
        ("{select: {from: both, by: zipcal, documents: 121}}", ["121", "both has"]),
        ("{select: {from: self, by: zipcal, documents: 17}}", ["17", "16 documents"]),
        ("{generate: {from: farm, texts: 60, prefix_tokens: 100}}", ["100 tokens", "60"]),
        ("{generate: {from: both, texts: 121}}", ["both has", "121"]),
        ("{path: text, data_files: short.txt}", ["size", "asks for"]),
        ("{mixture: {farm: 1, tiny: 1}}", ["size", "asks for"]),
    ],
)
def test_more_text_than_there_is(
    write_grid: Write, tmp_path: Path, entry: str, said: list[str]
) -> None:
    (tmp_path / "short.txt").write_text("a few words")
    more = f"  own: {entry}\n  both: {{mixture: {{farm: 1, city: 1}}}}\n"
    more += "  tiny: {path: text, data_files: short.txt}\n"
    more += "  self: {generate: {from: farm, texts: 20}}\n"
    path = write_grid(
        {"datasets:\n": f"datasets:\n{more}", "dataset: [farm, city]": "dataset: own"}
    )
    message = refusal(path)
    assert all(word in message for word in said), message


def test_a_text_of_one_token_has_no_perplexity(write_grid: Write, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("")
    entry = "datasets:\n  one: {path: text, data_files: short.txt}\n"
    path = write_grid({"datasets:\n": entry, "perplexity: [farm]": "perplexity: [one]"})
    assert "no row has any text" in refusal(path)
