"""The rounds of a run: planned by the selector and the config, and as they take place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.selector import Selector, round_epochs
from hf_datasel.selection import resolve_size
from hf_datasel.training.config import SelectiveSFTConfig
from hf_datasel.training.order import RoundOrder

__all__ = [
    "Position",
    "Schedule",
    "StartedRound",
    "build_schedule",
    "planned_rounds",
    "requested_by",
    "rows_per_round",
    "scale_lr_lambda",
    "updates_in_epochs",
    "updates_per_pass",
]


# -- planning ---------------------------------------------------------------------------------------------------------
def rows_per_round(config: SelectiveSFTConfig, pool_size: int) -> int:
    """Return the number of rows per round that the config requests; with a schedule, that of the first round."""
    if config.selection_schedule is not None:
        return config.selection_schedule[0]
    names = ("selection_size", "selection_ratio")
    return resolve_size(pool_size, config.selection_size, config.selection_ratio, names)


def requested_by(config: SelectiveSFTConfig, rows: int, pool_size: int) -> str:
    """Name the setting that requests so many rows in a round, for an error message."""
    if config.selection_schedule is not None:
        return f"selection_schedule={config.selection_schedule} ({rows:,} rows in this round)"
    if rows != rows_per_round(config, pool_size):
        return f"A round of {rows:,} rows"
    if config.selection_size is not None:
        return f"selection_size={config.selection_size}"
    return f"selection_ratio={config.selection_ratio or 0.05:g} ({rows:,} rows)"


def planned_rounds(
    selector: Selector, config: SelectiveSFTConfig, budget: int, num_epochs: float, eligible: int
) -> tuple[RoundPlan, ...]:
    """Return the rounds that the selector plans, changed as the config says.

    Args:
        selector: Plans the rounds.
        config: Config of the run.
        budget: Rows per round that the config requests.
        num_epochs: Epochs of the run.
        eligible: Number of rows that can be trained on.

    Raises:
        ConfigError: A selection schedule of another length, or rounds that cannot be trained.
    """
    name = type(selector).__name__
    if num_epochs <= 0 and config.max_steps <= 0:
        raise ConfigError(f"num_train_epochs={num_epochs:g} has to be above 0.")
    num_epochs = num_epochs if num_epochs > 0 else 1.0  # max_steps gives the length of the run
    plan = selector.plan(budget, num_epochs, eligible)
    if not selector.reselects and (len(plan) > 1 or config.reselection_strategy == "steps"):
        _check_fixed_rounds(name, len(plan), config)
    if config.reselection_strategy != "epoch" and selector.reselects:
        plan = (RoundPlan(plan[0].budget, num_epochs),)
    sizes = config.selection_schedule
    if sizes is not None:
        if len(sizes) != len(plan):
            raise ConfigError(
                f"selection_schedule has {len(sizes)} rounds, but {name} has {len(plan)} with num_train_epochs="
                f"{config.num_train_epochs:g}. The two have to be equal."
            )
        plan = tuple(replace(round_plan, budget=size) for size, round_plan in zip(sizes, plan, strict=True))
    if not plan or any(round_plan.budget < 1 or round_plan.epochs <= 0 for round_plan in plan):
        raise ConfigError(f"{name}.plan returned {plan}: every round needs rows and epochs.")
    if any(round_plan.checkpoints for round_plan in plan):
        _check_checkpoints(name, plan, config)
    if config.dataloader_drop_last and not config.packing:
        _check_batches(plan, config)
    selector.check_training(config)
    return plan


def _check_batches(plan: tuple[RoundPlan, ...], config: SelectiveSFTConfig) -> None:
    batch = config.train_batch_size * config.world_size
    for index, round_plan in enumerate(plan):
        if round_plan.budget < batch:
            raise ConfigError(
                f"Round {index} has {round_plan.budget:,} rows, fewer than the {batch:,} of one batch on all "
                "processes, so that dataloader_drop_last=True would drop all of them. Set dataloader_drop_last=False, "
                "or lower per_device_train_batch_size."
            )


def _check_fixed_rounds(name: str, rounds: int, config: SelectiveSFTConfig) -> None:
    """Raise if the config changes the rounds of a selector that has its own."""
    if config.reselection_strategy != "epoch":
        reason = "selects once" if rounds == 1 else f"has {rounds} rounds of its own"
        raise ConfigError(
            f"reselection_strategy={config.reselection_strategy!r} is for selectors that can select again with the "
            f"current model at any time, but {name} {reason}. Remove it."
        )
    if config.max_steps > 0:
        raise ConfigError(
            f"{name} has {rounds} rounds of its own, which are counted in epochs. Set num_train_epochs instead of "
            "max_steps."
        )


def _check_checkpoints(name: str, plan: tuple[RoundPlan, ...], config: SelectiveSFTConfig) -> None:
    """Raise if a checkpoint that a round needs would not be saved, or would be deleted."""
    needed = sum(math.ceil(round_plan.epochs) for round_plan in plan if round_plan.checkpoints)
    strategy = str(getattr(config.save_strategy, "value", config.save_strategy))
    if strategy == "best":
        raise ConfigError(
            f"{name} needs a checkpoint after each epoch of some rounds, but save_strategy='best' skips some of them. "
            "Use 'no', 'epoch' or 'steps'."
        )
    if config.save_total_limit is None:
        return
    if strategy == "steps":
        raise ConfigError(
            f"{name} needs {needed} checkpoints at the same time, but with save_strategy='steps' and "
            f"save_total_limit={config.save_total_limit} some of them would be deleted. Use save_strategy='epoch', or "
            "remove save_total_limit."
        )
    if config.save_total_limit <= needed:
        raise ConfigError(
            f"{name} needs {needed} checkpoints at the same time, but save_total_limit={config.save_total_limit} "
            f"would delete some of them. Remove it, or set it to at least {needed + 1}."
        )


def updates_in_epochs(per_pass: int, epochs: float) -> int:
    """Return the optimizer updates of so many epochs, where a last part of an epoch counts its updates in full."""
    return math.ceil(round_epochs(per_pass * epochs))


def updates_per_pass(batches: int, accumulation: int) -> int:
    """Return the optimizer updates of one pass over so many batches."""
    return max(math.ceil(batches / accumulation), 1)


# -- the run ----------------------------------------------------------------------------------------------------------
@dataclass
class StartedRound:
    """A round that has begun.

    Attributes:
        rows: Row numbers of the pool, best first, int64.
        planned: Updates that the plan counted for it.
        full: Updates that its own rows give, if no callback ends an epoch early.
        per_pass: Updates of one full pass over its rows.
        starts: Global steps at which its passes began, as far as they have.
        end: Global step at which the next round began, if it has.
        order: Order in which it trains on its rows, if it has one.
        weights: Weights of its rows, float32, if they have any.
    """

    rows: np.ndarray
    planned: int
    full: int
    per_pass: int
    starts: list[int]
    end: int | None = None
    order: RoundOrder | None = None
    weights: np.ndarray | None = None

    @property
    def start(self) -> int:
        """Global step at which the round began."""
        return self.starts[0]

    @property
    def passes(self) -> int:
        """Epochs of the trainer that the round spans, where a last part of an epoch counts as one."""
        return math.ceil(self.full / self.per_pass)

    @property
    def updates(self) -> int:
        """Updates that the round takes as far as that is known: a callback may have ended an epoch early."""
        if self.end is not None:
            return self.end - self.start
        return self.starts[-1] - self.start + self.full - (len(self.starts) - 1) * self.per_pass


@dataclass(frozen=True)
class Position:
    """Position of a global step in the run.

    Attributes:
        epoch: Epoch of the trainer.
        update: Updates done in this epoch.
    """

    epoch: int
    update: int


@dataclass
class Schedule:
    """The rounds of one training run, planned and begun.

    Attributes:
        plan: The planned rounds; where `total` bounds the run, the last one repeats.
        planned: Updates of each planned round.
        total: Updates after which training ends, whatever the rounds are; None: after the last planned round.
        every: Updates of each round, whatever its epochs; None: those of its epochs.
        records: The rounds that have begun.
    """

    plan: tuple[RoundPlan, ...]
    planned: list[int]
    total: int | None = None
    every: int | None = None
    records: list[StartedRound] = field(default_factory=list)

    @property
    def bounded(self) -> bool:
        """Whether training ends after a fixed number of updates."""
        return self.total is not None

    @property
    def restarts(self) -> bool:
        """Whether any round after the first begins from the base model."""
        return any(round_plan.restart for round_plan in self.plan[1:])

    @property
    def restarts_ahead(self) -> bool:
        """Whether any round that has not begun yet, other than the first, begins from the base model."""
        return any(round_plan.restart for round_plan in self.plan[max(len(self.records), 1) :])

    @property
    def repeats(self) -> bool:
        """Whether the last planned round may begin several times: a bounded run has as many rounds as it takes."""
        return self.every is not None or (self.bounded and len(self.plan) > 1)

    def round_plan(self, index: int) -> RoundPlan:
        """Return the plan of a round."""
        return self.plan[min(index, len(self.plan) - 1)]

    @property
    def epochs(self) -> int:
        """Maximum number of epochs of the trainer that the run spans."""
        if self.total is not None:
            return self.total
        return sum(math.ceil(round_plan.epochs) for round_plan in self.plan)

    @property
    def num_samples(self) -> int:
        """Number of rows in the planned rounds, counted once per epoch."""
        return round(sum(round_plan.budget * round_plan.epochs for round_plan in self.plan))

    @property
    def max_steps(self) -> int:
        """Updates of the whole run: actual ones of rounds that have begun, planned ones of the others."""
        if self.total is not None:
            return self.total
        return sum(record.updates for record in self.records) + sum(self.planned[len(self.records) :])

    def selected_rows(self) -> np.ndarray:
        """Return the rows of all rounds that have begun, each once, in the order of their first selection, int64."""
        rows = np.concatenate([np.empty(0, dtype=np.int64), *(record.rows for record in self.records)])
        _, first = np.unique(rows, return_index=True)
        selected: np.ndarray = rows[np.sort(first)]
        return selected

    def round_of(self, epoch: int) -> tuple[int, int]:
        """Return the round that an epoch of the trainer belongs to, and the number of the pass in that round."""
        first = 0
        for index, record in enumerate(self.records):
            if epoch < first + record.passes:
                return index, epoch - first
            first += record.passes
        return len(self.records), 0

    def begin(
        self,
        rows: np.ndarray,
        per_pass: int,
        start: int,
        order: RoundOrder | None = None,
        weights: np.ndarray | None = None,
    ) -> StartedRound:
        """Record a round that begins at this global step, which also ends the round before."""
        index = len(self.records)
        if self.records:
            self.records[-1].end = start
        epochs = self.round_plan(index).epochs
        full = updates_in_epochs(per_pass, epochs) if self.every is None else self.every
        planned = self.planned[min(index, len(self.planned) - 1)]
        self.records.append(StartedRound(rows, planned, full, per_pass, [start], order=order, weights=weights))
        return self.records[-1]

    def begin_pass(self, index: int, number: int, start: int) -> None:
        """Record a pass of a round that begins at this global step."""
        starts = self.records[index].starts
        if number == len(starts):
            starts.append(start)

    def restore(self, records: list[StartedRound]) -> None:
        """Take over the rounds of a checkpoint; the updates of the last one follow the plan of this run."""
        self.records = []
        for record in records:
            begun = self.begin(record.rows, record.per_pass, record.start, record.order, record.weights)
            begun.starts = list(record.starts)

    def updates_in_pass(self, index: int, number: int) -> int:
        """Return the updates of one pass of a round that has begun, fewer in a last part of an epoch."""
        record = self.records[index]
        return min(record.per_pass, record.full - number * record.per_pass)

    def position(self, global_step: int, ended: bool = False) -> Position:
        """Return the position of the last global step, computed from the steps at which rounds and passes began.

        Args:
            global_step: Step of the checkpoint.
            ended: Whether a callback had ended the pass at this step.
        """
        if not self.records:
            return Position(0, 0)
        index, last = len(self.records) - 1, self.records[-1]
        number = len(last.starts) - 1
        epoch = sum(record.passes for record in self.records[:-1]) + number
        update = global_step - last.starts[-1]
        if update >= self.updates_in_pass(index, number) or (ended and update):
            return Position(epoch + 1, 0)
        return Position(epoch, update)

    # -- the learning rate, which starts again where the model does -----------------------------------------------
    @property
    def segment_updates(self) -> int:
        """Planned updates between the last restart (or the start) and the next restart (or the end)."""
        if self.total is not None:
            return self.total
        first, end = self._segment, len(self.plan)
        restarts = [index for index in range(first + 1, end) if self.plan[index].restart]
        return sum(self.planned[first : restarts[0] if restarts else end])

    @property
    def _segment(self) -> int:
        """Last round that began from the base model."""
        restarted = [index for index in range(1, len(self.records)) if self.round_plan(index).restart]
        return restarted[-1] if restarted else 0

    def planned_step(self, step: int) -> float:
        """Return the step of the plan that this step corresponds to, both counted from the last restart.

        The learning rate follows the plan, so that it ends at its planned value when a round is shorter or longer
        than planned. Equal to `step` while rounds are as long as planned, and always where `total` bounds the run.
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


def build_schedule(
    config: SelectiveSFTConfig,
    plan_rounds: Callable[[float], tuple[RoundPlan, ...]],
    count_updates: Callable[[int], int],
    updates: int,
) -> Schedule:
    """Return the schedule of a run whose rounds have not begun.

    Args:
        config: Config of the run.
        plan_rounds: Returns the planned rounds of so many epochs.
        count_updates: Returns the updates of one pass over so many rows.
        updates: Updates of one pass over the rows of the first round.
    """
    bounded = config.max_steps > 0
    epochs = max(math.ceil(config.max_steps / updates), 1) if bounded else config.num_train_epochs
    plan, every = plan_rounds(epochs), config.reselection_steps
    total = config.max_steps if bounded else None
    if every is not None:
        return Schedule(plan, [every], updates_in_epochs(updates, epochs) if total is None else total, every)
    per_pass = {} if config.packing else {plan[0].budget: updates}
    for size in {round_plan.budget for round_plan in plan} - set(per_pass):
        per_pass[size] = count_updates(size)
    planned = [updates_in_epochs(per_pass[round_plan.budget], round_plan.epochs) for round_plan in plan]
    return Schedule(plan, planned, total)


def scale_lr_lambda(schedule: Callable[[], Schedule], lr_lambda: Callable[[Any], float]) -> Callable[[int], float]:
    """Return a learning-rate lambda that is called with the planned step instead of the actual one.

    It is a plain function, since scheduler checkpoints save the state of callable objects but not of functions.
    """

    def at_planned_step(step: int) -> float:
        return lr_lambda(schedule().planned_step(step))

    return at_planned_step
