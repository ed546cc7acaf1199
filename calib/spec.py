"""What a grid file says of a dataset, and the datasets that are built in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from ruamel.yaml import YAML

from calib.rows import PARTS, Form
from calib.selectors import SELECTORS

LOADERS = ("json", "csv", "parquet", "text")
"""Values of `path` that mean local files; anything else is a hub id or a folder."""


class Strict(BaseModel):
    """A section of a grid file: frozen, exactly typed, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Cooling(Strict):
    """A temperature that goes in equal steps from `start` to `end` over the first `tokens`.

    High at first, so that texts that all begin with BOS go different ways (Williams et al. 2025).
    """

    start: float = Field(gt=0)
    end: float = Field(1.0, gt=0)
    tokens: int = Field(ge=1)


def _bos(value: Any) -> Any:
    return {"add": True, "none": False}.get(value, value) if isinstance(value, str) else value


def _distinct(seeds: list[int]) -> list[int]:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"{seeds} is no list of pool seeds; list one or more, each once")
    return seeds


PoolSeed = Annotated[int, Field(ge=0, lt=2**64)]


class GenerateSpec(Strict):
    """How the model writes its own calibration text (Ji et al. 2025, section 5).

    Attributes:
        source: dataset whose documents give the prefixes, one a text, in pool order; None = every
            text begins with BOS alone (self-calibration, Williams et al. 2025).
        texts: texts to write.
        max_tokens: new tokens a text, None = the seqlen of the cell; fewer where the model has
            no more positions.
        prefix_tokens: tokens of the source text that start each text, BOS not counted (the
            study's count is that of the tokenizer's output, so with a BOS where it adds one).
        bos: put the tokenizer's BOS in front: add (true), none (false), or "auto" = where its
            tokenizer does, and always without a source.
        temperature, top_p, top_k, repetition_penalty: the sampling; top_k 0 = all tokens.
        drop_top_perplexity: fraction of the texts, those of highest perplexity, to drop.
        batch: texts written together; part of the text's identity.
        seed: fixes the pool of texts; a cell's own seed draws from it. A list makes one dataset
            of each, `name@seed`.
    """

    source: str | None = Field(alias="from")
    texts: int = Field(512, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    prefix_tokens: int = Field(2, ge=0)
    bos: Annotated[Literal["auto"] | bool, BeforeValidator(_bos)] = "auto"
    temperature: Annotated[float, Field(gt=0)] | Cooling = 0.6
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(50, ge=0)
    repetition_penalty: float = Field(1.2, gt=0)
    drop_top_perplexity: float = Field(0.2, ge=0, lt=1)
    batch: int = Field(64, ge=1)
    seed: PoolSeed | Annotated[list[PoolSeed], AfterValidator(_distinct)] = 0

    @model_validator(mode="before")
    @classmethod
    def _no_prefix(cls, data: Any) -> Any:
        """Without a source there is no prefix, whether that is written or not."""
        if isinstance(data, dict) and "from" in data and data["from"] is None:
            return {"prefix_tokens": 0} | data
        return data

    @model_validator(mode="after")
    def _start(self) -> GenerateSpec:
        if self.source is not None and not self.prefix_tokens:
            raise ValueError(
                "prefix_tokens: 0 takes nothing of the source; write 1 or more, or `from: null` "
                "for texts that begin with BOS alone"
            )
        if self.source is None and self.prefix_tokens:
            raise ValueError(
                f"prefix_tokens: {self.prefix_tokens} without a source; name a dataset in `from`, "
                "or leave prefix_tokens out: texts then begin with BOS alone"
            )
        if self.source is None and self.bos is False:
            raise ValueError("a text begins with a prefix or BOS; name a dataset in `from`")
        return self

    @property
    def prefix(self) -> int:
        """Tokens of the source that start a text."""
        return self.prefix_tokens if self.source is not None else 0

    @property
    def one_seed(self) -> int:
        """The pool seed of one dataset.

        Raises:
            ValueError: several are listed; the grid makes a dataset of each.
        """
        if isinstance(self.seed, list):
            raise ValueError(f"pool seeds {self.seed} stand for a dataset each")
        return self.seed

    @property
    def kept(self) -> int:
        """Texts that are left after the drop."""
        return self.texts - int(Decimal(str(self.drop_top_perplexity)) * self.texts)

    def temperatures(self, count: int) -> list[float]:
        """The temperature of each of the first `count` new tokens."""
        cooling = self.temperature
        if not isinstance(cooling, Cooling):
            return [cooling] * count
        step = (cooling.end - cooling.start) / cooling.tokens
        return [cooling.start + step * min(i, cooling.tokens) for i in range(count)]


def positions(config: Mapping[str, Any]) -> int | None:
    """Tokens that a model has positions for, by its `config.json`; None where it has no limit."""
    keys = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_len", "seq_length")
    nested = config.get("text_config") or config
    return next((int(nested[key]) for key in keys if nested.get(key)), None)


class QuestionSpec(Strict):
    """How question-answer rows become documents (Bandari et al. 2024, section 3).

    Attributes:
        question, answer, rationale: Jinja templates over the columns.
        form: `zero_shot` is the question alone; `in_context` the question and its answer;
            `chain_of_thought` the question, the steps to the answer, and the answer.
        examples: rows that make a document together, with an empty line between them.
    """

    question: str = "{{ question }}"
    answer: str = "{{ answer }}"
    rationale: str | None = None
    form: Form = "in_context"
    examples: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _has_rationale(self) -> QuestionSpec:
        if self.form == "chain_of_thought" and self.rationale is None:
            raise ValueError(
                "form: chain_of_thought needs `rationale`, a template of the steps to the answer"
            )
        return self

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates that make a row's text, line by line."""
        return tuple(getattr(self, part) for part in PARTS[self.form])


def _selector(name: str) -> str:
    if name not in SELECTORS:
        raise ValueError(f"{name!r} is no selector; allowed: {', '.join(sorted(SELECTORS))}")
    return name


class SelectSpec(Strict):
    """A dataset made of some documents of another; see `calib.selectors`.

    Attributes:
        source: dataset whose documents are chosen from.
        by: what is chosen.
        documents: how many.
    """

    source: str = Field(alias="from")
    by: Annotated[str, AfterValidator(_selector)]
    documents: int = Field(ge=1)


Control = Literal["random_tokens", "ellipses"]
"""Text without meaning: uniformly random tokens of the model, or dots alone."""


OF_REPOSITORIES = ("name", "split", "revision")
OF_FILES = (
    *OF_REPOSITORIES,
    *("data_files", "text", "template", "questions", "url", "shards", "max_rows"),
)
"""Keys of a dataset that mean something for repositories and folders alone, or for a `path`."""

KINDS = ("path", "mixture", "generate", "select", "control")


class DatasetSpec(Strict):
    """Where the text of a dataset comes from: files, other datasets, the model, or nowhere.

    Attributes:
        path: a hub id, a folder, or one of `LOADERS` for the local files of `data_files`.
        name, split, revision: configuration, split and revision of a hub repository.
        data_files: file names or globs; relative to the grid file, or inside the repository.
        text: the column that holds the text.
        template: Jinja template over the columns that makes the text instead.
        questions: the rows are questions and answers.
        url: the column that holds a page's address, where there is one.
        shards: use the first so many data files, in order of name; None = all.
        streaming: read a hub repository over the network, without downloading its files.
        max_rows: use the first so many rows of the data files, in order; None = all.
        max_documents: size limit of the pool.
        mixture: dataset names and their weights, by characters.
        generate: text written by the model.
        select: chosen documents of another dataset.
        control: text without meaning.
    """

    path: str | None = None
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    data_files: Annotated[list[str] | None, BeforeValidator(_as_list)] = None
    text: str = "text"
    template: str | None = None
    questions: QuestionSpec | None = None
    url: str = "url"
    shards: int | None = Field(None, ge=1)
    streaming: bool = False
    max_rows: int | None = Field(None, ge=1)
    max_documents: int = Field(200_000, ge=1)
    mixture: dict[str, float] | None = None
    generate: GenerateSpec | None = None
    select: SelectSpec | None = None
    control: Control | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> DatasetSpec:
        kinds = [k for k in KINDS if getattr(self, k) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"a dataset has exactly one of {', '.join(map(repr, KINDS))}, not "
                + (" and ".join(kinds) or "none of them")
            )
        if self.streaming and (self.path is None or self.path in LOADERS):
            raise ValueError("streaming is for a `path` that is a hub id")
        useless: tuple[str, ...] = OF_FILES if self.path is None else ()
        useless = OF_REPOSITORIES if self.path in LOADERS else useless
        fields = type(self).model_fields
        if written := [key for key in useless if getattr(self, key) != fields[key].default]:
            what = "a `path`" if self.path is None else "hub repositories and folders"
            raise ValueError(f"{', '.join(written)} is for {what}; leave it out")
        if self.template is not None and self.questions is not None:
            raise ValueError("a dataset has a template or questions, not both")
        if self.path in LOADERS and not self.data_files:
            raise ValueError(f"path: {self.path} needs data_files (names or globs of local files)")
        if self.mixture is not None and (
            not self.mixture or any(not 0 < weight < math.inf for weight in self.mixture.values())
        ):
            raise ValueError("the weights of a mixture are positive numbers, one for each dataset")
        return self

    @property
    def parents(self) -> list[str]:
        """Names of the datasets that this one is made from."""
        made = [part.source for part in (self.generate, self.select) if part is not None]
        return [*(self.mixture or []), *(source for source in made if source is not None)]


@cache
def builtin_datasets() -> dict[str, DatasetSpec]:
    """The datasets that need no entry in a grid file."""
    table = YAML(typ="safe").load((files("calib") / "datasets.yaml").read_text())
    return {name: DatasetSpec.model_validate(spec) for name, spec in table.items()}
