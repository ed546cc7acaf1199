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
    """The calibration sets and the records of datasets of one run; each is looked at once."""

    def __init__(self, run: RunFolder, plan: Plan) -> None:
        self.run, self.plan = run, plan
        self.any_damaged = run.damaged.is_dir()
        self.lost_dataset = cache(self._lost_dataset)
        self.drawn = cache(self._drawn)

    def of(self, draw: Draw | None, model: str) -> bool:
        """Is there what is kept for a draw: its set, and what is known of its datasets?"""
        if draw is None:
            return True
        names = {draw.dataset, self.plan.reference[model]} - {None}
        lost = any(self.lost_dataset(str(name), model, draw.seqlen) for name in names)
        return not lost and self.drawn(draw, model)

    def _drawn(self, draw: Draw, model: str) -> bool:
        return is_whole(self.run.calibration(self.plan.calibration_key(draw, model)))

    def _lost_dataset(self, dataset: str, model: str, seqlen: int) -> bool:
        """Did a collection set the record of a dataset aside, and nobody make it again?

        One that was never there is none: other tasks or measures give it another name.
        """
        record = self.run.dataset(self.plan.dataset_key(dataset, model, seqlen))
        return self.any_damaged and self._set_aside(record) and not is_record_whole(record)

    def _set_aside(self, record: Path) -> bool:
        damaged = self.run.damaged / record.relative_to(self.run.path)
        return damaged.is_file() or damaged.with_suffix(".parquet").is_file()
