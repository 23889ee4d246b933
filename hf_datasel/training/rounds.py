"""Which round an epoch belongs to, how many updates each takes, and how far training has come."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_datasel.selectors import RoundPlan, round_off

__all__ = ["Position", "RoundRecord", "Schedule", "following", "updates_in", "updates_of"]


def updates_in(per_pass: int, epochs: float) -> int:
    """Optimizer updates in so many epochs of so many updates each, a last part counted in full."""
    return math.ceil(round_off(per_pass * epochs))


def updates_of(batches: int, accumulation: int) -> int:
    """Optimizer updates in one pass over so many batches."""
    return max(math.ceil(batches / accumulation), 1)


@dataclass
class RoundRecord:
    """A round that has begun.

    Attributes:
        rows: row numbers of the pool, best first, int64.
        planned: updates that the plan counted for it.
        updates: updates that it really takes.
        per_pass: updates of one full pass over its rows.
        start: global step at which it began.
    """

    rows: np.ndarray
    planned: int
    updates: int
    per_pass: int
    start: int


@dataclass(frozen=True)
class Position:
    """Where in the run a global step is: the trainer's epoch, and updates done in it."""

    epoch: int
    update: int


@dataclass
class Schedule:
    """The rounds of one training run, planned and begun.

    Attributes:
        plan: the rounds as planned; where training is bounded by `max_steps` the last one repeats.
        planned: updates of each planned round.
        bounded: training ends at `max_steps`, whatever the rounds hold.
    """

    plan: tuple[RoundPlan, ...]
    planned: list[int]
    bounded: bool
    records: list[RoundRecord] = field(default_factory=list)

    def round_plan(self, index: int) -> RoundPlan:
        """The plan of a round."""
        return self.plan[min(index, len(self.plan) - 1)]

    def planned_updates(self, index: int) -> int:
        """Updates that the plan counts for a round."""
        return self.planned[min(index, len(self.planned) - 1)]

    def passes(self, index: int) -> int:
        """Epochs of the trainer that a round spans."""
        return math.ceil(self.round_plan(index).epochs)

    @property
    def epochs(self) -> int:
        """Epochs of the trainer that the plan spans."""
        return sum(self.passes(index) for index in range(len(self.plan)))

    @property
    def max_steps(self) -> int:
        """Updates of the whole run: of rounds that have begun as they are, of the others as planned."""
        begun = sum(record.updates for record in self.records)
        return begun + sum(self.planned[len(self.records) :])

    def round_of(self, epoch: int) -> tuple[int, int]:
        """The round that an epoch of the trainer belongs to, and which pass of it this is."""
        index, first = 0, 0
        while epoch >= first + self.passes(index):
            first += self.passes(index)
            index += 1
        return index, epoch - first

    def begin(self, rows: np.ndarray, per_pass: int) -> RoundRecord:
        """Record a round that begins now."""
        index = len(self.records)
        start = self.records[-1].start + self.records[-1].updates if self.records else 0
        updates = updates_in(per_pass, self.round_plan(index).epochs)
        self.records.append(RoundRecord(rows, self.planned_updates(index), updates, per_pass, start))
        return self.records[-1]

    def restore(self, records: list[RoundRecord]) -> None:
        """Take over the rounds of an earlier run; how many updates they have is for this run's plan to say."""
        self.records = []
        for each in records:
            self.begin(each.rows, each.per_pass)

    def updates_in_pass(self, index: int, number: int) -> int:
        """Updates of one pass of a round that has begun; a last part of an epoch is shorter."""
        record = self.records[index]
        return min(record.per_pass, record.updates - number * record.per_pass)

    def position(self, global_step: int) -> Position:
        """Where in the run a global step is, from the updates that the rounds really took."""
        epoch = 0
        for index, record in enumerate(self.records):
            for number in range(self.passes(index)):
                start = record.start + number * record.per_pass
                if global_step < start + self.updates_in_pass(index, number):
                    return Position(epoch, global_step - start)
                epoch += 1
        return Position(epoch, 0)

    def planned_step(self, step: int) -> float:
        """The step of the plan that this step corresponds to.

        The learning rate follows the plan, so that it still ends where it should when a round turned out shorter or
        longer. Equal to `step` as long as rounds are as long as planned, and always where `max_steps` bounds the run.
        """
        if self.bounded:
            return step
        before = 0
        for record in self.records:
            inside = step - record.start
            if inside < record.updates:
                return before + (
                    inside if record.updates == record.planned else inside * record.planned / record.updates
                )
            before += record.planned
        last = self.records[-1] if self.records else None
        return before + (step - last.start - last.updates if last else step)


def following(schedule: Callable[[], Schedule], factor: Callable[[Any], float]) -> Callable[[int], float]:
    """A learning-rate factor by step, as a plain function: scheduler checkpoints leave those out."""

    def by_progress(step: int) -> float:
        return factor(schedule().planned_step(step))

    return by_progress
