"""Reading weights from their files, block by block and all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, build

from prune.model.load import _empty_model, load_model
from prune.model.tensorfile import entries

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_entries_are_the_tensors(tmp_path: Path, dtype: torch.dtype) -> None:
    first = {"a": torch.randn(3, 5).to(dtype), "empty": torch.zeros(0, 4).to(dtype)}
    second = {"b.c": torch.randn(7).to(dtype)}
    save_file(first, tmp_path / "model-1.safetensors", metadata={"format": "pt"})
    save_file(second, tmp_path / "model-2.safetensors")
    found = entries(tmp_path)
    assert found.keys() == first.keys() | second.keys()
    for name, x in {**first, **second}.items():
        assert torch.equal(found[name].read(), x), name


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.randn(64)}, path)
    entry = entries(tmp_path)["a"]
    path.write_bytes(path.read_bytes()[:-4])
    for look, error in ((lambda: entries(tmp_path), ValueError), (entry.read, EOFError)):
        with pytest.raises(error, match=r"model\.safetensors ends early"):
            look()


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ValueError, match="no safetensors file"):
        entries(tmp_path)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_files_hold_what_the_loaded_model_has(name: str, tmp_path: Path) -> None:
    build(name).save_pretrained(tmp_path)
    loaded = load_model(tmp_path, "float32")
    assert str(tmp_path) not in Path("/proc/self/maps").read_text(), "read, not mapped"
    empty, files = _empty_model(tmp_path, torch.float32)
    if name == "gpt-neox":  # its files have another name for one weight: the host reads it all
        assert empty is None
        return
    assert empty is not None, "every weight was found"
    names = dict(loaded.named_parameters())
    assert files.keys() == names.keys()
    for key, parameter in names.items():
        assert torch.equal(files[key].read(), parameter.cpu()), key
    for key, buffer in loaded.named_buffers():
        assert torch.equal(empty.get_buffer(key), buffer.cpu()), key


def test_a_model_without_all_weights_is_not_streamed(tmp_path: Path) -> None:
    build("llama-mha").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    assert _empty_model(tmp_path, torch.float32) == (None, {})
    with pytest.raises(ValueError, match=r"lacks weights of its LlamaForCausalLM: .*up_proj"):
        load_model(tmp_path, "float32")


def test_a_copy_beside_the_model_is_not_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model-00001-of-00001.safetensors")
    save_file({"a": torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "consolidated.safetensors")
    assert entries(tmp_path)["a"].read().tolist() == [1, 1]
    assert entries(tmp_path).keys() == {"a"}


@GPU
@pytest.mark.parametrize("name", CONFIGS)
def test_a_streamed_model_is_the_loaded_one(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    build(name).save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).cuda()
    streamed = load_model(tmp_path, "bfloat16")
    for (key, a), b in zip(plain.state_dict().items(), streamed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    ids = torch.arange(3, 30)[None].cuda()
    assert torch.equal(plain(ids).logits, streamed(ids).logits)
