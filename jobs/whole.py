"""Is what a run keeps still there: records with their tables, and its cells' text?"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.built import is_whole
from jobs.plan.cells import Draw

if TYPE_CHECKING:
    from jobs.plan.plan import Plan
    from jobs.run import RunFolder


def is_record_whole(record: Path) -> bool:
    """Is there a record, with its tables beside it?"""
    return record.is_file() and record.with_suffix(".parquet").is_file()


class KeptTexts:
    """What one run keeps of its text: calibration sets, figures of them, records of datasets.

    Each is looked at once.
    """

    def __init__(self, run: RunFolder, plan: Plan) -> None:
        self.run, self.plan = run, plan
        self._of_draw = cache(self._missing_of_draw)
        self._of_dataset = cache(self._missing_of_dataset)

    def missing(self, draw: Draw | None, model: str) -> set[Path]:
        """What is not there of all that is kept for a draw."""
        if draw is None:
            return set()
        names = {draw.dataset, self.plan.reference[model]} - {None}
        datasets = [self._of_dataset(str(name), model, draw.seqlen) for name in names]
        return self._of_draw(draw, model).union(*datasets)

    def _missing_of_draw(self, draw: Draw, model: str) -> set[Path]:
        drawn = self.run.calibration(self.plan.calibration_key(draw, model))
        figures = self.run.similarity(self.plan.similarity_key(draw, model))
        there = {drawn: is_whole(drawn), figures: figures.is_file()}
        return {path for path, whole in there.items() if not whole}

    def _missing_of_dataset(self, dataset: str, model: str, seqlen: int) -> set[Path]:
        record = self.run.dataset(self.plan.dataset_key(dataset, model, seqlen))
        return set() if is_record_whole(record) else {record}
