"""Tokenised requests of an lm-eval task, as an artefact that cells and runs share.

The artefact holds the token ids of every request and the documents that the task file scores, so
that a job needs neither the data set nor the cache of `datasets`, with its locks. lm-eval's own
code makes the prompts, encodes them and, in the job, scores the documents.
"""

from __future__ import annotations

import json
import logging
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from lm_eval import utils
from lm_eval.api.group import Group
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from transformers import PreTrainedTokenizerBase

from jobs.evaluate.nltkdata import not_fetching
from jobs.evaluate.task_documents import loading, save_documents, stored
from jobs.plan.plan import FEWSHOT_SEED

logging.getLogger("lm_eval").setLevel(logging.ERROR)

REQUESTS_VERSION = 1
"""Raised when the artefact holds something else than before."""

SEED, OTHER_SEED = 0, 1234
"""What lm-eval seeds Python's global generator with, and all others; tasks may draw from them."""

SCHEMA = pyarrow.schema(
    [
        ("task", pyarrow.string()),
        ("document", pyarrow.int64()),
        ("number", pyarrow.int32()),
        ("kind", pyarrow.string()),
        ("context", pyarrow.list_(pyarrow.int32())),
        ("continuation", pyarrow.list_(pyarrow.int32())),
        ("prompt", pyarrow.string()),
        ("options", pyarrow.string()),
    ]
)
"""One row a request. Generated text has a prompt and options, the others token ids; a text that is
scored whole has one row for each of its windows, all of one number."""


@dataclass(frozen=True)
class Settings:
    """All that requests depend on beside the task and the tokenizer.

    Attributes:
        num_fewshot: examples in the prompt, None = the task's own. limit: first n documents.
        max_length: most tokens of a request. bos: put BOS in front of every request.
    """

    num_fewshot: int | None
    limit: int | None
    max_length: int
    bos: bool


@dataclass
class Encoder:
    """Encodes requests as lm-eval's models do, with all texts tokenised in one go."""

    tokenizer: PreTrainedTokenizerBase
    bos: bool
    known: dict[str, list[int]] = field(default_factory=dict)
    backend: str = "causal"

    _encode_pair = TemplateLM._encode_pair
    loglikelihood = TemplateLM.loglikelihood

    def __post_init__(self) -> None:
        if self.bos and self.tokenizer.bos_token_id is None:
            raise ValueError("the tokenizer has no BOS token; set evaluate.bos: none")

    @property
    def prefix_token_id(self) -> int:
        """What an empty context becomes: BOS, or EOS where there is none."""
        tokenizer = self.tokenizer
        bos = tokenizer.bos_token_id
        found: int | None = tokenizer.eos_token_id if bos is None else bos
        if found is None:
            raise ValueError("the tokenizer has neither BOS nor EOS to stand for an empty context")
        return found

    def learn(self, texts: Sequence[str]) -> None:
        """Tokenise texts together, which is faster than one by one."""
        fresh = list(dict.fromkeys(t for t in texts if t not in self.known))
        if fresh:
            ids = self.tokenizer(fresh, add_special_tokens=False, verbose=False).input_ids
            self.known |= dict(zip(fresh, ids, strict=True))

    def tok_encode(
        self, text: str, add_special_tokens: bool | None = None, **options: Any
    ) -> list[int]:
        """Token ids of a text; BOS in front where it is wanted and not there yet."""
        self.learn([text])
        ids = self.known[text]
        if not self.bos or add_special_tokens is False:
            return ids
        bos = self.tokenizer.bos_token_id
        return ids if ids[:1] == [bos] else [bos, *ids]

    def pairs(self, requests: Sequence[Instance]) -> list[tuple[list[int], list[int]]]:
        """Context and continuation of log-likelihood requests."""
        stripped = [(context.rstrip(), context + rest) for context, rest in _texts(requests)]
        self.learn([text for pair in stripped for text in pair])
        encoded = self.loglikelihood(list(requests), disable_tqdm=True)
        return [(context, continuation) for _, context, continuation in encoded]

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool) -> list[Any]:
        return requests  # where lm-eval's models would go on to score them

    def windows(self, text: str, max_length: int) -> list[tuple[list[int], list[int]]]:
        """A text that is scored whole, as context and continuation of its windows."""
        windows = utils.get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=max_length,
            context_len=1,
        )
        return [utils.make_disjoint_window(window) for window in windows]


def _texts(requests: Sequence[Instance]) -> list[tuple[str, str]]:
    return [(request.args[0], request.args[1]) for request in requests]


def build(
    folder: Path,
    name: str,
    task_folders: Sequence[str],
    sources: Mapping[str, Path],
    demo: Path | None,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
) -> None:
    """Write the requests of a task or group into `folder`.

    Args:
        folder: where to.
        name: lm-eval's name.
        task_folders: where its files lie. sources: folders of data sets by hub id.
        demo: the demo's collected text, for `demo:` files.
        tokenizer: of the model. settings: the rest.

    Raises:
        FileNotFoundError: a data set is not on this machine.
    """
    random.seed(SEED)
    np.random.seed(OTHER_SEED)
    with (
        tempfile.TemporaryDirectory() as cache,
        loading(sources, demo, task_folders, cache) as used,
        not_fetching(task_folders),
    ):
        tasks = TaskManager(include_defaults=False, include_path=list(task_folders)).load([name])
        encoder = Encoder(tokenizer, settings.bos)
        rows: list[dict[str, Any]] = []
        for task in tasks["tasks"].values():
            _set_shots(task, settings.num_fewshot)
            task.build_all_requests(limit=settings.limit)
            rows += _rows(task, encoder, settings.max_length)
        save_documents(folder, used, list(tasks["tasks"].values()))
    table = pyarrow.Table.from_pylist(rows, schema=SCHEMA)
    pyarrow.parquet.write_table(table, folder / "requests.parquet", compression="zstd")


def _set_shots(task: Task, num_fewshot: int | None) -> None:
    """As lm-eval's evaluator does: a task file that says 0 is never given examples."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _rows(task: Task, encoder: Encoder, max_length: int) -> Iterator[dict[str, Any]]:
    instances = task.instances
    scored = [i for i in instances if i.request_type == "loglikelihood"]
    pairs = dict(zip(map(id, scored), encoder.pairs(scored), strict=True))
    for instance in instances:
        row = {"task": task.config.task, "document": instance.doc_id, "number": instance.idx}
        row["kind"] = instance.request_type
        if instance.request_type == "generate_until":
            prompt, options = instance.args
            yield row | {"prompt": prompt, "options": json.dumps(options)}
        elif instance.request_type == "loglikelihood_rolling":
            for context, continuation in encoder.windows(instance.args[0], max_length):
                yield row | {"context": context, "continuation": continuation}
        else:
            context, continuation = pairs[id(instance)]
            yield row | {"context": context, "continuation": continuation}


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that have figures together.

    Attributes:
        tasks: the leaves. unweighted: metrics whose mean is over tasks, whatever their size.
    """

    tasks: frozenset[str]
    unweighted: frozenset[str] = frozenset()

    @classmethod
    def of(cls, group: Group) -> TaskGroup:
        """A group of lm-eval, and the groups inside it, as one."""
        listed = group.aggregate_metric_list or []
        unweighted = [entry.metric for entry in listed if not entry.weight_by_size]
        tasks = [task.task_name for task in group.get_all_tasks()]
        return cls(frozenset(tasks), frozenset(unweighted))


@dataclass
class Prepared:
    """The requests of a task, group or tag, read from an artefact.

    Attributes:
        tasks: the leaves, by name; their documents are in memory.
        groups: the groups of them, by name; a tag is one, too. Empty for a task.
        rows: the requests, as in `SCHEMA`, columns of token ids as arrays.
    """

    tasks: dict[str, Task]
    groups: dict[str, TaskGroup]
    rows: list[dict[str, Any]]

    @classmethod
    def load(cls, folder: Path, name: str, task_folders: Sequence[str]) -> Prepared:
        """Read what `build` wrote."""
        manager = TaskManager(include_defaults=False, include_path=list(task_folders))
        with stored(folder), not_fetching(task_folders):
            loaded = manager.load([name])
        table = pyarrow.parquet.read_table(folder / "requests.parquet")
        columns = {
            column: table[column].to_pylist()
            for column in table.column_names
            if column not in ("context", "continuation")
        }
        columns |= {column: _arrays(table[column]) for column in ("context", "continuation")}
        rows = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        tasks = dict(loaded["tasks"])
        groups = {} if name in tasks else {name: TaskGroup(frozenset(tasks))}
        groups |= {n: TaskGroup.of(group) for n, group in loaded.get("groups", {}).items()}
        return cls(tasks, groups, rows)


def _arrays(column: pyarrow.ChunkedArray) -> list[np.ndarray]:
    """A column of lists as arrays that share their memory."""
    found: list[np.ndarray] = []
    for chunk in column.chunks:
        ends = chunk.offsets.to_numpy()
        values = chunk.values.to_numpy()
        found += [values[a:b] for a, b in pairwise(ends)]
    return found
