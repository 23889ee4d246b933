"""Select rows with a fixed model, or with none."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ConfigError, Interrupted, ScoreError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.columns_read import columns_read
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.incremental_selector import IncrementalSelector
from hf_datasel.rounds.run import check_budget, check_texts, run_round, run_selector, shortfall_error
from hf_datasel.rounds.selector import Selector
from hf_datasel.rounds.warmup_selector import WarmupSelector
from hf_datasel.scores import Length
from hf_datasel.scoring.cost import measure_cost
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.models import model_identity
from hf_datasel.scoring.progress import only_drawn_bars
from hf_datasel.scoring.recorded_columns import RecordedColumns
from hf_datasel.scoring.score_tables import ScoreTables, TablePool
from hf_datasel.selection.budget import DEFAULT_RATIO, TokenBudget, resolve_size, select_within_tokens
from hf_datasel.selection.result import Selection
from hf_datasel.spec import from_name

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SelectionSession", "check_single_round", "select"]

logger = logging.getLogger(__name__)

_NO_TOKENS = {
    "message": "A budget of tokens needs a tokenizer to count with, or the column num_tokens.",
    "hint": "Pass model=..., or add the column once, with "
    "hf_datasel.score(dataset, Length(unit='tokens', model=...)).",
    "cli_hint": "Pass --model_name_or_path MODEL, or add the column once, with hf-datasel score --scores length "
    '--scores_kwargs \'{"length": {"unit": "tokens"}}\' --model_name_or_path MODEL, and select from the file that '
    "it writes.",
}


@only_drawn_bars()
def select(
    dataset: Dataset | ScoreTables,
    selector: Selector | str | Mapping[str, Any],
    size: int | None = None,
    ratio: float | None = None,
    seed: int = 0,
    model: Any = None,
    processing_class: Any = None,
    scoring_tokens_per_batch: int | None = None,
    *,
    tokens: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> Selection:
    """Select rows in one round, with a fixed model and no training.

    Args:
        dataset: Rows in any supported format, with the columns that the selector names; or their score tables, of
            which only the columns are read that the selector needs. The selection is the same.
        selector: A selector such as `IterIT(quality="ifd")` or `Random()`, its name (`"random"`), or its name with
            settings (`{"top": {"by": "ifd"}}`).
        size: Number of rows to select. Pass one of `size`, `ratio` and `tokens`; by default `ratio` is 0.05.
        ratio: Share of all rows to select, rounded down, at least one row.
        seed: Random seed.
        model: Model for scores that name none: a Hub id, a path, or a causal language model together with
            `processing_class`.
        processing_class: Tokenizer of a `model` that is passed as an object.
        scoring_tokens_per_batch: Upper bound on the padded tokens of a scoring batch.
        tokens: Upper bound on the tokens of all selected rows together, counted as training counts them: with the
            tokenizer of `model`, or from the column `num_tokens` without a model. As many rows as fit are selected.
        columns: Names of the columns of a row format, or `role` and `content` of messages, and the names that the
            dataset has for them: `{"prompt": "question", "completion": "answer"}`.

    Returns:
        The selected row numbers, best first, with the scores and settings that they are based on.

    Raises:
        SelectionError: Fewer rows can be selected; the message names the number of rows excluded for each reason.
        ColumnError: The selector names a column that is missing.
        ConfigError: More than one of `size`, `ratio` and `tokens`, or a value that is not possible.
        ScoreError: The selector needs a score that the score tables do not have.
        FormatError: The selector needs text, and there are only score tables.
        Interrupted: Ctrl-C was pressed in a greedy selection; its `selection` holds the rows selected so far.
    """
    session = SelectionSession(dataset, model, processing_class, scoring_tokens_per_batch, columns=columns)
    return session.select(selector, size, ratio, seed, tokens=tokens)


def check_single_round(selector_class: type[Selector], rounds: Any) -> None:
    """Raise if a method trains the model between its rounds, before its settings are checked.

    Args:
        selector_class: Class of the selector.
        rounds: Number of rounds, for a class with that setting.

    Raises:
        SelectionError: Names where the method can be used.
    """
    incremental = issubclass(selector_class, IncrementalSelector)
    if (incremental and rounds != 1) or issubclass(selector_class, WarmupSelector):
        raise _needs_training(selector_class, rounds if incremental else 2)


def _needs_training(selector_class: type[Selector], num_rounds: Any) -> SelectionError:
    return SelectionError(
        f"{selector_class.__name__} selects in {num_rounds} rounds with training between them.",
        hint="Use it in SelectiveSFTTrainer.",
        cli_hint="Use it with hf-datasel train.",
    )


class SelectionSession:
    """Several selections from one dataset, which is read once; scores that they share are computed once.

    Args:
        dataset: See `select`.
        model: See `select`.
        processing_class: See `select`.
        scoring_tokens_per_batch: See `select`.
        columns: See `select`.

    Raises:
        SelectionError: The dataset is empty.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: Any = None,
        processing_class: Any = None,
        scoring_tokens_per_batch: int | None = None,
        *,
        columns: Mapping[str, str] | None = None,
    ):
        if not getattr(dataset, "num_rows", True):
            raise SelectionError("The dataset is empty, so that there is nothing to select.")
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        self.pool: Pool
        if isinstance(dataset, ScoreTables):
            self.pool = _table_pool(dataset, model, columns)
            self._cache = RoundCache(
                self.pool, dataset.compute, dataset.describe, has_model=False, holds=dataset.holds
            )
        else:
            self.pool = Pool(dataset, columns)
            engine = Engine(self.pool, self.model, processing_class, scoring_tokens_per_batch)
            columns_of = RecordedColumns(engine)
            self._cache = (
                RoundCache(self.pool, columns_of.compute, engine.describe, has_model=False, holds=columns_of.holds)
                if self.model is None
                else RoundCache(self.pool, engine.compute, engine.describe)
            )
        self._eligible = self.pool.usable

    @only_drawn_bars()
    def select(
        self,
        selector: Selector | str | Mapping[str, Any],
        size: int | None = None,
        ratio: float | None = None,
        seed: int = 0,
        *,
        tokens: int | None = None,
    ) -> Selection:
        """Select rows as the function `select` does; see there for the arguments and errors."""
        selector = from_name(selector, "selector")
        if not isinstance(selector, Selector):
            given: Any = selector
            hint = f"Write {given.__name__}()." if isinstance(given, type) and issubclass(given, Selector) else ""
            raise ConfigError(f"selector has to be a Selector such as Random(), and is {selector!r}.", hint)
        if tokens is not None and (size is not None or ratio is not None):
            raise ConfigError(f"tokens={tokens!r} beside size={size!r} and ratio={ratio!r}. Pass one of them.")
        if type(seed) is not int or seed < 0:
            raise ConfigError(f"seed={seed!r} has to be an int of at least 0.")
        if isinstance(self.pool, TablePool):
            _load_columns(self.pool, selector, [] if tokens is None else ["num_tokens"])
        run = _Run(selector, seed, self.pool, self._eligible, self._cache, self.model)
        cached = self._cache.start_recording()
        with measure_cost() as meter:

            def selection(rows: np.ndarray, **more: Any) -> Selection:
                cost, reused = meter.cost, self._cache.reused_cost(cached)
                seconds = cost["wall_seconds"] + (reused["wall_seconds"] if reused else 0.0)
                return run.selection(
                    rows, seconds=seconds, cost=cost, **({"cost_reused": reused} if reused else {}), **more
                )

            try:
                return selection(run.by_rows(size, ratio) if tokens is None else run.by_tokens(tokens))
            except Interrupted as stop:
                stop.selection = selection(stop.selected, interrupted=True)
                raise


@dataclass
class _Run:
    """One selection, and the context of the round that made it."""

    selector: Selector
    seed: int
    pool: Pool
    eligible: np.ndarray
    cache: RoundCache
    model: Any
    extra_provenance: dict[str, Any] = field(default_factory=dict, init=False)
    context: RoundContext = field(init=False)

    def by_rows(self, size: int | None, ratio: float | None) -> np.ndarray:
        """Select a number or a share of the rows."""
        self.context = self._new_context(resolve_size(len(self.pool), size, ratio))
        budget = self.context.budget
        requested = f"size={size}" if size is not None else f"ratio={ratio or DEFAULT_RATIO:g} ({budget:,} rows)"
        check_budget(budget, self.pool, self.eligible, requested, self.selector.shortfall_hint)
        rows = run_round(self.selector, self.context, requested=requested)
        budget = self.context.budget
        if size is not None and budget != size:
            logger.warning("%s always selects %d rows and ignores the budget.", type(self.selector).__name__, budget)
        return rows

    def by_tokens(self, tokens: int) -> np.ndarray:
        """Select as many rows as fit into a budget of tokens."""
        from_column = self.model is None
        if from_column and "num_tokens" not in self.pool.column_names:
            raise ScoreError(**_NO_TOKENS)
        counting = self.context = self._new_context(1)
        if counting.budget != 1:
            raise SelectionError(
                f"{type(self.selector).__name__} always selects the same rows and ignores the budget: "
                "do not pass tokens."
            )
        lengths = counting.values("num_tokens" if from_column else Length("tokens"))
        if not from_column:  # rows without a length have no token to train on
            self.eligible = self.eligible & ~np.isnan(lengths)
        budget = TokenBudget(tokens, lengths, self.eligible)
        trials: dict[int, tuple[RoundContext, int]] = {}

        def select(num_rows: int, is_trial: bool = True) -> np.ndarray:
            self.context = self._new_context(num_rows)
            self.context.record.is_trial = is_trial
            rows = run_selector(self.selector, self.context)
            trials[num_rows] = self.context, len(rows)
            return rows

        try:
            num_rows, rows = select_within_tokens(select, budget, self.selector.nested)
            self.context, num_selected = trials[num_rows]
            if self.selector.sets_weights() or self.context.record.weights is not None:
                rows = select(num_rows if len(rows) == num_selected else len(rows), is_trial=False)
        except Interrupted as stop:
            raise Interrupted(stop.selected[: budget.num_fitting(stop.selected)]) from None
        finally:  # the selection depends on the token counts too
            self.context.record.include(counting.record)
            self.extra_provenance = {"tokens": {"budget": tokens, "read_from_column": from_column}}
        self.extra_provenance["tokens"]["selected"] = int(lengths[rows].sum())
        if not len(rows):
            raise shortfall_error(self.context, 0, f"tokens={tokens:,}")
        self.context.budget = len(rows)
        return rows

    def selection(self, rows: np.ndarray, **more: Any) -> Selection:
        """Return the selection of these rows with its provenance."""
        specs = self.context.record.score_specs
        uses_model = self.model is not None and any(spec.get("model", "") is None for spec in specs)
        model = {"model": _model_record(self.model)} if uses_model else {}
        selection = Selection.from_round(self.context, self.selector, rows, **model, **self.extra_provenance, **more)
        if isinstance(self.pool, TablePool):
            selection.dataset = None  # the columns are not the parent
        return selection

    def _new_context(self, budget: int) -> RoundContext:
        selector_class = type(self.selector)
        check_single_round(selector_class, getattr(self.selector, "rounds", None))
        plan = self.selector.plan(budget, 1.0, int(self.eligible.sum()))
        if len(plan) > 1:
            raise _needs_training(selector_class, len(plan))
        self.selector.check_columns(RoundContext(self.cache, budget=plan[0].budget, eligible=self.eligible))
        return RoundContext(self.cache, budget=plan[0].budget, eligible=self.eligible, seed=self.seed, plan=plan)


def _table_pool(tables: ScoreTables, model: Any, columns: Mapping[str, str] | None) -> TablePool:
    """Return the rows of score tables, if they can be read as requested."""
    if model is not None:
        raise SelectionError(
            "Score tables have no text that a model could read.",
            "Do not pass model, or select from the dataset.",
            "Omit --model_name_or_path, or select from the dataset.",
        )
    tables.check_mapping(columns)
    return TablePool(tables)


def _load_columns(pool: TablePool, selector: Selector, names: Sequence[str]) -> None:
    """Read the columns that a selector needs from score tables, if all that it needs is there."""
    check_texts(selector, pool)
    for score in selector.scores():
        pool.tables.check_score(score)
    others = [name for name in names if name in pool.column_names]
    pool.load([*columns_read(selector, pool.column_names), *others])


def _model_record(model: Any) -> dict[str, str]:
    if isinstance(model, str):
        return {"name": model, "resolved": model_identity(model)}
    return {"name": model.config.name_or_path, "dtype": str(model.dtype)}
