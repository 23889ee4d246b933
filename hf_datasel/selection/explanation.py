"""Explanation of why a row was selected, or was not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, ConfigError, FormatError, ModelError, ScoreError, SelectionError
from hf_datasel.formats.row_texts import row_texts
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.incremental_selector import IncrementalSelector
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.numbers import at_least, is_identifier
from hf_datasel.scoring.progress import only_drawn_bars
from hf_datasel.selection.outcomes import exclusion_bound
from hf_datasel.selection.replay import Replay, ReplayedRound
from hf_datasel.selectors import Chain, Weighted, get_selector

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.selection.result import Selection

__all__ = ["Explanation", "ScoreRank", "explain"]


class ScoreRank(TypedDict):
    """A score of a row, compared with the other rows of the pool.

    Attributes:
        score: Name of the column.
        value: Value of the row; None if it has none.
        reason: Reason why the row has no value, if that is known; otherwise empty.
        texts: Columns of text that belong to the score, and what they hold for the row, such as the phrase in
            `refusal_phrase`; those of the selection or else of the dataset. Empty texts are not included.
        rank: Number of rows with a higher value, plus one; None without a value, and for a number that identifies
            a row or a group, such as `duplicate_of`. Rows that the selection excluded for
            a value that is too high are not counted, unless the row is one of them.
        ties: Number of other rows with the same value; 0 without a value.
        num_rows: Number of rows with a value, counted in the same way.
        selected_range: Lowest and highest value of the selected rows; None if none of them has a value, and without a
            rank.
    """

    score: str
    value: float | None
    reason: str
    texts: dict[str, str]
    rank: int | None
    ties: int
    num_rows: int
    selected_range: tuple[float, float] | None


class Explanation(TypedDict):
    """Why a row was selected, or was not.

    Attributes:
        row: Row number in the dataset.
        prompt: Its prompt; of a row that cannot be read as one, its columns as JSON.
        response: Its response; empty for rows without text.
        selected: Whether the row was selected.
        rank: Rank among the selected rows, 0 for the best; None if the row was not selected.
        num_selected: Number of rows that were selected.
        weight: Weight that the row has in training; None if the row was not selected, or the rows have no weights.
        unusable: Reason why the row cannot be selected at all, such as `"empty_response"`; empty if it can.
        excluded: Reason why the method or its filters excluded the row, such as `"with refusal >= 1"`, as far as what
            the selection contains tells; empty if they did not.
        duplicates: Selected rows with exactly the same prompt and response.
        scores: Scores that the selection is based on.
        cluster: Number of the row's cluster, number of its rows, and how many of these were selected; None if the
            selection has no clusters.
        decided: Sentences of the selector on what decided, such as n-grams or neighbors.
        interrupted: Whether the selection was stopped before its budget was met.
        checkpoint: Checkpoint of the training run whose model has to be passed to say more, such as `"checkpoint-6"`;
            empty if none is needed.
    """

    row: int
    prompt: str
    response: str
    selected: bool
    rank: int | None
    num_selected: int
    weight: float | None
    unusable: str
    excluded: str
    duplicates: list[int]
    scores: list[ScoreRank]
    cluster: tuple[int, int, int] | None
    decided: list[str]
    interrupted: bool
    checkpoint: str


@only_drawn_bars()
def explain(
    selection: Selection,
    dataset: Dataset,
    row: int,
    model: Any = None,
    processing_class: Any = None,
    allow_imports: bool = False,
) -> Explanation:
    """Explain why a row was selected, or was not: by its scores and their ranks, its cluster, n-grams or neighbors.

    Scores are read from the selection. Vectors that it does not contain are computed again.

    Args:
        selection: The selection.
        dataset: The dataset that it was made from; read with the `columns` that the selection records.
        row: Row number in the dataset, selected or not.
        model: Model for vectors that the model of the round computed: a Hub id, a path, or a model object together
            with `processing_class`. If that model was in training, this has to be the checkpoint of the run from the
            time of the selection; other folders are refused. Also used in place of a local model of which the
            selection records only the name.
        processing_class: Tokenizer of a `model` that is passed as an object.
        allow_imports: Whether what the selection names may be used: a selector outside hf_datasel, an endpoint, the
            code of a model's repository.

    Raises:
        DatasetMismatchError: The selection was not made from this dataset.
        SelectionError: The dataset has no such row.
    """
    if type(row) is not int or not 0 <= row < len(dataset):
        raise SelectionError(
            f"There is no row {row!r}: the dataset has {len(dataset):,} rows, 0 to {len(dataset) - 1:,}."
        )
    selection.check(dataset)
    pool, selected = selection.pool(dataset), selection.indices
    ranks = np.flatnonzero(selected == row)
    replay = Replay(selection, Engine(pool, model, processing_class), allow_imports)
    context = ReplayedRound(replay, pool)
    decided = _decided(selection, context, row, replay, allow_imports)
    same_content = (pool.row_ids[selected] == pool.row_ids[row]).all(axis=1)
    ((prompt, response),) = row_texts(pool, np.array([row]))
    return {
        "row": row,
        "prompt": prompt,
        "response": response,
        "selected": bool(len(ranks)),
        "rank": int(ranks[0]) if len(ranks) else None,
        "num_selected": len(selected),
        "weight": None if selection.weights is None or not len(ranks) else float(selection.weights[ranks[0]]),
        "unusable": str(pool.reasons[row]),
        "excluded": next((reason for reason, rows in context.excluded_rows().items() if row in rows), ""),
        "duplicates": [number for number in selected[same_content].tolist() if number != row],
        "scores": [
            _score_rank(selection, pool.dataset, name, row)
            for name in selection.score_columns
            if not _is_cluster(name)
        ],
        "cluster": _cluster(selection, row),
        "decided": decided,
        "interrupted": bool(selection.provenance.get("interrupted", False)),
        "checkpoint": replay.missing_checkpoint,
    }


def _score_rank(selection: Selection, dataset: Dataset, name: str, row: int) -> ScoreRank:
    values = selection.scores(name)
    value, finite = float(values[row]), values[np.isfinite(values)]
    selected = values[selection.indices]
    selected = selected[np.isfinite(selected)]
    has_value, is_ranked = bool(np.isfinite(value)), not is_identifier(name)
    if has_value and not at_least(value, bound := exclusion_bound(selection, name)):
        finite = finite[~at_least(finite, bound)]
    return {
        "score": name,
        "value": value if has_value else None,
        "reason": "" if has_value else _reason(selection, name, row),
        "texts": _texts(selection, dataset, name, row),
        "rank": int((finite > value).sum()) + 1 if has_value and is_ranked else None,
        "ties": int((finite == value).sum()) - 1 if has_value else 0,
        "num_rows": len(finite),
        "selected_range": (float(selected.min()), float(selected.max())) if len(selected) and is_ranked else None,
    }


def _texts(selection: Selection, dataset: Dataset, name: str, row: int) -> dict[str, str]:
    """Return the texts in columns whose names begin with that of a score, other than reasons."""
    from datasets import Value

    recorded = {field.name: field.type for field in selection.table.schema}
    others = {key: feature.pa_type for key, feature in dataset.features.items() if isinstance(feature, Value)}
    columns = [
        key
        for key, dtype in {**others, **recorded}.items()
        if key.startswith(f"{name}_")
        and not key.endswith("_reason")
        and (pa.types.is_string(dtype) or pa.types.is_large_string(dtype))
    ]
    texts = {
        key: selection.table.column(key)[row].as_py() if key in recorded else dataset.select_columns([key])[row][key]
        for key in columns
    }
    return {key: text for key, text in texts.items() if text}


def _reason(selection: Selection, name: str, row: int) -> str:
    """Return why a row has no value, from the column of reasons that belongs to a score; empty if there is none."""
    reasons = [column for column in selection.table.column_names if column.endswith("_reason")]
    own = [column for column in reasons if name.startswith(column.removesuffix("_reason"))]
    column = own[0] if own else reasons[0] if len(reasons) == 1 else None
    return "" if column is None else selection.table.column(column)[row].as_py() or ""


def _is_cluster(name: str) -> bool:
    return name.endswith("cluster_id")


def _cluster(selection: Selection, row: int) -> tuple[int, int, int] | None:
    names = [name for name in selection.score_columns if _is_cluster(name)]
    if not names:
        return None
    ids = selection.scores(names[0])
    if np.isnan(ids[row]):
        return None
    members = ids == ids[row]
    return int(ids[row]), int(members.sum()), int(members[selection.indices].sum())


def _decided(selection: Selection, context: ReplayedRound, row: int, replay: Replay, allow_imports: bool) -> list[str]:
    spec = dict(selection.provenance["selector"])
    try:
        selector = get_selector(spec.pop("selector"), spec, allow_imports)
    except ConfigError as error:
        return [f"The selector is not available, so it cannot say more. {error}"]
    if not context.eligible[row]:
        return []
    try:
        return [*selector.explain(context, selection.indices, row), *replay.describe_model()]
    except (ScoreError, ColumnError, ModelError, FormatError) as error:
        missing = f"More cannot be said without what the selection relied on: {error}"
        return [*_describe_round(selector, context, selection.indices, row), missing]


def _describe_round(selector: Selector, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
    """Return in which round a row was selected, which is recorded even if the selector cannot run."""
    inner = selector
    while isinstance(inner, Chain | Weighted):
        inner = inner.then if isinstance(inner, Chain) else inner.method
    return inner.describe_round(context, selected, row) if isinstance(inner, IncrementalSelector) else []
