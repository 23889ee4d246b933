"""Replay of the round that made a selection, from the scores that the selection contains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ModelError, ScoreError
from hf_datasel.formats import Pool
from hf_datasel.rounds.cache import RoundCache
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.state import first_round_state
from hf_datasel.scoring.base import Columns, ModelScore, Score
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.models import check_model_exists, model_identity
from hf_datasel.scoring.recorded_columns import RecordedColumns
from hf_datasel.side_effects import side_effects
from hf_datasel.spec import spec_name
from hf_datasel.tokens import TokenSettings

if TYPE_CHECKING:
    from hf_datasel.scores import Cluster, Embedding
    from hf_datasel.selection.result import Selection

__all__ = ["Replay", "ReplayedRound"]

_CLUSTER, _DISTANCE = "cluster_id", "cluster_distance"


class Replay:
    """Scores of a selection, as the round that made it had them.

    Scores that the selection does not contain are computed again, with the same model and the same truncation of rows.

    Args:
        selection: The selection.
        engine: Engine over the same pool, with the model that the user passed, if any.
        allow_imports: Whether scores may use endpoints and code that the selection names.
        run_models: Whether scores of a model may be computed again; otherwise they have to be in the selection.

    Attributes:
        missing_checkpoint: Checkpoint of the training run that has to be passed as the model; empty if none is needed.
    """

    def __init__(self, selection: Selection, engine: Engine, allow_imports: bool = False, run_models: bool = True):
        self.selection, self.table, self.engine = selection, selection.table, engine
        self.allow_imports, self.run_models = allow_imports, run_models
        self.missing_checkpoint = ""
        self._used_model = False

    def compute(self, score: Score, rows: np.ndarray | None) -> Columns:
        """Return the columns of a score for these rows (all where None).

        Raises:
            ScoreError: The score has to be computed again, and its model is not available, or has to be permitted.
                Names the model to pass.
        """
        names = [f"{score.column_prefix}{name}" for name in score.columns()]
        if not set(names) <= set(self.table.column_names):
            return self._compute_again(score, rows)
        row_numbers = pa.array(np.arange(len(self.table)) if rows is None else rows)
        columns = {name: self.table.column(name).take(row_numbers).combine_chunks() for name in names}
        return {
            name: column.fill_null("not_scored") if name.endswith("_reason") else column
            for name, column in columns.items()
        }

    def holds(self, score: Score, column: str) -> bool:
        """Return whether the selection was made from a column of the dataset in place of a score."""
        was_read = score.value_column in self.selection.provenance["columns_verified"]
        return was_read and RecordedColumns(self.engine).holds(score, column)

    def describe_model(self) -> list[str]:
        """Return a sentence on the model that computed scores again; empty if none did."""
        if not self._used_model:
            return []
        model = self.engine.model
        name = repr(model) if isinstance(model, str) else "the model that was passed"
        return [f"What the selection does not contain was computed by {name}."]

    def _compute_again(self, score: Score, rows: np.ndarray | None) -> Columns:
        if isinstance(score, ModelScore) and not self.run_models:
            raise ScoreError(f"{type(score).__name__} is not in the selection, and would have to run a model.")
        if not self.allow_imports and (effects := side_effects(asdict(score))):
            raise ScoreError(
                f"Computing {type(score).__name__} again {', and '.join(effects)}. Permit it with allow_imports if "
                "you trust the selection."
            )
        spec = self._recorded_spec(score)
        model_name = getattr(score, "model", None)
        if isinstance(score, ModelScore) and score.needs_tokenizer:
            if model_name is None:
                self._check_model(score)
            elif not _exists(score):
                score = self._with_passed_model(score, model_name, spec)
            self._used_model = self._used_model or score.model is None
        tokens = spec.get("tokens")
        if isinstance(tokens, Mapping):
            names = [field.name for field in fields(TokenSettings)]
            settings = {name: value for name, value in tokens.items() if name in names}
            return replace(self.engine, settings=TokenSettings(**settings)).compute(score, rows)
        return self.engine.compute(score, rows)

    def _recorded_spec(self, score: Score) -> dict[str, Any]:
        name, model = spec_name(score), getattr(score, "model", None)
        for spec in self.selection.provenance["scores"]:
            if spec.get("score") == name and spec.get("model") == model:
                return dict(spec)
        return {}

    def _check_model(self, score: ModelScore) -> None:
        """Raise if the passed model is not the model of the round, as far as that is known."""
        record = self.selection.provenance.get("model") or {}
        name, step = record.get("name") or "the model of the selection", record.get("global_step", 0)
        score_name, passed = type(score).__name__, self.engine.model
        is_object = passed is not None and not isinstance(passed, str)
        if step and not is_object and _global_step(passed) != step:
            self.missing_checkpoint = f"checkpoint-{step}"
            other = "" if passed is None else f", and {passed!r} is not known to be that"
            raise ScoreError(
                f"{score_name} was that of {name!r} after {step:,} updates of training{other}. Pass the "
                f"{self.missing_checkpoint} of the run as the model, if it was saved."
            )
        if passed is None:
            raise ScoreError(
                f"{score_name} has no model to run. Pass the one that it was computed with ({name}) as the model."
            )

    def _with_passed_model(self, score: ModelScore, name: str, spec: Mapping[str, Any]) -> ModelScore:
        """Return the score with the passed model, in place of a model that only the name is recorded of."""
        passed, score_name = self.engine.model, type(score).__name__
        if passed is None:
            raise ScoreError(
                f"{score_name} was computed by {name!r}, which is neither a local folder nor a model on the Hub. Pass "
                "the model's folder as the model."
            )
        recorded = spec.get("resolved_model")
        if recorded and isinstance(passed, str) and model_identity(passed) != recorded:
            raise ScoreError(
                f"{score_name} was computed by {name!r}, and {passed!r} holds another model. Pass the former."
            )
        return replace(score, model=None)


class ReplayedRound(RoundContext):
    """Context of a past round, with the clusters that the selection contains.

    Args:
        replay: Scores of the selection.
        pool: Rows that it was made from.
    """

    def __init__(self, replay: Replay, pool: Pool):
        provenance = replay.selection.provenance
        cache = RoundCache(
            pool,
            replay.compute,
            describe=lambda score: {},  # specs are not needed, and the spec of a model that is missing fails
            has_model=replay.engine.model is not None,
            holds=replay.holds,
        )
        super().__init__(
            cache,
            budget=provenance["budget"],
            index=provenance["round"],
            seed=provenance["seed"],
            show_progress=False,
        )
        self.record.notes |= provenance.get("notes", {})
        self._clusters = {
            name: replay.selection.scores(name)
            for name in replay.selection.score_columns
            if name.endswith((_CLUSTER, _DISTANCE))
        }
        ids = {name: values for name, values in self._clusters.items() if name.endswith(_CLUSTER)}
        self.state.update(first_round_state(ids))

    def clusters(
        self, source: str | Cluster, vectors: str | Embedding = "embedding"
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the cluster of each row, from the selection if it contains them; see `RoundContext.clusters`."""
        name = source if isinstance(source, str) else f"{source.column_prefix}{_CLUSTER}"
        if isinstance(source, str) or name not in self._clusters:
            return super().clusters(source, vectors)
        ids, distance = self._clusters[name], self._clusters.get(f"{source.column_prefix}{_DISTANCE}")
        return np.where(np.isnan(ids), -1, ids).astype(np.int64), distance


def _exists(score: ModelScore) -> bool:
    """Return whether the model that a score names can be loaded."""
    try:
        check_model_exists(str(score.model), score.revision)
    except ModelError:
        return False
    return True


def _global_step(folder: Any) -> int | None:
    """Return the number of updates after which a trainer saved a checkpoint; None if it is no checkpoint."""
    if not isinstance(folder, str):
        return None
    try:
        state = json.loads((Path(folder).expanduser() / "trainer_state.json").read_text(encoding="utf-8"))
        step = state["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
