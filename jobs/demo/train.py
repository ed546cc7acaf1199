"""Train the demo's model: ``python -m jobs.demo.train [--out FOLDER] [--minutes N]``.

A small Llama on the collected pre-training text. The trained model ships in ``jobs/demo/model``;
this file says how it was made and makes it again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from jobs.demo.text import collect

END = "<|endoftext|>"  # begins and ends every document


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is trained. Widths that are pruned are divisible by 32."""

    vocabulary: int = 4096
    hidden: int = 192
    intermediate: int = 512
    blocks: int = 6
    heads: int = 6
    key_value_heads: int = 3
    seqlen: int = 256
    batch: int = 64
    epochs: float = 33  # as the shipped model saw
    rate: float = 3e-3
    warmup: float = 0.02
    decay: float = 0.1
    dropout: float = 0.1
    seed: int = 0


def train(text: Path, out: Path, settings: Settings, minutes: float) -> dict:
    """Train tokenizer and model and save both as one Hugging Face folder.

    Args:
        text: folder with ``pretraining.jsonl`` and ``heldout.jsonl``.
        out: the folder that is written.
        settings: sizes and schedule.
        minutes: the schedule ends here where the epochs are not through before.

    Returns:
        What ``training.json`` holds: settings, tokens, epochs, seconds, device, perplexity.
    """
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus, heldout = _texts(text / "pretraining.jsonl"), _texts(text / "heldout.jsonl")
    tokenizer = train_tokenizer(corpus, settings.vocabulary)
    documents, windows = encode(tokenizer, corpus), encode(tokenizer, heldout)
    torch.manual_seed(settings.seed)
    model = LlamaForCausalLM(model_config(settings, tokenizer))
    torch.nn.Module.to(model, device)
    steps, seen = _fit(model, documents, settings, minutes * 60, device)
    model.bfloat16()
    model.generation_config.max_new_tokens = 128
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    record = {
        "settings": asdict(settings),
        "parameters": model.num_parameters(),
        "corpus_sha256": hashlib.sha256((text / "pretraining.jsonl").read_bytes()).hexdigest(),
        "corpus_tokens": sum(map(len, documents)),
        "tokens": seen,
        "steps": steps,
        "epochs": round(seen / sum(map(len, documents)), 2),
        "seconds": round(time.monotonic() - began, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "heldout_perplexity": round(perplexity(model.float(), windows, settings.seqlen), 3),
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of exactly ``vocabulary`` entries; no text is unknown to it."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    bare.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token=END, eos_token=END, pad_token=END
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[np.ndarray]:
    """Return int64 token ids of each text, the end token in front."""
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [np.array([tokenizer.bos_token_id, *row]) for row in rows]


def model_config(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return the shape of the model: a Llama with grouped key-value heads and tied embeddings."""
    return LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.blocks,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, documents: Sequence[np.ndarray], seqlen: int) -> float:
    """Return the perplexity of joined documents in windows of ``seqlen`` tokens."""
    model.eval()
    ids = torch.from_numpy(np.concatenate(documents))
    rows = ids[: len(ids) // seqlen * seqlen].view(-1, seqlen)
    losses = [_loss(model, row.to(model.device)).double() * len(row) for row in rows.split(16)]
    return math.exp(float(sum(losses)) / len(rows))


def _fit(
    model: LlamaForCausalLM,
    documents: list[np.ndarray],
    settings: Settings,
    seconds: float,
    device: torch.device,
) -> tuple[int, int]:
    """Train by AdamW and a cosine over the steps, or over the time where that ends first.

    Returns:
        Steps and tokens done.
    """
    total = settings.epochs * sum(map(len, documents)) / (settings.batch * settings.seqlen)
    optimiser = _optimiser(model, settings)
    hooks = _add_dropout(model, settings.dropout)
    model.train()
    began = time.monotonic()
    step = 0
    for rows in _batches(documents, settings):
        done = max(step / total, (time.monotonic() - began) / seconds)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * _schedule(done, settings.warmup)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = _loss(model, rows.to(device, non_blocking=True))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        if step % 200 == 0:
            print(f"step {step} of {total:.0f}: loss {loss.item():.3f}", flush=True)
    for hook in hooks:
        hook.remove()
    return step, step * settings.batch * settings.seqlen


def _loss(model: LlamaForCausalLM, rows: Tensor) -> Tensor:
    """Return the mean next-token loss of ``rows`` [batch, seqlen] in nats."""
    logits = model(input_ids=rows, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), rows[:, 1:].flatten())


def _optimiser(model: LlamaForCausalLM, settings: Settings) -> torch.optim.AdamW:
    """Decay matrices alone, as usual: norms and their like stay free."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.95), fused=True)


def _add_dropout(model: LlamaForCausalLM, share: float) -> list[torch.utils.hooks.RemovableHandle]:
    """Drop a share of what each sublayer adds; Llama has no such setting, and epochs are many."""

    def drop(module: torch.nn.Module, args: tuple, output: Tensor) -> Tensor:
        return F.dropout(output, share, training=module.training)

    sublayers = [part for b in model.model.layers for part in (b.self_attn.o_proj, b.mlp)]
    return [part.register_forward_hook(drop) for part in sublayers]


def _batches(documents: list[np.ndarray], settings: Settings) -> Iterator[Tensor]:
    """Yield int64 [batch, seqlen] without end, the documents in a new order every epoch."""
    generator = np.random.default_rng(settings.seed)
    size = settings.batch * settings.seqlen
    rest = np.zeros(0, dtype=np.int64)
    while True:
        order = generator.permutation(len(documents))
        rest = np.concatenate([rest, *(documents[i] for i in order)])
        whole = len(rest) // size * size
        for batch in rest[:whole].reshape(-1, settings.batch, settings.seqlen):
            yield torch.from_numpy(batch)
        rest = rest[whole:]


def _schedule(done: float, warmup: float) -> float:
    """Return the share of the full rate when ``done`` of the training is over."""
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def _texts(path: Path) -> list[str]:
    """Read the texts of a JSONL file."""
    lines = path.read_text(encoding="utf-8").split("\n")  # other line ends are part of a text
    return [json.loads(line)["text"] for line in lines if line]


def main() -> None:
    """Read the command line, collect the text where no folder is named, and train."""
    parser = argparse.ArgumentParser(description="Train the demo's model.")
    default = Path(__file__).parent / "model"
    parser.add_argument("--out", type=Path, default=default, help="folder of the model")
    parser.add_argument("--text", type=Path, help="collected text; default: collect it now")
    parser.add_argument("--minutes", type=float, default=30, help="time at most")
    for name in ("epochs", "dropout", "rate", "decay"):
        known = getattr(Settings, name)
        parser.add_argument(f"--{name}", type=float, default=known, help=f"default {known}")
    given = parser.parse_args()
    settings = Settings(
        epochs=given.epochs, dropout=given.dropout, rate=given.rate, decay=given.decay
    )
    with tempfile.TemporaryDirectory() as scratch:
        text = given.text or collect(Path(scratch))
        record = train(text, given.out, settings, given.minutes)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
