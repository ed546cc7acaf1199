"""Self-generated calibration text: the dense model continues short prefixes (Ji et al. 2025, 5)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from calib.pool import Pool, Tokens
from calib.spec import GenerateSpec, positions
from calib.text_figures import language, perplexities, repetition, summary
from calib.writer import Writer


@dataclass(frozen=True)
class GeneratedText:
    """One text that the model wrote.

    Attributes:
        text: the text, prefix included, special tokens left out.
        tokens: its tokens, prefix and BOS included.
        perplexity: exp of the mean negative log-likelihood of its tokens after the first.
        repetition: 4-gram aggregation, see `calib.text_figures`.
        language: a guess, ISO 639-1; None where it has no words.
        source: id of the document that gave the prefix; None where BOS alone began it.
        kept: False where it is among the highest perplexities that are dropped, or blank.
    """

    text: str
    tokens: int
    perplexity: float
    repetition: float
    language: str | None
    source: str | None
    kept: bool = True


def bos_token(tokenizer: PreTrainedTokenizerBase, spec: GenerateSpec) -> int | None:
    """The BOS id to put in front of a text, or None; "auto" does as the tokenizer does.

    Raises:
        ValueError: a BOS is needed, and the tokenizer has none.
    """
    bos: int | None = tokenizer.bos_token_id
    if spec.bos == "auto" and spec.source is not None:
        ids = tokenizer("a").input_ids
        return bos if ids and ids[0] == bos else None
    if spec.bos and bos is None:
        raise ValueError(
            "the tokenizer has no BOS token; use `bos: none` and, so that a text has a beginning, "
            "a source of prefixes (`from`)"
        )
    return bos if spec.bos else None


def prefixes(
    source: Tokens | None, spec: GenerateSpec, bos: int | None
) -> tuple[list[str | None], Tensor]:
    """Document ids and first tokens of the texts, and of as many more as fill the last batch.

    Text i begins as the i-th document that reaches `prefix_tokens`; what fills the last batch goes
    on with the documents that a larger pool would take, from the first again after the last.

    Returns:
        The ids, and an int64 tensor [texts and filling, prefix_tokens (+ 1 with BOS)].

    Raises:
        ValueError: the source has too few documents that reach `prefix_tokens`.
    """
    count = -(-spec.texts // spec.batch) * spec.batch
    first = [] if bos is None else [bos]
    if source is None:
        return [None] * count, torch.tensor([first] * count)
    lengths = np.diff(source.ends, prepend=0)
    starts = source.ends - lengths
    long = np.flatnonzero(lengths >= spec.prefix).tolist()
    if len(long) < spec.texts:
        raise ValueError(
            f"{len(long):,} documents of {spec.source!r} have {spec.prefix} tokens, and "
            f"{spec.texts:,} texts were asked for; ask for fewer texts or name another source"
        )
    taken = [long[i % len(long)] for i in range(count)]
    rows = [first + source.ids[starts[i] : starts[i] + spec.prefix].tolist() for i in taken]
    return [source.documents[i] for i in taken], torch.tensor(rows)


class Generator:
    """Writes a pool batch by batch; any process may write any batch, in any order.

    Text i is in batch i div `spec.batch`, which is always full; the uniform numbers it is sampled
    with depend on (seed, i, position) alone. So what a batch holds depends on nothing outside it:
    not on the number of texts, on who writes it, nor on what was written before.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        source: Tokens | None,
        spec: GenerateSpec,
        max_tokens: int,
    ) -> None:
        """Get ready.

        Args:
            model: the dense model, in evaluation mode.
            tokenizer: its tokenizer.
            source: tokens of the documents that give the prefixes, in pool order.
            spec: the settings.
            max_tokens: new tokens a text, at most; fewer where the model's positions end.

        Raises:
            ValueError: the source has too few documents, the tokenizer no BOS, or the model no
                position left after the prefix.
        """
        self.model, self.tokenizer, self.spec = model, tokenizer, spec
        self.documents, self.starts = prefixes(source, spec, bos_token(tokenizer, spec))
        self.prefix = prefix = self.starts.shape[1]
        self.special = prefix - spec.prefix
        new = min(max_tokens, (positions(model.config.to_dict()) or math.inf) - prefix)
        if new < 1:
            raise ValueError(
                f"a prefix of {prefix} tokens leaves the model no position to write at; use fewer "
                "prefix_tokens"
            )
        self.writer = Writer(model, spec, prefix, int(new), tokenizer.eos_token_id)

    def batch(
        self, number: int, look: Callable[[int, str], None] = lambda written, sample: None
    ) -> list[GeneratedText]:
        """Write and score a batch, filling included.

        Args:
            number: of the batch, from 0.
            look: called now and then with the tokens written a text, and the first text so far.
        """
        with one_thread(self.model.device):
            return self._batch(number, look)

    def _batch(self, number: int, look: Callable[[int, str], None]) -> list[GeneratedText]:
        first = number * self.spec.batch
        texts = range(first, first + self.spec.batch)
        starts = self.starts[first : first + self.spec.batch]
        rows = self.writer.write(
            starts, texts, lambda written, ids: look(written, self._decoded(ids[0], written))
        )
        scores = perplexities(self.model, rows)
        made = []
        for i, row, score in zip(texts, rows, scores, strict=True):
            text = str(self.tokenizer.decode(row[self.special :], skip_special_tokens=True))
            made.append(
                GeneratedText(
                    text, len(row), score, repetition(row), language(text), self.documents[i]
                )
            )
        return made

    def _decoded(self, ids: Tensor, written: int) -> str:
        so_far = ids[self.special : self.prefix + written]
        return str(self.tokenizer.decode(so_far, skip_special_tokens=True))


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """One CPU thread: with more, products are summed in another order, and bytes would differ.

    Cores are used by writing several batches at once, a process each. On a GPU nothing changes.
    """
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: Tokens | None,
    spec: GenerateSpec,
    max_tokens: int,
) -> list[GeneratedText]:
    """A whole pool in this process: its texts, those of highest perplexity marked as dropped."""
    generator = Generator(model, tokenizer, source, spec, max_tokens)
    batches = range(-(-spec.texts // spec.batch))
    return pooled((text for n in batches for text in generator.batch(n)), spec)


def pooled(batches: Iterable[GeneratedText], spec: GenerateSpec) -> list[GeneratedText]:
    """The texts of a pool, of those that its batches hold, with the highest perplexities dropped.

    floor(drop_top_perplexity x texts) of them are; of equal ones the first.
    """
    texts = [text for text, _ in zip(batches, range(spec.texts), strict=False)]
    count = int(Decimal(str(spec.drop_top_perplexity)) * len(texts))
    order = sorted(range(len(texts)), key=lambda i: -texts[i].perplexity)
    dropped = set(order[:count])
    return [
        replace(text, kept=i not in dropped and bool(text.text.strip()))
        for i, text in enumerate(texts)
    ]


def to_json(text: GeneratedText) -> dict[str, Any]:
    """A text as plain data; JSON has no infinite perplexity."""
    finite = math.isfinite(text.perplexity)
    return asdict(text) | {"perplexity": text.perplexity if finite else None}


def from_json(data: dict[str, Any]) -> GeneratedText:
    """Read what `to_json` made."""
    infinite = {"perplexity": math.inf} if data["perplexity"] is None else {}
    return GeneratedText(**data | infinite)


def save(texts: Sequence[GeneratedText], folder: Path, paths: Sequence[str]) -> None:
    """Write all texts, the pool of the kept ones, and what its quality is.

    Args:
        texts: of the pool.
        folder: where `texts.jsonl`, `documents.parquet` and `manifest.json` are written.
        paths: how the batches were computed, see `Writer.path`.
    """
    lines = "".join(json.dumps(to_json(text)) + "\n" for text in texts)
    (folder / "texts.jsonl").write_text(lines, "utf-8")
    manifest = summary(texts) | {"decoder": sorted(set(paths))}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
    kept = [text.text for text in texts if text.kept]
    Pool.of(kept, len(kept) or 1).save(folder)
