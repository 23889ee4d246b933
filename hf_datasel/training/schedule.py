"""Which round an epoch belongs to, how many updates each takes, and how far training has come."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_datasel.rounds.context import RoundPlan
from hf_datasel.rounds.selector import round_off

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
        full: updates that its own rows make, where no callback ends an epoch early.
        per_pass: updates of one full pass over its rows.
        starts: global steps at which its passes began, as far as they have.
        end: global step at which the next round began, if it has.
    """

    rows: np.ndarray
    planned: int
    full: int
    per_pass: int
    starts: list[int]
    end: int | None = None

    @property
    def start(self) -> int:
        """Global step at which it began."""
        return self.starts[0]

    @property
    def passes(self) -> int:
        """Epochs of the trainer that it spans, a last part counted as one."""
        return math.ceil(self.full / self.per_pass)

    @property
    def updates(self) -> int:
        """Updates that it really takes, as far as that is known: a callback may have ended an epoch of it early."""
        if self.end is not None:
            return self.end - self.start
        return self.starts[-1] - self.start + self.full - (len(self.starts) - 1) * self.per_pass


@dataclass(frozen=True)
class Position:
    """Where in the run a global step is: the trainer's epoch, and updates done in it."""

    epoch: int
    update: int


@dataclass
class Schedule:
    """The rounds of one training run, planned and begun.

    Attributes:
        plan: the rounds as planned; where `total` bounds the run the last one repeats.
        planned: updates of each planned round.
        total: updates after which training ends, whatever the rounds hold; None: with the last planned round.
        every: updates of each round, whatever its epochs; None: as many as its epochs take.
    """

    plan: tuple[RoundPlan, ...]
    planned: list[int]
    total: int | None = None
    every: int | None = None
    records: list[RoundRecord] = field(default_factory=list)

    @property
    def bounded(self) -> bool:
        """Whether training ends after a given number of updates."""
        return self.total is not None

    @property
    def restarts(self) -> bool:
        """Whether a round begins from the base model once training has begun."""
        return any(each.restart for each in self.plan[1:])

    @property
    def restarts_ahead(self) -> bool:
        """Whether a round that has not begun yet begins from the base model, once training has begun."""
        return any(each.restart for each in self.plan[max(len(self.records), 1) :])

    def round_plan(self, index: int) -> RoundPlan:
        """The plan of a round."""
        return self.plan[min(index, len(self.plan) - 1)]

    @property
    def epochs(self) -> int:
        """Epochs of the trainer that the run spans at most."""
        return sum(math.ceil(each.epochs) for each in self.plan) if self.total is None else self.total

    @property
    def rows(self) -> int:
        """Rows that the planned rounds train on, each as often as it is."""
        return round(sum(each.budget * each.epochs for each in self.plan))

    @property
    def max_steps(self) -> int:
        """Updates of the whole run: of rounds that have begun as they are, of the others as planned."""
        if self.total is not None:
            return self.total
        return sum(record.updates for record in self.records) + sum(self.planned[len(self.records) :])

    def round_of(self, epoch: int) -> tuple[int, int]:
        """The round that an epoch of the trainer belongs to, and which pass of it this is."""
        first = 0
        for index, record in enumerate(self.records):
            if epoch < first + record.passes:
                return index, epoch - first
            first += record.passes
        return len(self.records), 0

    def begin(self, rows: np.ndarray, per_pass: int, start: int) -> RoundRecord:
        """Record a round that begins now, at this global step, which says how many updates the one before took."""
        index = len(self.records)
        if self.records:
            self.records[-1].end = start
        full = updates_in(per_pass, self.round_plan(index).epochs) if self.every is None else self.every
        planned = self.planned[min(index, len(self.planned) - 1)]
        self.records.append(RoundRecord(rows, planned, full, per_pass, [start]))
        return self.records[-1]

    def begin_pass(self, index: int, number: int, start: int) -> None:
        """Record a pass of a round that begins now, at this global step."""
        starts = self.records[index].starts
        if number == len(starts):
            starts.append(start)

    def restore(self, records: list[RoundRecord]) -> None:
        """Take over the rounds of an earlier run; how many updates the last one has is for this run's plan to say."""
        self.records = []
        for each in records:
            self.begin(each.rows, each.per_pass, each.start).starts = list(each.starts)

    def updates_in_pass(self, index: int, number: int) -> int:
        """Updates of one pass of a round that has begun; a last part of an epoch is shorter."""
        record = self.records[index]
        return min(record.per_pass, record.full - number * record.per_pass)

    def position(self, global_step: int, ended: bool = False) -> Position:
        """Where in the run its last global step is, from where the rounds and their passes really began.

        Args:
            global_step: at which the run was left.
            ended: whether a callback had ended the pass there.
        """
        if not self.records:
            return Position(0, 0)
        index, last = len(self.records) - 1, self.records[-1]
        number = len(last.starts) - 1
        epoch = sum(each.passes for each in self.records[:-1]) + number
        update = global_step - last.starts[-1]
        if update >= self.updates_in_pass(index, number) or (ended and update):
            return Position(epoch + 1, 0)
        return Position(epoch, update)

    # -- the learning rate, which begins anew where the model does --------------------------------------------------
    @property
    def segment_updates(self) -> int:
        """Planned updates from the restart before the round under way, or from the start, to the next restart."""
        if self.total is not None:
            return self.total
        first, end = self._segment, len(self.plan)
        following = [index for index in range(first + 1, end) if self.plan[index].restart]
        return sum(self.planned[first : following[0] if following else end])

    @property
    def _segment(self) -> int:
        """The round that the base model was trained on last."""
        restarted = [index for index in range(1, len(self.records)) if self.round_plan(index).restart]
        return restarted[-1] if restarted else 0

    def planned_step(self, step: int) -> float:
        """The step of the plan that this step corresponds to, both counted from the last restart.

        The learning rate follows the plan, so that it still ends where it should when a round turned out shorter or
        longer. Equal to `step` as long as rounds are as long as planned, and always where `total` bounds the run.
        """
        if self.bounded:
            return step
        before = done = 0
        for record in self.records[self._segment :]:
            inside = step - done
            if inside < record.updates:
                same = record.updates == record.planned
                return before + (inside if same else inside * record.planned / record.updates)
            before += record.planned
            done += record.updates
        return before + (step - done)


def following(schedule: Callable[[], Schedule], factor: Callable[[Any], float]) -> Callable[[int], float]:
    """A learning-rate factor by step, as a plain function: scheduler checkpoints leave those out."""

    def by_progress(step: int) -> float:
        return factor(schedule().planned_step(step))

    return by_progress
