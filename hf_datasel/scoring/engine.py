"""Computing scores for the rows of one pool: what `score`, `select` and the trainer share."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hf_datasel.errors import ScoreError
from hf_datasel.formats import Pool
from hf_datasel.scoring.base import Columns, ModelScore, Score
from hf_datasel.scoring.distributed import Ranks
from hf_datasel.scoring.models import Loading, Models, load_tokenizer, tokenizer_identity
from hf_datasel.scoring.runner import ModelContext, Seen, Tables
from hf_datasel.spec import spec_name
from hf_datasel.tokens import Prepared, TokenRows, TokenSettings

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = ["Engine"]


@dataclass
class Engine:
    """Computes scores for rows of one pool with one default model; equal passes are run once.

    Attributes:
        pool: the dataset, read as instruction rows.
        model: for scores that name none: a live causal LM with `tokenizer`, or a name or path.
        tokenizer: of the live model.
        tokens_per_batch: upper bound on the padded tokens of a scoring batch; see `ModelContext`.
        autocast: compute in this dtype instead of the weights' own.
        settings: how training cuts and labels rows, where a trainer asks.
        prepared: the trainer's own tokenised rows.
        progress: show a progress bar where the output is a terminal.
        store: where results are kept, and found again.
        models: where models are loaded by name.
        seen: losses of the live model that are known from its training.
        optimizer: that the live model is trained with.
    """

    pool: Pool
    model: Any = None
    tokenizer: PreTrainedTokenizerBase | None = None
    tokens_per_batch: int | None = None
    autocast: torch.dtype | None = None
    settings: TokenSettings | None = None
    prepared: Prepared | None = None
    progress: bool = True
    store: Tables | None = None
    models: Models = field(default_factory=Models)
    seen: Seen | None = None
    optimizer: Any = None
    _rows: dict[Hashable, TokenRows] = field(default_factory=dict, init=False)
    _context: tuple[Hashable, ModelContext] | None = field(default=None, init=False)
    """Of the model that runs now, with what it has computed."""

    def __post_init__(self) -> None:
        if isinstance(self.model, os.PathLike):
            self.model = os.fspath(self.model)
        if self.model is not None and not isinstance(self.model, str) and not callable(self.model):
            raise ScoreError(
                f"model={self.model!r} has to be the name or path of a model, or a live one, with its tokenizer."
            )
        if self.model is not None and not isinstance(self.model, str) and self.tokenizer is None:
            raise ScoreError(f"A live {type(self.model).__name__} needs its tokenizer: pass tokenizer=... too.")

    def compute(self, score: Score, indices: np.ndarray | None = None) -> Columns:
        """The score's columns for the pool rows at `indices` (all by default), in that order.

        Of no rows nothing is computed, and no model is loaded: whether the score can be computed at all is checked.

        Raises:
            ScoreError: the score needs a model and there is none, or it cuts rows elsewhere than training does.
        """
        score = self._beside(score)
        rows, context = self._inputs(score, indices)
        if indices is not None and not len(indices):
            score.check(len(self.pool))
            score.check_inputs(rows, context)
            return {f"{score.column_prefix}{name}": pa.array([], kind) for name, kind in score.columns().items()}
        return {f"{score.column_prefix}{name}": column for name, column in score.compute(rows, context).items()}

    def announce(self, scores: Sequence[Score]) -> None:
        """Say that these scores follow, so that one pass computes what several of them need.

        All of them have to run the same model.
        """
        for each in scores:
            each.announce(*self._inputs(each, None))

    def by_model(self, scores: Sequence[Score]) -> list[list[Score]]:
        """The scores in groups that run one model each, so that each model is loaded once."""
        groups: dict[Hashable, list[Score]] = {}
        for each in scores:
            groups.setdefault(self._key(each), []).append(each)
        return list(groups.values())

    def describe(self, score: Score) -> dict[str, Any]:
        """The score's spec, and everything here that decides its numbers too. After `compute`."""
        score = self._beside(score)
        if not score.needs_tokenizer:
            spec = score.spec()
            if _as_trained(score) and self.settings is not None:
                spec["tokens"] = {**spec["tokens"], **asdict(self.settings)}
            return spec
        loading, tokenizer = self._loading(score)
        tokens = {**asdict(self._settings(score)), "tokenizer": tokenizer_identity(tokenizer)}
        spec = {**score.spec(), "tokens": tokens}
        if not isinstance(score, ModelScore):
            return spec
        fits = self._context is not None and self._context[0] == self._key(score)
        computed = self._context[1].describe() if fits and self._context is not None else None
        if loading is not None:
            spec["resolved_model"] = loading.identity()["weights"]
        return {**spec, "computed": computed}

    def _beside(self, score: Score) -> Score:
        """The score as it is computed beside the model in training, if that makes a difference to it."""
        training = self.settings is not None and self.model is not None and not isinstance(self.model, str)
        beside = getattr(score, "beside", None)
        found: Score = beside(self) if training and beside is not None else score
        return found

    def _inputs(self, score: Score, indices: np.ndarray | None) -> tuple[TokenRows, ModelContext]:
        if not score.needs_tokenizer:
            if isinstance(score, ModelScore):
                self._context = None  # it loads models itself, and there is room for one
            settings = self._settings(score) if _as_trained(score) else None
            return self._token_rows(None, None, settings, indices), self._new_context()
        loading, tokenizer = self._loading(score)
        rows = self._token_rows(_named(loading) or "live", tokenizer, self._settings(score), indices)
        return rows, self._context_of(score, loading) if isinstance(score, ModelScore) else self._new_context()

    def _loading(self, score: Score) -> tuple[Loading | None, Any]:
        """How the score's model is loaded, None for the live one, and its tokenizer."""
        model = getattr(score, "model", None)
        if model is None and self.model is None:
            raise ScoreError(
                f"{type(score).__name__} has no model to run. Pass its name or path: model=... next to the dataset, "
                "or --model_name_or_path on the command line. Or compute it once, by hf-datasel score "
                f"{_flags_of(score)} --model_name_or_path MODEL, and choose from the file that this writes."
            )
        if model is None and not isinstance(self.model, str):
            return None, self.tokenizer
        revision = getattr(score, "revision", None)
        more = (score.dtype, score.kind, score.model_init_kwargs) if isinstance(score, ModelScore) else ()
        loading = Loading(model or self.model, revision, *more)
        return loading, load_tokenizer(loading.name, revision)

    def _context_of(self, score: Score, loading: Loading | None) -> ModelContext:
        key = self._key(score)
        if self._context is None or self._context[0] != key:
            self._context = None  # what it computed goes with it, and the model too, before another one comes
            plain = self._new_context()
            self._context = (key, plain.other(loading) if loading is not None else self._new_context(self.model))
        return self._context[1]

    def _new_context(self, model: Any = None) -> ModelContext:
        return ModelContext(
            model,
            self.tokens_per_batch,
            self.autocast,
            self.progress,
            store=self.store,
            models=self.models,
            ranks=Ranks.current(),
            seen=self.seen if model is not None else None,
        )

    def _key(self, score: Score) -> Hashable:
        """Equal for scores that run the same model; None for those that run none here."""
        if not isinstance(score, ModelScore) or not score.needs_tokenizer:
            return None
        loading, _ = self._loading(score)
        return "live" if loading is None else repr(loading)

    def _settings(self, score: Any) -> TokenSettings:
        wanted: TokenSettings = score.token_settings()
        if self.settings is None:
            return wanted
        length = getattr(score, "max_length", None)
        if getattr(score, "convention", "sft") == "sft" and length not in (None, self.settings.max_length):
            raise ScoreError(
                f"{type(score).__name__}(max_length={length}) is not how training cuts rows "
                f"(max_length={self.settings.max_length}). Leave it out: here rows are scored as trained."
            )
        return self.settings

    def _token_rows(
        self,
        model: Hashable,
        tokenizer: PreTrainedTokenizerBase | None,
        settings: TokenSettings | None,
        indices: np.ndarray | None,
    ) -> TokenRows:
        key = (model, settings, None if indices is None else indices.tobytes())
        if key not in self._rows:
            prepared = self.prepared if model == "live" else None
            self._rows[key] = TokenRows(self.pool, tokenizer, settings, prepared, indices)
        return self._rows[key]


def _as_trained(score: Score) -> bool:
    """Whether a score that brings its own tokenizer reads rows as training cuts them."""
    return bool(getattr(score, "as_trained", False))


def _flags_of(score: Score) -> str:
    """How `hf-datasel score` is told of a score, with the settings that differ from their defaults."""
    name, plain = spec_name(score), (str, int, float, list, tuple)
    settings = {each.name: (getattr(score, each.name), each.default) for each in fields(score)}
    changed = {
        key: value for key, (value, default) in settings.items() if value != default and isinstance(value, plain)
    }
    more = f" --scores_kwargs '{json.dumps({name: changed}, default=str)}'" if changed else ""
    return f"--scores {name}{more}"


def _named(loading: Loading | None) -> Hashable:
    return None if loading is None else (loading.name, loading.revision)
