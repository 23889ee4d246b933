"""The round of a selection once more, from what the selection holds of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ModelError, ScoreError
from hf_datasel.formats import Pool
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.state import as_kept
from hf_datasel.scoring.base import Columns, ModelScore, Score
from hf_datasel.scoring.engine import Engine
from hf_datasel.scoring.models import check_model_exists, model_identity
from hf_datasel.selection.result import Selection
from hf_datasel.tokens import TokenSettings

if TYPE_CHECKING:
    from hf_datasel.scores import Cluster, Embedding

__all__ = ["Replay", "ReplayedRound"]

_CLUSTER, _DISTANCE = "cluster_id", "cluster_distance"


class Replay:
    """Scores of a selection, as the round had them that it comes from.

    What the selection does not hold is computed again, by the same model and with the rows cut in the same way.

    Args:
        selection: what was chosen.
        engine: over the same pool, with the model that was passed, if one was.

    Attributes:
        missing: the checkpoint of the run that would have to be passed; empty where none is missing.
    """

    def __init__(self, selection: Selection, engine: Engine):
        self.selection, self.table, self.engine = selection, selection.table, engine
        self.missing = ""
        self._computed = False

    def compute(self, score: Score, rows: np.ndarray | None) -> Columns:
        """The score's columns for these rows, all by default.

        Raises:
            ScoreError: they would have to be computed by a model that is not at hand; says which to pass.
        """
        names = [f"{score.column_prefix}{name}" for name in score.columns()]
        if not set(names) <= set(self.table.column_names):
            return self._computed_again(score, rows)
        at = pa.array(np.arange(len(self.table)) if rows is None else rows)
        found = {name: self.table.column(name).take(at).combine_chunks() for name in names}
        return {
            name: column.fill_null("not_scored") if name.endswith("_reason") else column
            for name, column in found.items()
        }

    def said(self) -> list[str]:
        """Whose the numbers are that were computed again, as a sentence; empty where none were."""
        return [f"What the selection does not hold was computed by {self._passed()}."] if self._computed else []

    def _computed_again(self, score: Score, rows: np.ndarray | None) -> Columns:
        record = self._record_of(score)
        own = getattr(score, "model", None)
        if isinstance(score, ModelScore) and score.needs_tokenizer:
            if own is None:
                self._check_model(score)
            elif not _exists(score):
                score = self._by_the_model_passed(score, own, record)
            self._computed = self._computed or score.model is None
        tokens = record.get("tokens")
        if isinstance(tokens, Mapping):
            known = [each.name for each in fields(TokenSettings)]
            settings = {name: value for name, value in tokens.items() if name in known}
            return replace(self.engine, settings=TokenSettings(**settings)).compute(score, rows)
        return self.engine.compute(score, rows)

    def _record_of(self, score: Score) -> dict[str, Any]:
        own = getattr(score, "model", None)
        specs = self.selection.provenance["scores"]
        same = (each for each in specs if each.get("score") == type(score).__name__ and each.get("model") == own)
        return dict(next(same, {}))

    def _check_model(self, score: ModelScore) -> None:
        """See that the model passed is the one of the round, as far as that can be told."""
        about = self.selection.provenance.get("model") or {}
        name, step = about.get("name") or "the model of the choice", about.get("global_step", 0)
        what, passed = type(score).__name__, self.engine.model
        if step and not (passed is not None and not isinstance(passed, str)) and _step_of(passed) != step:
            self.missing = f"checkpoint-{step}"
            given = "" if passed is None else f", and {passed!r} is not known to be that"
            raise ScoreError(
                f"{what} was that of {name!r} after {step:,} updates of training{given}. Pass the {self.missing} of "
                "the run, if it was saved: --model_name_or_path FOLDER, or model=... in Python."
            )
        if passed is None:
            raise ScoreError(
                f"{what} has no model to run. Pass the one that it was computed by ({name}): --model_name_or_path "
                "FOLDER-OR-HUB-ID, or model=... in Python."
            )

    def _by_the_model_passed(self, score: ModelScore, name: str, record: Mapping[str, Any]) -> ModelScore:
        """The score with the model passed in place of one that the record has no more than the name of."""
        passed, what = self.engine.model, type(score).__name__
        if passed is None:
            raise ScoreError(
                f"{what} was computed by {name!r}, which is neither a folder here nor a model of the Hub. Pass "
                "--model_name_or_path with the model's folder, or model=... in Python."
            )
        before = record.get("resolved_model")
        if before and isinstance(passed, str) and model_identity(passed) != before:
            raise ScoreError(f"{what} was computed by {name!r}, and {passed!r} holds another model. Pass the former.")
        return replace(score, model=None)

    def _passed(self) -> str:
        model = self.engine.model
        return repr(model) if isinstance(model, str) else "the model that was passed"


class ReplayedRound(Round):
    """A round as it was, in which clusters that the selection holds are not found again.

    Args:
        replay: scores of the selection.
        pool: the rows that it was made from.
    """

    def __init__(self, replay: Replay, pool: Pool):
        about = replay.selection.provenance
        super().__init__(
            about["round"],
            pool,
            pool.reasons == "",
            about["budget"],
            replay.compute,
            about["seed"],
            describe=lambda score: {},  # nothing is recorded, and a model may be known by its name alone
            has_model=replay.engine.model is not None,
            shown=False,
        )
        self.notes |= about.get("notes", {})
        self._clusters = {
            name: replay.selection.scores(name)
            for name in replay.selection.score_columns
            if name.endswith((_CLUSTER, _DISTANCE))
        }
        ids = {name: values for name, values in self._clusters.items() if name.endswith(_CLUSTER)}
        self.state.update(as_kept(ids))

    def clusters(
        self, source: str | Cluster, vectors: str | Embedding = "embedding"
    ) -> tuple[np.ndarray, np.ndarray | None]:
        name = source if isinstance(source, str) else f"{source.column_prefix}{_CLUSTER}"
        if isinstance(source, str) or name not in self._clusters:
            return super().clusters(source, vectors)
        ids = self._clusters[name]
        return np.where(np.isnan(ids), -1, ids).astype(np.int64), self._clusters.get(
            f"{source.column_prefix}{_DISTANCE}"
        )


def _exists(score: ModelScore) -> bool:
    """Whether the model that a score names can be had."""
    try:
        check_model_exists(str(score.model), score.revision)
    except ModelError:
        return False
    return True


def _step_of(folder: Any) -> int | None:
    """Updates after which a trainer saved a checkpoint; None of what is no checkpoint."""
    if not isinstance(folder, str):
        return None
    try:
        state = json.loads((Path(folder).expanduser() / "trainer_state.json").read_text(encoding="utf-8"))
        step = state["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
