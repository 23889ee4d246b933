"""Select rows with a fixed model, or with none."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ConfigError, Interrupted, ScoreError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import Material
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.incremental_selector import GrowingSelector
from hf_datasel.rounds.run import ask, check_budget, run_round, shortfall
from hf_datasel.rounds.selector import Selector
from hf_datasel.rounds.warmup_selector import WarmedSelector
from hf_datasel.scores import Length
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.models import model_identity
from hf_datasel.selection.budget import DEFAULT_RATIO, TokenBudget, wanted_rows, within_tokens
from hf_datasel.selection.result import Selection

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Selecting", "check_trains_once", "select"]

logger = logging.getLogger(__name__)

_NO_TOKENS = (
    "A budget of tokens needs a tokenizer to count with, or the column num_tokens. Name a model: model=..., or "
    "--model_name_or_path on the command line. Or add the column once, by hf-datasel score --scores length "
    '--scores_kwargs \'{"length": {"unit": "tokens"}}\' --model_name_or_path MODEL, and choose from the file that '
    "this writes."
)


def select(
    dataset: Dataset,
    selector: Selector,
    size: int | None = None,
    ratio: float | None = None,
    seed: int = 0,
    model: Any = None,
    tokenizer: Any = None,
    tokens_per_batch: int | None = None,
    *,
    tokens: int | None = None,
) -> Selection:
    """Choose rows once: one round with a fixed model and no training.

    Args:
        dataset: rows in any supported format, with the columns that the selector names.
        selector: for example `IterIT(quality="ifd")`, `Random()` or `Top(by="loss")`.
        size: rows to choose; or
        ratio: share of all rows, rounded down, at least 1; or
        tokens: as many rows as have at most so many tokens together, counted as training reads them: with the
            tokenizer of `model`, or in the column `num_tokens` where no model is given. Without any of these, 5 %.
        seed: of everything random.
        model: for scores that name none: a name or path, or a live causal LM together with `tokenizer`.

    Raises:
        SelectionError: fewer rows than that can be chosen; says why.
        ColumnError: the selector names a column that is not there.
        ConfigError: two of `size`, `ratio` and `tokens`, or values they cannot have.
        Interrupted: Ctrl-C in a greedy choice. Its `selection` holds what had been chosen by then.
    """
    return Selecting(dataset, model, tokenizer, tokens_per_batch).select(selector, size, ratio, seed, tokens=tokens)


def check_trains_once(kind: type[Selector], rounds: Any) -> None:
    """Refuse a method that trains the model between its rounds, before anything is said of its settings.

    Args:
        kind: its class.
        rounds: how many, where that is a setting of it.

    Raises:
        SelectionError: says where it works.
    """
    grows = issubclass(kind, GrowingSelector)
    if (grows and rounds != 1) or issubclass(kind, WarmedSelector):
        raise SelectionError(
            f"{kind.__name__} chooses in {rounds if grows else 2} rounds with training between them: use it in "
            "SelectiveSFTTrainer, or on the command line with hf-datasel train."
        )


class Selecting:
    """Several choices from one dataset: it is read once, and what two of them need is computed once, and kept.

    Args:
        dataset: as in `select`.
        model: as in `select`.
        tokenizer: as in `select`.
        tokens_per_batch: as in `select`.

    Raises:
        SelectionError: the dataset is empty.
    """

    def __init__(
        self, dataset: Dataset, model: Any = None, tokenizer: Any = None, tokens_per_batch: int | None = None
    ):
        if not getattr(dataset, "num_rows", True):
            raise SelectionError("The dataset is empty, so that there is nothing to select.")
        self.pool = Pool(dataset)
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        self._eligible = self.pool.reasons == ""
        engine = Engine(self.pool, self.model, tokenizer, tokens_per_batch)
        self._material = Material(self.pool, engine.compute, engine.describe)

    def select(
        self,
        selector: Selector,
        size: int | None = None,
        ratio: float | None = None,
        seed: int = 0,
        *,
        tokens: int | None = None,
    ) -> Selection:
        """One choice, as the function `select` makes it."""
        start, before = time.perf_counter(), self._material.start()
        if not isinstance(selector, Selector):
            raise ConfigError(f"selector has to be a Selector such as Random(), and is {selector!r}.")
        if tokens is not None and (size is not None or ratio is not None):
            raise ConfigError(f"tokens={tokens!r} beside size={size!r} and ratio={ratio!r}. Pass one of them.")
        if type(seed) is not int or seed < 0:
            raise ConfigError(f"seed={seed!r} has to be an int of at least 0.")
        run = _Run(selector, seed, self.pool, self._eligible, self._material, self.model)

        def selection(rows: np.ndarray, **more: Any) -> Selection:
            seconds = time.perf_counter() - start + self._material.since(before)
            return run.selection(rows, seconds=seconds, **more)

        try:
            return selection(run.by_rows(size, ratio) if tokens is None else run.by_tokens(tokens))
        except Interrupted as stop:
            stop.selection = selection(stop.chosen, interrupted=True)
            raise


@dataclass
class _Run:
    """One choice, and the round that it was made in."""

    selector: Selector
    seed: int
    pool: Pool
    eligible: np.ndarray
    material: Material
    model: Any
    more: dict[str, Any] = field(default_factory=dict, init=False)
    round: Round = field(init=False)

    def by_rows(self, size: int | None, ratio: float | None) -> np.ndarray:
        self.round = self._new_round(wanted_rows(len(self.pool), size, ratio))
        budget = self.round.budget
        asked = f"size={size}" if size is not None else f"ratio={ratio or DEFAULT_RATIO:g} ({budget:,} rows)"
        check_budget(budget, self.pool, self.eligible, asked)
        if size is not None and budget != size:
            logger.warning("%s takes %d rows, whatever the budget.", type(self.selector).__name__, budget)
        return run_round(self.selector, self.round, asked=asked)

    def by_tokens(self, tokens: int) -> np.ndarray:
        if self.model is None and "num_tokens" not in self.pool.dataset.column_names:
            raise ScoreError(_NO_TOKENS)
        counting = self.round = self._new_round(1)
        if counting.budget != 1:
            raise SelectionError(
                f"{type(self.selector).__name__} takes its rows whatever the budget: leave tokens out."
            )
        read = self.model is None and "num_tokens" in self.pool.dataset.column_names
        lengths = counting.values("num_tokens" if read else Length("tokens"))
        if not read:  # the others have no token left to train on
            self.eligible = self.eligible & ~np.isnan(lengths)
        budget = TokenBudget(tokens, lengths, self.eligible)
        rounds: dict[int, Round] = {}

        def choose(rows: int) -> np.ndarray:
            self.round = rounds[rows] = self._new_round(rows)
            return ask(self.selector, self.round)

        try:
            trial, rows = within_tokens(choose, budget, self.selector.nested)
            self.round = rounds[trial]
        except Interrupted as stop:
            raise Interrupted(stop.chosen[: budget.fitting(stop.chosen)]) from None
        finally:  # what counted the tokens decided too
            self.round.specs += [spec for spec in counting.specs if spec not in self.round.specs]
            self.round.columns_used += [each for each in counting.columns_used if each not in self.round.columns_used]
            self.round.columns_known += [
                each for each in counting.columns_known if each not in self.round.columns_known
            ]
            self.more = {"tokens": {"budget": tokens, "read_from_column": read}}
        self.more["tokens"]["chosen"] = int(lengths[rows].sum())
        if not len(rows):
            raise shortfall(self.round, 0, f"tokens={tokens:,}")
        self.round.budget = len(rows)
        return rows

    def selection(self, rows: np.ndarray, **more: Any) -> Selection:
        used = self.model is not None and any(spec.get("model", "") is None for spec in self.round.specs)
        model = {"model": _model_record(self.model)} if used else {}
        return Selection.from_round(self.round, self.selector, rows, **model, **self.more, **more)

    def _new_round(self, budget: int) -> Round:
        check_trains_once(type(self.selector), getattr(self.selector, "rounds", None))
        plan = self.selector.plan(budget, 1.0, int(self.eligible.sum()))
        if len(plan) > 1:
            raise SelectionError(
                f"{type(self.selector).__name__} chooses in {len(plan)} rounds with training between them: use it in "
                "SelectiveSFTTrainer, or on the command line with hf-datasel train."
            )
        return Round(
            index=0,
            rows=self.pool,
            eligible=self.eligible,
            budget=plan[0].budget,
            compute=self.material.compute,
            seed=self.seed,
            plan=plan,
            has_model=self.model is not None,
            material=self.material,
        )


def _model_record(model: Any) -> dict[str, str]:
    if isinstance(model, str):
        return {"name": model, "resolved": model_identity(model)}
    return {"name": model.config.name_or_path, "dtype": str(model.dtype)}
