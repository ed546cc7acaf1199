"""The evaluation stage of a cell: requests and texts as artefacts, then the scores of its model."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from transformers import PreTrainedModel

from calib.pool import SEPARATOR, Pool
from calib.readers import read_rows
from calib.spec import positions
from jobs.evaluate.scores import Scores
from jobs.evaluate.texts import TEXT_VERSION, TextTokens, Window, row_windows
from jobs.files import read_json
from jobs.plan.cells import Cell, digest
from jobs.plan.plan import Evaluation
from jobs.stages.calibration import Stages

DEFAULT_POSITIONS = 2048
"""Most tokens of a request where neither the grid nor the model says."""


def evaluate(stages: Stages, cell: Cell, model: PreTrainedModel, evaluation: Evaluation) -> Scores:
    """Measure a model on one task or text."""
    if evaluation.kind == "task":
        return _evaluate_task(stages, cell.model, model, evaluation)
    from jobs.evaluate.perplexity import corpus_perplexity, row_perplexity

    windows, by_row = text_windows(stages, evaluation.name, cell.model)
    measure = row_perplexity if by_row else corpus_perplexity
    scores = measure(model, evaluation.name, windows)
    bos = stages.plan.evaluate.bos
    seqlen = longest(stages, cell.model) if by_row else stages.plan.seqlen
    scores.notes |= {
        "seqlen": seqlen,
        "stride": None if by_row else seqlen - (bos == "add"),
        "join": evaluation.settings["join"],
        "bos": bos,
    }
    return scores


def _evaluate_task(
    stages: Stages, name: str, model: PreTrainedModel, evaluation: Evaluation
) -> Scores:
    from jobs.evaluate.evaluation import TaskRunner
    from jobs.evaluate.task_requests import Prepared

    folder = request_folder(stages, evaluation, name)
    task = stages.plan.inputs.tasks[evaluation.name]
    prepared = Prepared.load(folder, evaluation.name, task.paths)
    bos = stages.plan.evaluate.bos == "add"
    return TaskRunner(model, stages.tokenizer(name), longest(stages, name), bos).run(prepared)


def longest(stages: Stages, model: str) -> int:
    """Most tokens of a request or text: the grid's max_length, else the model's positions."""
    own = positions(read_json(stages.folder(model) / "config.json")) or DEFAULT_POSITIONS
    return stages.plan.evaluate.max_length or own


def request_folder(stages: Stages, evaluation: Evaluation, model: str) -> Path:
    """The tokenised requests of a task for a model's tokenizer, made once and shared."""
    from jobs.evaluate.task_requests import REQUESTS_VERSION, Settings, build

    plan = stages.plan
    task = plan.inputs.tasks[evaluation.name]
    settings = Settings(
        evaluation.settings["num_fewshot"],
        plan.evaluate.limit,
        longest(stages, model),
        plan.evaluate.bos == "add",
    )
    tokenizer = plan.inputs.models[model].tokenizer
    science = [evaluation.settings, vars(settings), tokenizer, REQUESTS_VERSION]

    def make(folder: Path) -> None:
        stages.progress(f"requests: {evaluation.name}", 0, 0)
        build(
            folder,
            evaluation.name,
            task.paths,
            task.datasets,
            plan.inputs.demo,
            stages.tokenizer(model),
            settings,
        )
        stages.check(task.reads)

    return stages.artefact("requests", digest(science), make)


def text_windows(stages: Stages, name: str, model: str) -> tuple[list[Window], bool]:
    """The token windows of a perplexity text, and whether each is a text of its own.

    Raises:
        ValueError: BOS is wanted, and the tokenizer has none.
    """
    plan = stages.plan
    entry = plan.inputs.texts.get(name)
    bos = None
    if plan.evaluate.bos == "add":
        bos = stages.tokenizer(model).bos_token_id
        if bos is None:
            raise ValueError(f"the tokenizer of {model} has no BOS token; set evaluate.bos: none")
    limit = plan.evaluate.limit
    if entry is not None and entry.spec.join is None:
        assert entry.source is not None, f"text {name} is not on this machine; launch again"
        rows = islice(read_rows(entry.source), entry.spec.max_documents)
        chosen = list(islice(rows, limit))
        stages.check(entry.source.files)
        return row_windows(chosen, stages.tokenizer(model), longest(stages, model), bos), True
    tokens = _text_tokens(stages, name, model)
    return tokens.windows(plan.seqlen, bos, limit), False


def _text_tokens(stages: Stages, name: str, model: str) -> TextTokens:
    """A text that is cut into windows, as tokens; made once and shared."""
    plan = stages.plan
    entry = plan.inputs.texts.get(name)
    most = None  # a text is tokenised as a whole; of a pool only as much as is wanted
    if entry is not None:
        join, identity = entry.spec.join, entry.identity
    else:
        pool = stages.pool_folder(name, model, plan.seqlen)
        join, identity = SEPARATOR, pool.name
        most = None if plan.evaluate.limit is None else plan.evaluate.limit * plan.seqlen
    science = [identity, join, plan.inputs.models[model].tokenizer, most, TEXT_VERSION]

    def make(folder: Path) -> None:
        stages.progress("tokenize", 0, 0)
        if entry is None:
            pieces = [SEPARATOR + text for text in Pool.load(pool).texts]
        else:
            assert entry.source is not None, f"text {name} is not on this machine; launch again"
            assert join is not None
            rows = islice(read_rows(entry.source), entry.spec.max_documents)
            pieces = [join.join(rows)]
            stages.check(entry.source.files)
        TextTokens.of(pieces, stages.tokenizer(model), most).save(folder)

    return TextTokens.load(stages.artefact("texts", digest(science), make))
