"""What the first round rests on, kept for the later ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from hf_datasel.rounds.context import Round

__all__ = ["as_kept", "from_first", "is_kept"]

_SPECS = "first/specs"


def is_kept(round: Round, name: str) -> bool:
    """Whether numbers are there from an earlier round."""
    return _key(name) in round.state


def from_first(
    round: Round, name: str, type: pa.DataType, make: Callable[[], np.ndarray], reason: str | None = None
) -> np.ndarray:
    """Numbers by row as the first round computed them, which later ones record as theirs.

    So a score of a fixed model is not computed again in each round, and nothing that the first round rests on changes
    with the model.

    Args:
        round: in whose state they are kept.
        name: of the column that they are recorded as.
        type: of its values.
        make: computes them: float64 of shape (rows,), NaN where a row has none.
        reason: why a row without one is left out; `"without <name>"` by default.
    """
    if not is_kept(round, name):
        values = make()
        round.state[_key(name)] = values.astype(np.float32 if pa.types.is_float32(type) else np.float64)
        round.state[_SPECS] = np.array(json.dumps(round.specs))
        return values
    values = round.state[_key(name)].astype(np.float64)
    missing = np.isnan(values)
    column = np.where(missing, 0, values).astype(type.to_pandas_dtype())
    round.scored[name] = (np.arange(len(values)), pa.array(column, type, mask=missing))
    round.remembered.add(name)
    round.leave_out(f"without {name}" if reason is None else reason, np.flatnonzero(missing))
    round.specs += [each for each in json.loads(str(round.state[_SPECS])) if each not in round.specs]
    return values


def as_kept(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """State of a round in which numbers by row are there from an earlier round, for one that is explained.

    Args:
        found: column -> float64 of shape (rows,), NaN where a row has none.
    """
    if not found:
        return {}
    return {**{_key(name): values for name, values in found.items()}, _SPECS: np.array("[]")}


def _key(name: str) -> str:
    return f"first/{name}"
