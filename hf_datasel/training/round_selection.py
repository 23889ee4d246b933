"""Selecting the rows of a round with the model being trained, and the numbers that are logged of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate.utils import broadcast_object_list

from hf_datasel.errors import ConfigError, FormatError
from hf_datasel.formats.digest import column_digest
from hf_datasel.hub.parents import parents_of
from hf_datasel.rounds.cache import RoundCache, as_numpy
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.run import check_texts, run_round
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.base import ModelScore, Score
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.first_round import FirstRoundLosses
from hf_datasel.scoring.logprobs import is_prompt_learning
from hf_datasel.scoring.numbers import is_identifier
from hf_datasel.scoring.store.store import ScoreStore
from hf_datasel.selection import Selection
from hf_datasel.spec import object_key
from hf_datasel.training.checkpoint_state import CarriedState
from hf_datasel.training.config import SelectiveSFTConfig
from hf_datasel.training.label_loss import LabelLoss
from hf_datasel.training.loss_cache import LossCache
from hf_datasel.training.order import ORDER, RoundOrder, SelectionOrder
from hf_datasel.training.round_data import TokenizedPool
from hf_datasel.training.schedule import Schedule, requested_by
from hf_datasel.training.sharding import with_sharding_check

__all__ = ["RoundRunner", "model_state", "round_logs"]


@dataclass
class RoundRunner:
    """Runs the selector at the beginning of a round, with the model as it is at that moment.

    Args:
        selector: Selects the rows.
        data: The pool and its tokens.
        losses: Losses of rows that were trained on since the last selection, where they are reused.
        args: Config of the run.
        accelerator: Accelerator of the trainer.

    Raises:
        ScoreError: The score store cannot be created.
    """

    selector: Selector
    data: TokenizedPool
    losses: LossCache
    args: SelectiveSFTConfig
    accelerator: Any
    order: SelectionOrder | None = field(init=False)
    store: ScoreStore | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.order = SelectionOrder.of(self.args.selection_order)
        if self.args.score_store is None:
            return
        self.store = ScoreStore(self.args.score_store)
        if self.accelerator.is_main_process:
            self.store.add_parents(parents_of(self.data.pool.dataset).with_state())

    def run(
        self, index: int, schedule: Schedule, carried: CarriedState, model: Any, optimizer: Any
    ) -> tuple[np.ndarray, RoundOrder | None, RoundContext]:
        """Select and order the rows of a round, equal in all processes, and update the state for later rounds.

        Args:
            index: Number of the round, from 0.
            schedule: Rounds of the run.
            carried: State of earlier rounds, updated in place.
            model: Model being trained, wrapped or not.
            optimizer: Optimizer that trains it.

        Returns:
            Row numbers of the pool, best first, int64; the order to train on them in, None for a random one; and the
            context that the selector used.

        Raises:
            SelectionError: Fewer rows than requested in the first round that is not a warm-up, or invalid rows.
        """
        self.losses.gather()
        if carried.checkpoints:
            self.accelerator.wait_for_everyone()  # the main process may still be writing the last one
        cache = self._cache(model, optimizer, carried.arrays)
        context = self._context(cache, index, schedule, carried)
        if not index and len(schedule.plan) > 1:
            self.selector.check_later_rounds(context)
        strict = all(plan.kind == "warm-up" for plan in schedule.plan[:index])  # later rounds may be shorter
        requested = requested_by(self.args, context.budget, len(self.data.pool))
        rows = run_round(self.selector, context, strict=strict, requested=requested)
        rows, carried.arrays, context.record.weights = self._broadcast(rows, context.state, context.record.weights)
        order = None
        if self.order is not None:
            (order,) = self._broadcast(self.order.arrange(cache, context, rows))
        context.record.logs |= self.losses.logs()
        self.losses.clear()
        for name in context.record.columns_used:
            if name not in carried.columns:
                carried.columns[name] = column_digest(self.data.pool.dataset, name)
        return rows, order, context

    def check_scores(self, model: Any, plan: Sequence[RoundPlan]) -> None:
        """Raise the error that a score or order of any round would raise, before training. No model is run or loaded.

        Args:
            model: Model to train, wrapped or not.
            plan: Rounds that are planned.

        Raises:
            ConfigError: The selector computes a score of the model, and its adapter puts virtual tokens before rows.
            SelectionError: As the selector would raise it about a column.
            DataselError: As a score would raise it.
        """
        engine, name = self.engine(model), type(self.selector).__name__
        check_texts(self.selector, self.data.pool)
        columns = RoundCache(self.data.pool, engine.compute)
        self.selector.check_columns(RoundContext(columns, budget=0, eligible=self.data.eligible))
        later = [] if len(plan) > 1 else [object_key(score) for score in self.selector.later_scores()]
        scores = [(name, score) for score in self.selector.scores() if object_key(score) not in later]
        if self.order is not None:
            self.order.check(columns, self.data.eligible, min(step.budget for step in plan))
            scores += [(ORDER, score) for score in self.order.scores()]
        for user, score in scores:
            if score.needs_fit:
                continue
            _check_adapter(engine.model, score, user)
            with _named(f"{user} computes {type(score).__name__}."):
                engine.compute(score, np.empty(0, dtype=np.int64))

    def engine(self, model: Any, optimizer: Any = None, state: dict[str, np.ndarray] | None = None) -> Engine:
        """Return an engine that scores with the model as it is now, on the tokens that it is trained on.

        Args:
            model: Model being trained, wrapped or not.
            optimizer: Optimizer that trains it.
            state: Arrays that earlier rounds left, to which losses that later rounds reuse are added.
        """
        return Engine(
            self.data.pool,
            self.accelerator.unwrap_model(model),
            self.data.prepared.tokenizer,
            self.args.scoring_tokens_per_batch,
            getattr(torch, self.args.scoring_dtype) if self.args.scoring_dtype else None,
            self.data.prepared.settings,
            self.data.prepared,
            not self.args.disable_tqdm,
            store=self.store,
            training_losses=self.losses,
            first_round_losses=None if state is None else FirstRoundLosses(state),
            optimizer=optimizer,
        )

    def label_losses(self, model: Any, rows: np.ndarray) -> np.ndarray:
        """Return the mean loss of the labelled tokens of rows with the model as it is now.

        Every process has to call it. Results are read from the score store, if there is one.

        Args:
            model: Model being trained, wrapped or not.
            rows: Row numbers of the pool, int64.

        Returns:
            Float64 of shape (rows of the pool,), NaN for other rows.
        """
        losses, ordered = np.full(len(self.data.pool), np.nan), np.sort(rows)
        compute = with_sharding_check(self.engine(model).compute, self.accelerator, model)
        losses[ordered] = compute(LabelLoss(), ordered)["label_loss"].to_numpy(zero_copy_only=False)
        return losses

    def _cache(self, model: Any, optimizer: Any, state: dict[str, np.ndarray]) -> RoundCache:
        engine = self.engine(model, optimizer, state)
        compute = with_sharding_check(engine.compute, self.accelerator, model)
        return RoundCache(self.data.pool, compute, engine.describe, store=self.store)

    def _context(self, cache: RoundCache, index: int, schedule: Schedule, carried: CarriedState) -> RoundContext:
        return RoundContext(
            cache,
            budget=schedule.round_plan(index).budget,
            index=index,
            eligible=self.data.eligible,
            seed=self.args.seed,
            plan=schedule.plan,
            selected=schedule.selected_rows(),
            checkpoints=[Path(path) for path in carried.checkpoints if Path(path).is_dir()],
            state=carried.arrays,
            show_progress=self.accelerator.is_main_process and not self.args.disable_tqdm,
        )

    def _broadcast(self, *values: Any) -> Sequence[Any]:
        """Return the values of the main process in all processes."""
        shared: list[Any] = broadcast_object_list(list(values)) if self.accelerator.num_processes > 1 else list(values)
        return shared


def _check_adapter(model: Any, score: Score, user: str) -> None:
    """Raise if a score of the model in training cannot be computed because of its adapter."""
    of_model = isinstance(score, ModelScore) and score.model is None and not hasattr(score, "for_training")
    if of_model and is_prompt_learning(model):
        raise ConfigError(
            f"{user} computes {type(score).__name__} with the model in training, whose prompt-learning adapter "
            "puts virtual tokens before every row, so that no row can be scored as it is trained. Train another kind "
            "of adapter, such as LoRA, name another model in the score, or select by a column that is computed before."
        )


@contextmanager
def _named(subject: str) -> Iterator[None]:
    """Put a sentence that names the score before the message of an error about the format of the rows."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{subject} {error}") from error


def model_state(model: Any, schedule: Schedule, global_step: int) -> dict[str, Any]:
    """Describe the model that selects; `steps` are its updates since the base weights, which a restart puts back."""
    restarted = [
        record.start for index, record in enumerate(schedule.records) if index and schedule.round_plan(index).restart
    ]
    return {
        "name": model.config.name_or_path,
        "global_step": global_step,
        "steps": global_step - max(restarted, default=0),
        "dtype": str(model.dtype),
    }


def round_logs(
    context: RoundContext, selection: Selection, previous: np.ndarray | None, seconds: float, time_share: float
) -> dict[str, float]:
    """Return the numbers to log of a round, without those that are not finite, such as the mean of no values.

    Args:
        context: The context that the selector used.
        selection: Its result.
        previous: Row numbers of the previous round, for the Jaccard similarity with them; None in the first round.
        seconds: Wall time of this selection.
        time_share: Share of the wall time of the run so far that was spent on selecting.
    """
    logs: dict[str, float] = {
        "selection_round": context.index,
        "selection_rows_scored": selection.provenance["rows_scored"],
        "selection_rows": len(selection.indices),
        "selection_rows_excluded": int((~context.eligible).sum()),
        "selection_seconds": round(seconds, 4),
        "selection_time_share": round(time_share, 4),
    }
    if "weights" in selection.provenance:
        logs["selection_weight_mean"] = round(selection.provenance["weights"]["mean"], 4)
    for name, (rows, values) in context.record.scored.items():
        is_number = pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
        if is_number and not is_identifier(name):
            selected = as_numpy(values)[np.isin(rows, selection.indices)]
            if not np.isnan(selected).all():
                logs[f"selection_{name}_mean"] = round(float(np.nanmean(selected)), 4)
    logs |= {f"selection_{name}": round(value, 4) for name, value in context.record.logs.items()}
    if previous is not None and not context.is_growing():
        union = np.union1d(previous, selection.indices).size
        logs["selection_overlap"] = round(np.intersect1d(previous, selection.indices).size / union, 4)
    return {name: value for name, value in logs.items() if math.isfinite(value)}  # JSON has no other numbers
