"""Values that the first round of a run computes and later rounds reuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from hf_datasel.rounds.context import RoundContext

__all__ = ["first_round_state", "first_round_values", "has_first_round_values"]

_SPECS = "first/specs"


def has_first_round_values(context: RoundContext, name: str) -> bool:
    """Return whether an earlier round stored the values of this name."""
    return _key(name) in context.state


def first_round_values(
    context: RoundContext,
    name: str,
    dtype: pa.DataType,
    compute: Callable[[], np.ndarray],
    reason: str | None = None,
) -> np.ndarray:
    """Compute one value per row in the first round, and return the same values in later rounds.

    A score of a fixed model is then computed once, and what the first round is based on does not change with the model
    in training. Later rounds record the values and the specs as the first round did.

    Args:
        context: Context of the round, in whose state the values are stored.
        name: Name of the column that the values are recorded as.
        dtype: Type of the recorded column.
        compute: Function that returns the values, float64 of shape (rows,), NaN where a row has none.
        reason: Reason for which later rounds exclude rows without a value; by default `"without <name>"`.

    Returns:
        Float64 of shape (rows,), NaN where a row has no value.
    """
    if not has_first_round_values(context, name):
        values = compute()
        context.state[_key(name)] = values.astype(np.float32 if pa.types.is_float32(dtype) else np.float64)
        context.state[_SPECS] = np.array(json.dumps(context.record.score_specs))
        return values
    values = context.state[_key(name)].astype(np.float64)
    missing = np.isnan(values)
    column = np.where(missing, 0, values).astype(dtype.to_pandas_dtype())
    context.record.scored[name] = np.arange(len(values)), pa.array(column, dtype, mask=missing)
    context.record.columns_reused.add(name)
    context.exclude(f"without {name}" if reason is None else reason, np.flatnonzero(missing))
    for spec in json.loads(str(context.state[_SPECS])):
        context.record.add_spec(spec)
    return values


def first_round_state(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the state of a later round for values that a saved selection holds, so that `explain` can reuse them.

    Args:
        columns: Column name -> float64 of shape (rows,), NaN where a row has no value.
    """
    if not columns:
        return {}
    return {**{_key(name): values for name, values in columns.items()}, _SPECS: np.array("[]")}


def _key(name: str) -> str:
    return f"first/{name}"
