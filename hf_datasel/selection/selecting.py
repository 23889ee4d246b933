"""Select rows with a fixed model, or with none."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.scores.engine import Engine
from hf_datasel.scores.models import model_identity
from hf_datasel.selection.result import Selection
from hf_datasel.selectors.base import Round, Selector, check_budget, run_round

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["select", "wanted_rows"]

DEFAULT_RATIO = 0.05


def select(
    dataset: Dataset,
    selector: Selector,
    size: int | None = None,
    ratio: float | None = None,
    seed: int = 0,
    model: Any = None,
    tokenizer: Any = None,
    tokens_per_batch: int | None = None,
) -> Selection:
    """Choose rows once: one round with a fixed model and no training.

    Args:
        dataset: rows in any supported format, with the columns that the selector names.
        selector: for example `IterIT(quality="ifd")`, `Random()` or `Top(by="loss")`.
        size: rows to choose; or
        ratio: share of all rows, rounded down, at least 1. Without either, 0.05.
        seed: of everything random.
        model: for scores that name none: a name or path, or a live causal LM together with `tokenizer`.

    Raises:
        SelectionError: fewer rows than that can be chosen; says why.
        ColumnError: the selector names a column that is not there.
        ConfigError: both `size` and `ratio`, or values they cannot have.
    """
    start = time.perf_counter()
    if not isinstance(selector, Selector):
        raise ConfigError(f"selector has to be a Selector such as Random(), and is {selector!r}.")
    if not getattr(dataset, "num_rows", True):
        raise SelectionError("The dataset is empty, so that there is nothing to select.")
    pool = Pool(dataset)
    eligible = pool.reasons == ""
    plan = selector.plan(wanted_rows(len(pool), size, ratio), 1.0, int(eligible.sum()))
    if len(plan) > 1:
        raise SelectionError(
            f"{type(selector).__name__} chooses in {len(plan)} rounds with training between them: use it in "
            "SelectiveSFTTrainer."
        )
    asked = f"size={size}" if size is not None else f"ratio={ratio or DEFAULT_RATIO:g} ({plan[0].budget:,} rows)"
    check_budget(plan[0].budget, pool, eligible, asked)
    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    engine = Engine(pool, model, tokenizer, tokens_per_batch)
    round = Round(0, pool, eligible, plan[0].budget, engine.compute, seed, plan=plan, describe=engine.describe)
    rows = run_round(selector, round, asked=asked)
    used = model is not None and any(spec.get("model", "") is None for spec in round.specs)
    more = {"model": _model_record(model)} if used else {}
    return Selection.from_round(round, selector, rows, seconds=time.perf_counter() - start, **more)


def _model_record(model: Any) -> dict[str, str]:
    if isinstance(model, str):
        return {"name": model, "resolved": model_identity(model)}
    return {"name": model.config.name_or_path, "dtype": str(model.dtype)}


def wanted_rows(
    pool_size: int, size: int | None, ratio: float | None, names: tuple[str, str] = ("size", "ratio")
) -> int:
    """How many rows a size or a share of the pool means.

    >>> wanted_rows(5200, None, 0.05)
    260

    Raises:
        ConfigError: both are given, or one has a value it cannot have.
    """
    if size is not None and ratio is not None:
        raise ConfigError(f"{names[0]}={size!r} and {names[1]}={ratio!r} say the same thing twice. Pass one of them.")
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"{names[0]}={size!r} has to be a number of rows, an int of at least 1.")
        return size
    ratio = DEFAULT_RATIO if ratio is None else ratio
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise ConfigError(f"{names[1]}={ratio!r} has to be a share of the pool, above 0 and at most 1.")
    return max(int(ratio * pool_size + 1e-9), 1)
