"""Compute scores for the rows of a pool: shared by `score`, `select` and the trainer."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hf_datasel.errors import FormatError, ScoreError
from hf_datasel.formats import Pool
from hf_datasel.formats.rows import no_text
from hf_datasel.scoring.base import Columns, ModelScore, Score
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.first_round import FirstRoundLosses
from hf_datasel.scoring.models import (
    Loading,
    Models,
    check_max_length,
    load_config,
    load_tokenizer,
    tokenizer_identity,
)
from hf_datasel.scoring.outputs import KnownLosses, ResultStore
from hf_datasel.scoring.runner import ModelRunner
from hf_datasel.scoring.setting_files import named_files
from hf_datasel.scoring.vector_files import ColumnFiles
from hf_datasel.spec import changed_settings, spec_name
from hf_datasel.tokens import PreparedDataset, TokenRows, TokenSettings
from hf_datasel.tokens.presets import PRESETS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = ["Engine", "no_model"]


@dataclass
class Engine:
    """Computes scores for the rows of one pool with one default model; equal forward passes are run once.

    Under a launcher it shards batches across processes; results equal those of one process, and the main process
    writes them.

    Args:
        pool: The dataset, read as instruction rows.
        model: Model of the scores that name none: a causal LM together with `tokenizer`, or a name or path.
        tokenizer: Tokenizer of the causal LM.
        tokens_per_batch: Maximum number of padded tokens in a scoring batch; see `ModelRunner`.
        autocast: Data type to run models in with autocast; None runs them in the data type of their weights.
        settings: How training truncates and labels rows, in a trainer.
        prepared: The tokenized rows of the trainer.
        progress: Whether to show a progress bar if stderr is a terminal.
        store: Score store that results are read from and written to.
        models: Cache of models loaded by name.
        training_losses: Losses of the model that are known from its training.
        first_round_losses: Losses of the model in earlier rounds of its training.
        optimizer: Optimizer that the model is trained with.
        column_files: Files of columns of vectors.
        num_proc: Number of processes that tokenize rows, as in `Dataset.map`; in a trainer that of `settings`.

    Attributes:
        messages: What the first row without the last score shows about its reason, by reason; see `TokenRows`.
    """

    pool: Pool
    model: Any = None
    tokenizer: PreTrainedTokenizerBase | None = None
    tokens_per_batch: int | None = None
    autocast: torch.dtype | None = None
    settings: TokenSettings | None = None
    prepared: PreparedDataset | None = None
    progress: bool = True
    store: ResultStore | None = None
    models: Models = field(default_factory=Models)
    training_losses: KnownLosses | None = None
    first_round_losses: FirstRoundLosses | None = None
    optimizer: Any = None
    column_files: ColumnFiles = field(default_factory=ColumnFiles)
    num_proc: int | None = None
    messages: dict[str, str] = field(default_factory=dict, init=False)
    _rows: dict[tuple[Hashable, TokenSettings | None, bytes | None], TokenRows] = field(
        default_factory=dict, init=False
    )
    _runner: tuple[Hashable, ModelRunner] | None = field(default=None, init=False)
    """Runner of the current model with its results, and the key of the model."""

    def __post_init__(self) -> None:
        if isinstance(self.model, os.PathLike):
            self.model = os.fspath(self.model)
        if self.model is None or isinstance(self.model, str):
            if self.tokenizer is not None:
                raise ScoreError(
                    f"processing_class is for a loaded model, and model={self.model!r} is none: a model that is named "
                    "has its own tokenizer. Omit processing_class, or pass the loaded model."
                )
            return
        if not callable(self.model):
            raise ScoreError(
                f"model={self.model!r} has to be the name or path of a model, or a loaded model together with "
                "processing_class."
            )
        if self.tokenizer is None:
            raise ScoreError(
                f"A loaded model ({type(self.model).__name__}) needs its tokenizer: pass processing_class=... too."
            )

    def compute(self, score: Score, indices: np.ndarray | None = None) -> Columns:
        """Compute the columns of a score.

        If `indices` is empty, the settings are checked, but no model is loaded and nothing is computed.

        Args:
            score: The score.
            indices: Pool rows to score, in this order; None scores all of them.

        Returns:
            The columns by name with the score's prefix, one value per row of `indices`.

        Raises:
            ScoreError: The score needs a model and there is none, or it truncates rows differently from training.
        """
        score = self._for_training(score)
        if self.pool.format == "tokenized":
            self._check_tokens(score)
        if score.not_in_batches and indices is not None and len(indices):
            return {name: column.take(pa.array(indices)) for name, column in self.compute(score).items()}
        rows, runner = self._inputs(score, indices)
        if indices is not None and not len(indices):
            score.check(len(self.pool))
            score.check_inputs(rows, runner)
            return {f"{score.column_prefix}{name}": pa.array([], dtype) for name, dtype in score.columns().items()}
        columns = score.compute(rows, runner)
        self.messages = rows.messages
        return {f"{score.column_prefix}{name}": column for name, column in columns.items()}

    def announce(self, scores: Sequence[Score], indices: np.ndarray | None = None) -> None:
        """Announce the scores to compute next, so that one forward pass computes what several of them need.

        Args:
            scores: Scores that run the same model.
            indices: Pool rows to score, as in `compute`.
        """
        for score in scores:
            score.announce(*self._inputs(score, indices))

    def release(self, indices: np.ndarray) -> None:
        """Free the tokens of rows, and what the current model has computed.

        Args:
            indices: Pool rows, as passed to `compute`.
        """
        for key in [key for key in self._rows.copy() if key[2] == indices.tobytes()]:
            del self._rows[key]
        if self._runner is not None:
            self._runner[1].release()

    def reads_rows_alone(self, score: Score) -> bool:
        """Return whether a part of the pool is tokenized as it is among all rows.

        It is not if the labels of all rows decide what comes before a response, or if there is no chat template and
        rows may be text beside conversations: these are null then, while it is an error if all rows are conversations.

        Args:
            score: A score that reads token ids.
        """
        from datasets import Json

        if self.pool.format == "tokenized":
            return False
        features = (self.pool.dataset.features[name] for name in self.pool.columns)
        has_json = any(isinstance(feature, Json) for feature in features)
        return not has_json or self._loading(score)[1].chat_template is not None

    def group_by_model(self, scores: Sequence[Score]) -> list[list[Score]]:
        """Return the scores in groups that run one model each, so that each model is loaded once."""
        groups: dict[Hashable, list[Score]] = {}
        for score in scores:
            groups.setdefault(self._key(score), []).append(score)
        return list(groups.values())

    def describe(self, score: Score) -> dict[str, Any]:
        """Return the spec of a score with everything else that determined its values. Call it after `compute`."""
        score = self._for_training(score)
        spec = self._identity(score)
        if files := named_files(score):
            spec["resolved_files"] = files
        if not isinstance(score, ModelScore) or not score.needs_tokenizer:
            return spec
        is_current = self._runner is not None and self._runner[0] == self._key(score)
        computed = self._runner[1].describe() if is_current and self._runner is not None else None
        return {**spec, "computed": computed}

    def identity(self, score: Score) -> dict[str, Any]:
        """Return what determines the values of a score, as far as it is known without computing them.

        It is what `describe` returns without `computed`. No model is loaded.

        Args:
            score: The score.

        Raises:
            ScoreError: The score needs a model and there is none.
        """
        return self._identity(self._for_training(score))

    def _identity(self, score: Score) -> dict[str, Any]:
        if not score.needs_tokenizer:
            spec = score.spec()
            if _reads_rows_as_trained(score) and self.settings is not None:
                spec["tokens"] = {**spec["tokens"], **asdict(self.settings.content)}
            return spec
        loading, tokenizer = self._loading(score)
        tokens = {**asdict(self._settings(score).content), "tokenizer": tokenizer_identity(tokenizer)}
        spec = {**score.spec(), "tokens": tokens}
        if spec.get("max_length") is not None:  # a convention's own length is not that of a trainer
            spec["max_length"] = tokens["max_length"]
        if isinstance(score, ModelScore) and loading is not None:
            spec["resolved_model"] = loading.identity()["weights"]
        return spec

    def _check_tokens(self, score: Score) -> None:
        """Raise if a score cannot be computed for rows that are tokenized already."""
        if score.needs_text:
            raise no_text(type(score).__name__)
        if self.settings is None or not score.needs_tokenizer:
            return
        loading, tokenizer = self._loading(score)
        if loading is not None and tokenizer_identity(tokenizer) != tokenizer_identity(self.tokenizer):
            raise FormatError(
                f"{type(score).__name__} runs {loading.name!r}, and the rows are tokenized already, with another "
                "tokenizer. Name a model with the tokenizer of the model in training, or none."
            )

    def _for_training(self, score: Score) -> Score:
        """Return the score as computed with the model in training, if it differs then."""
        is_training = self.settings is not None and self.model is not None and not isinstance(self.model, str)
        adapt = getattr(score, "for_training", None)
        adapted: Score = adapt(self) if is_training and adapt is not None else score
        return adapted

    def _inputs(self, score: Score, indices: np.ndarray | None) -> tuple[TokenRows, ModelRunner]:
        if not score.needs_tokenizer:
            if isinstance(score, ModelScore):
                self._runner = None  # the score loads models itself: release the current one first
            settings = self._settings(score) if _reads_rows_as_trained(score) else self.settings
            return self._token_rows(None, None, settings, indices), self._new_runner()
        self.check_max_length(score)
        loading, tokenizer = self._loading(score)
        tokenizer_key = "live" if loading is None else (loading.name, loading.revision)
        rows = self._token_rows(tokenizer_key, tokenizer, self._settings(score), indices)
        return rows, self._runner_of(score, loading) if isinstance(score, ModelScore) else self._new_runner()

    def check_max_length(self, score: Score) -> None:
        """Raise an error if a score was given a `max_length` above the number of positions of its model.

        In a trainer rows are truncated as in training, and this is not checked.

        Args:
            score: The score.

        Raises:
            ModelError: Names both numbers.
        """
        if self.settings is not None or not isinstance(score, ModelScore) or not score.needs_tokenizer:
            return
        if score.max_length is None or (score.model is None and self.model is None):
            return
        loading = self._loading(score)[0]
        config = self.model.config if loading is None else load_config(loading)
        check_max_length(config, score.max_length, type(score).__name__)

    def _loading(self, score: Score) -> tuple[Loading | None, Any]:
        """Return how the model of a score is loaded, None for a loaded model, and its tokenizer."""
        model = getattr(score, "model", None)
        if model is None and self.model is None:
            raise no_model(score)
        if model is None and not isinstance(self.model, str):
            return None, self.tokenizer
        revision = getattr(score, "revision", None)
        options = (score.dtype, score.kind, score.model_init_kwargs) if isinstance(score, ModelScore) else ()
        loading = Loading(model or self.model, revision, *options)
        return loading, load_tokenizer(loading.name, revision)

    def _runner_of(self, score: Score, loading: Loading | None) -> ModelRunner:
        key = self._key(score)
        if self._runner is None or self._runner[0] != key:
            self._runner = None  # release its results and its model before another model is loaded
            if loading is None:
                self._runner = (key, self._new_runner(self.model))
            else:
                self._runner = (key, self._new_runner().with_model(loading))
        return self._runner[1]

    def _new_runner(self, model: Any = None) -> ModelRunner:
        return ModelRunner(
            model,
            self.tokens_per_batch,
            self.autocast,
            self.progress,
            store=self.store,
            models=self.models,
            processes=Processes.current(),
            training_losses=self.training_losses if model is not None else None,
            first_round_losses=self.first_round_losses if model is not None else None,
            column_files=self.column_files,
        )

    def _key(self, score: Score) -> Hashable:
        """Return a key that is equal for scores that run the same model, or that read tokens or text without one."""
        if not isinstance(score, ModelScore) or not score.needs_tokenizer:
            return "tokens" if score.needs_tokenizer else None
        loading, _ = self._loading(score)
        return "live" if loading is None else repr(loading)

    def _settings(self, score: Any) -> TokenSettings:
        """Return how rows are tokenized for a score: in a trainer as in training, if the score fixes no length.

        A published convention has its own prompts. In a trainer, the scores of the model in training are truncated to
        the `max_length` of training; those of another model keep the length of their convention.
        """
        own: TokenSettings = score.token_settings()
        if self.settings is None:
            return replace(own, dataset_num_proc=self.num_proc)
        length = getattr(score, "max_length", None)
        convention = getattr(score, "convention", "sft")
        if convention in PRESETS:
            follows_training = length is None and score.model is None
            return self.settings if follows_training else replace(self.settings, max_length=own.max_length)
        if convention == "sft" and length not in (None, self.settings.max_length):
            raise ScoreError(
                f"{type(score).__name__}(max_length={length}) does not truncate rows as training does "
                f"(max_length={self.settings.max_length}). Omit it: in a trainer rows are scored as trained."
            )
        return self.settings

    def _token_rows(
        self,
        tokenizer_key: Hashable,
        tokenizer: PreTrainedTokenizerBase | None,
        settings: TokenSettings | None,
        indices: np.ndarray | None,
    ) -> TokenRows:
        key = (tokenizer_key, settings, None if indices is None else indices.tobytes())
        if key not in self._rows:
            prepared = self.prepared if tokenizer_key == "live" else None
            self._rows[key] = TokenRows(self.pool, tokenizer, settings, prepared, indices, collective=True)
        return self._rows[key]


def no_model(score: Score, reason: str = "") -> ScoreError:
    """Return the error for a score without a model.

    Args:
        score: The score.
        reason: Why it is not read from a column of the dataset that has its name, if there is one, as a clause.
    """
    name, why_not_read = type(score).__name__, f" It is not read from the dataset: {reason}." if reason else ""
    return ScoreError(
        f"{name} has no model to run.{why_not_read}",
        hint="Pass its name or path: model=... next to the dataset. Or compute the score once, with "
        f"hf_datasel.score(dataset, {name}(...), model=...), and select from the result.",
        cli_hint="Pass its name or path: --model_name_or_path MODEL. Or compute the score once, with "
        f"hf-datasel score {_flags_of(score)} --model_name_or_path MODEL, and select from the file that it "
        "writes.",
    )


def _reads_rows_as_trained(score: Score) -> bool:
    """Return whether a score with its own tokenizer reads rows as training truncates them."""
    return bool(getattr(score, "as_trained", False))


def _flags_of(score: Score) -> str:
    """Return the flags of `hf-datasel score` for a score with its changed settings."""
    name = spec_name(score)
    plain = (str, int, float, list, tuple)
    changed = {key: value for key, value in changed_settings(score).items() if isinstance(value, plain)}
    kwargs = f" --scores_kwargs '{json.dumps({name: changed}, default=str)}'" if changed else ""
    return f"--scores {name}{kwargs}{' --allow_imports' if ':' in name else ''}"
