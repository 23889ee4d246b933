"""Why one row was taken, or was not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from hf_datasel.errors import ColumnError, ConfigError, FormatError, ModelError, ScoreError, SelectionError
from hf_datasel.formats import Pool
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.incremental_selector import GrowingSelector
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.engine import Engine
from hf_datasel.selection.replay import Replay, ReplayedRound
from hf_datasel.selection.result import Selection
from hf_datasel.selectors import Chain, by_name

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Explanation", "Standing", "explain"]


class Standing(TypedDict):
    """A row's score among those of the pool.

    Attributes:
        score: name of the column.
        value: the row's; None where it has none.
        reason: why it has none, where that is known.
        place: rows with a higher value, and one; None without a value. Rows that the choice ruled out for values that
            are too high are not counted, unless the row is one of them.
        of: rows with a value, counted in the same way.
        chosen: lowest and highest value of the chosen rows; None where none of them has one.
    """

    score: str
    value: float | None
    reason: str
    place: int | None
    of: int
    chosen: tuple[float, float] | None


class Explanation(TypedDict):
    """What there is to say about a row and a selection.

    Attributes:
        row: number in the dataset.
        taken: whether it was chosen.
        rank: 0 for the best; None for a row that was not chosen.
        of: rows that were chosen.
        unusable: why it could not be chosen at all, such as `"empty_response"`; empty for a row that could.
        copies: chosen rows with exactly the same prompt and response.
        scores: that the choice is based on.
        cluster: its number, the rows in it, and how many of them were chosen; None where the choice knows no clusters.
        decided: sentences of the selector's own: n-grams, neighbours.
        interrupted: whether the choice was stopped before its budget was met.
        checkpoint: of the training run, whose model would have to be passed to say more, such as `"checkpoint-6"`;
            empty where it is not missing.
    """

    row: int
    taken: bool
    rank: int | None
    of: int
    unusable: str
    copies: list[int]
    scores: list[Standing]
    cluster: tuple[int, int, int] | None
    decided: list[str]
    interrupted: bool
    checkpoint: str


def explain(
    selection: Selection,
    dataset: Dataset,
    row: int,
    model: Any = None,
    tokenizer: Any = None,
    allow_imports: bool = False,
) -> Explanation:
    """Say why a row was chosen, or was not: its scores and their places, its cluster, the n-grams or the neighbour.

    Scores are those that the selection holds; vectors that it does not hold are computed again.

    Args:
        selection: what was chosen.
        dataset: what it was chosen from.
        row: number of a row of it, chosen or not.
        model: for vectors that came from the model of the round: a name or path, or a live model with `tokenizer`.
            Where that model was in training, it is the checkpoint of the run from the time of the choice; another
            folder is refused. It also stands for a local model of which the record says no more than the name.
        tokenizer: of the live model.
        allow_imports: permit a selector outside hf_datasel, which its record names.

    Raises:
        DatasetMismatchError: the dataset is not the one the selection was made from.
        SelectionError: it has no such row.
    """
    if type(row) is not int or not 0 <= row < len(dataset):
        raise SelectionError(f"row={row!r} is none of the {len(dataset):,} rows: 0 to {len(dataset) - 1:,}.")
    selection.check(dataset)
    pool, chosen = Pool(dataset), selection.indices
    at = np.flatnonzero(chosen == row)
    replay = Replay(selection, Engine(pool, model, tokenizer))
    decided = _decided(selection, pool, row, replay, allow_imports)
    same = np.flatnonzero((pool.row_ids[chosen] == pool.row_ids[row]).all(axis=1))
    return {
        "row": row,
        "taken": bool(len(at)),
        "rank": int(at[0]) if len(at) else None,
        "of": len(chosen),
        "unusable": str(pool.reasons[row]),
        "copies": [int(each) for each in chosen[same] if each != row],
        "scores": [_standing(selection, name, row) for name in selection.score_columns if not _is_cluster(name)],
        "cluster": _cluster(selection, row),
        "decided": decided,
        "interrupted": bool(selection.provenance.get("interrupted", False)),
        "checkpoint": replay.missing,
    }


def _standing(selection: Selection, name: str, row: int) -> Standing:
    values = selection.scores(name)
    known = values[np.isfinite(values)]
    of_chosen = values[selection.indices]
    of_chosen = of_chosen[np.isfinite(of_chosen)]
    there = bool(np.isfinite(values[row]))
    if there and values[row] < (bound := _ruled_out_from(selection, name)):
        known = known[known < bound]
    reasons = [each for each in selection.table.column_names if each.endswith("_reason")]
    own = [each for each in reasons if name.startswith(each.removesuffix("_reason"))]
    why = next(iter(own or reasons[:1] * (len(reasons) == 1)), None)
    return {
        "score": name,
        "value": float(values[row]) if there else None,
        "reason": "" if there or why is None else selection.table.column(why)[row].as_py() or "",
        "place": int((known > values[row]).sum()) + 1 if there else None,
        "of": len(known),
        "chosen": (float(of_chosen.min()), float(of_chosen.max())) if len(of_chosen) else None,
    }


def _ruled_out_from(selection: Selection, name: str) -> float:
    """The value of a score from which on rows were ruled out; infinity where none were."""
    reasons = (re.fullmatch(r"with (.+) >= (\S+)", each) for each in selection.provenance["left_out"])
    return min((float(each[2]) for each in reasons if each and each[1] == name), default=np.inf)


def _is_cluster(name: str) -> bool:
    return name.endswith("cluster_id")


def _cluster(selection: Selection, row: int) -> tuple[int, int, int] | None:
    names = [name for name in selection.score_columns if _is_cluster(name)]
    if not names:
        return None
    ids = selection.scores(names[0])
    if np.isnan(ids[row]):
        return None
    inside = ids == ids[row]
    return int(ids[row]), int(inside.sum()), int(inside[selection.indices].sum())


def _decided(selection: Selection, pool: Pool, row: int, replay: Replay, allow_imports: bool) -> list[str]:
    spec = dict(selection.provenance["selector"])
    try:
        selector = by_name(spec.pop("selector"), spec, allow_imports)
    except ConfigError as error:
        return [f"The method is not at hand, so that it cannot say more. {error}"]
    if pool.reasons[row]:
        return []
    round = ReplayedRound(replay, pool)
    try:
        return [*selector.explain(round, selection.indices, row), *replay.said()]
    except (ScoreError, ColumnError, ModelError, FormatError) as error:
        more = f"More cannot be said without what the choice relied on: {error}"
        return [*_when(selector, round, selection.indices, row), more]


def _when(selector: Selector, round: Round, chosen: np.ndarray, row: int) -> list[str]:
    """In which round a row was chosen, which the record says where the method does not get to it."""
    inner = selector.then if isinstance(selector, Chain) else selector
    return inner.when(round, chosen, row) if isinstance(inner, GrowingSelector) else []
