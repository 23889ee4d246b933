"""Contract checks of scores."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hf_datasel.errors import DataselError
from hf_datasel.scoring.base import ModelScore, Score, is_text_list
from hf_datasel.scoring.models import MAP_MODELS, Loading
from hf_datasel.scoring.score_rows import score
from hf_datasel.testing.guards import (
    equal_values,
    no_network,
    require,
    require_round_trip,
    unchanged_modes,
    unchanged_random_state,
    with_model,
    with_unusable_row,
)

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["CHECKS"]


def _columns(subject: Score, rows: Dataset, model: str | None) -> None:
    """Check that exactly the declared columns are added, with their types, and that nothing else changes."""
    declared = _names(subject)
    data = with_unusable_row(rows.select_columns([name for name in rows.column_names if name not in declared]))
    expected = [*data.column_names, *declared]
    for how in ("score",) if subject.not_in_batches else ("score", "map"):
        scored = _scored(subject, data, model) if how == "score" else _mapped(subject, data, model, len(data))
        require(scored.column_names == expected, f"{how} gives columns {scored.column_names} and not {expected}")
        types = {name: scored.features.arrow_schema.field(name).type for name in declared}
        require(types == declared, f"{how} gives types {types}, and declared are {declared}")
        original = scored.select_columns(data.column_names)
        require(repr(original[:]) == repr(data[:]), f"{how} changes rows, their order or other columns")


def _values(subject: Score, rows: Dataset, model: str | None) -> None:
    """Check that numbers are finite or null, texts are never null, and a row without any number has a reason."""
    scored = _scored(subject, with_unusable_row(rows), model)
    reasons = [name for name in _names(subject) if name.endswith("_reason")]
    texts = [name for name, kind in _names(subject).items() if pa.types.is_string(kind)]
    numbers = [
        name for name, kind in _names(subject).items() if not pa.types.is_string(kind) and not is_text_list(kind)
    ]
    for row in scored.select_columns([*numbers, *texts]):
        for name in numbers:
            wrong = row[name] is not None and not np.all(np.isfinite(np.asarray(row[name], dtype=np.float64)))
            require(not wrong, f"{name} is {row[name]}: write None where a row has no value")
        for name in texts:
            require(isinstance(row[name], str), f"{name} is {row[name]!r}: a scored row has the reason ''")
        unexplained = reasons and all(row[name] is None for name in numbers) and not any(row[n] for n in reasons)
        require(not unexplained, "a row has no value, and no reason why")


def _batch_size(subject: Score, rows: Dataset, model: str | None) -> None:
    """Check that batches of one, of three and of all rows give the same numbers up to 1e-5."""
    if subject.not_in_batches:
        return
    data = with_unusable_row(rows.select(range(min(len(rows), 4))))
    expected = _scored(subject, data, model)
    for size in (1, 3):
        _require_same(subject, expected, _mapped(subject, data, model, size), f"in batches of {size}")


def _repeatable(subject: Score, rows: Dataset, model: str | None) -> None:
    """Check that a second run gives the same numbers."""
    first, second = _scored(subject, rows, model), _scored(subject, rows, model)
    _require_same(subject, first, second, "the second time", tolerance=0.0)


def _order(subject: Score, rows: Dataset, model: str | None) -> None:
    """Check that permuted rows give the permuted numbers."""
    data = with_unusable_row(rows)
    order = np.random.default_rng(0).permutation(len(data))
    _require_same(
        subject,
        _scored(subject, data, model).select(order),
        _scored(subject, data.select(order), model),
        "in another order",
    )


def _round_trips(subject: Score, rows: Dataset, model: str | None) -> None:
    """Check that the score survives pickling and JSON, and that its spec is JSON with every setting."""
    require_round_trip(subject, type(subject)(**json.loads(json.dumps(subject.settings()))), "settings through JSON")
    spec = json.loads(json.dumps(subject.spec()))
    lost = set(subject.settings()) - set(spec)
    require(not lost, f"the spec lacks the settings {sorted(lost)}")


def _empty(subject: Score, rows: Dataset, model: str | None) -> None:
    """Check that an empty dataset gives no rows, or an error that says that it is empty."""
    try:
        scored = _scored(subject, rows.select([]), model)
    except DataselError as error:
        require("empty" in str(error), f"the error on an empty dataset does not say that it is empty: {error}")
    else:
        require(len(scored) == 0, f"an empty dataset gives {len(scored)} rows")


def _one_row(subject: Score, rows: Dataset, model: str | None) -> None:
    """Check that a row has the same numbers alone as among other rows."""
    if subject.not_in_batches:
        return
    expected, alone = _scored(subject, rows, model), _scored(subject, rows.select([0]), model)
    _require_same(subject, expected.select([0]), alone, "in a dataset of one row")


def _global_state(subject: Score, rows: Dataset, model: str | None) -> None:
    """Check that global random states and the train or eval mode of a model's modules do not change."""
    _scored(subject, rows.select([0]), model)  # some libraries draw random numbers when first imported
    live, tokenizer = None, None
    if subject.needs_tokenizer and model is not None and getattr(subject, "model", "none taken") is None:
        loading = replace(subject, model=model).loading() if isinstance(subject, ModelScore) else Loading(model)
        live, tokenizer = MAP_MODELS.get(loading), loading.tokenizer()
    with unchanged_random_state(), nullcontext() if live is None else unchanged_modes(live):
        score(rows, [subject], live, tokenizer, on_summary=str)
        if not subject.not_in_batches:
            _mapped(subject, rows, model, len(rows))


def _no_network(subject: Score, rows: Dataset, model: str | None) -> None:
    """Check that no other machine is connected to."""
    with no_network():
        _scored(subject, rows, model)


def _names(subject: Score) -> dict[str, pa.DataType]:
    """Return the declared columns with their prefix, and their types."""
    return {f"{subject.column_prefix}{name}": kind for name, kind in subject.columns().items()}


def _scored(subject: Score, rows: Dataset, model: str | None) -> Dataset:
    """Compute the score with `hf_datasel.score`."""
    return score(rows, [with_model(subject, model)], on_summary=str)


def _mapped(subject: Score, rows: Dataset, model: str | None, batch_size: int) -> Dataset:
    """Compute the score with `Dataset.map`."""
    called = with_model(subject, model)
    return rows.map(
        called,
        batched=True,
        batch_size=batch_size,
        features=called.features(rows),
        load_from_cache_file=False,
        keep_in_memory=True,
    )


def _require_same(subject: Score, expected: Dataset, actual: Dataset, condition: str, tolerance: float = 1e-5) -> None:
    """Check that every declared column has the same values in both datasets."""
    for name in _names(subject):
        for row, (left, right) in enumerate(zip(expected[name][:], actual[name][:], strict=True)):
            message = f"{name} of row {row} is {right} {condition}, and {left} otherwise"
            require(equal_values(left, right, tolerance), message)


CHECKS = {
    "columns": _columns,
    "values": _values,
    "batch_size": _batch_size,
    "repeatable": _repeatable,
    "order": _order,
    "round_trips": _round_trips,
    "empty": _empty,
    "one_row": _one_row,
    "global_state": _global_state,
    "no_network": _no_network,
}
