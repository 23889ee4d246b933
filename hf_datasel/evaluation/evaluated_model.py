"""The model that is evaluated: loaded already, or by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from hf_datasel.errors import EvaluationError
from hf_datasel.scores.loss import Loss
from hf_datasel.scoring.distributed import Processes
from hf_datasel.scoring.models import Loading, load_tokenizer, tokenizer_identity
from hf_datasel.scoring.runner import ModelRunner

__all__ = ["EvaluatedModel"]


@dataclass(frozen=True)
class EvaluatedModel:
    """A causal LM with its tokenizer.

    Args:
        model: The loaded model, or its name or path.
        tokenizer: Its tokenizer.
        loading: How it is loaded; None for a loaded model.
    """

    model: Any
    tokenizer: Any
    loading: Loading | None

    @classmethod
    def of(
        cls,
        model: Any,
        processing_class: Any = None,
        revision: str | None = None,
        dtype: str = "auto",
        model_init_kwargs: dict[str, Any] | None = None,
    ) -> EvaluatedModel:
        """Check the arguments, and load the tokenizer of a model that is named.

        Args:
            model: Name or path, or a loaded causal LM.
            processing_class: Tokenizer of the loaded model.
            revision: Commit, branch or tag of a Hub model.
            dtype: Data type of the weights: "auto" or the name of a floating-point type.
            model_init_kwargs: Further arguments of `from_pretrained`.

        Raises:
            EvaluationError: The arguments do not fit each other.
            ConfigError: `dtype` or `model_init_kwargs` is invalid.
            ModelError: There is no tokenizer, or it cannot be loaded.
        """
        if isinstance(model, str | os.PathLike):
            if processing_class is not None:
                raise EvaluationError(
                    f"processing_class is for a loaded model, and model={os.fspath(model)!r} is a name, whose own "
                    "tokenizer is used. Omit processing_class, or load the model."
                )
            name = os.fspath(model)
            loading = Loss(name, revision=revision, dtype=dtype, model_init_kwargs=model_init_kwargs).loading()
            return cls(name, load_tokenizer(name, revision), loading)
        if not callable(model) or processing_class is None:
            raise EvaluationError(
                f"model={type(model).__name__} has to be the name or path of a model, or a loaded causal LM together "
                "with its tokenizer: processing_class=..."
            )
        if revision is not None or dtype != "auto" or model_init_kwargs is not None:
            raise EvaluationError(
                "revision, dtype and model_init_kwargs are for a model that is named, and this one is loaded already."
            )
        return cls(model, processing_class, None)

    def runner(self, tokens_per_batch: int | None) -> ModelRunner:
        """Return a runner of the model, on the processes of this run.

        Args:
            tokens_per_batch: Maximum number of padded tokens in a batch; see `ModelRunner`.
        """
        live = self.model if self.loading is None else None
        runner = ModelRunner(live, tokens_per_batch, processes=Processes.current())
        return runner if self.loading is None else runner.with_model(self.loading)

    def describe(self) -> dict[str, Any]:
        """Return name and identity of the model as plain values; a loaded model has a name and no identity."""
        config = getattr(self.model, "config", None)
        return {
            "name": self.loading.name if self.loading else getattr(config, "name_or_path", "") or None,
            "identity": self.loading.identity() if self.loading else None,
            "tokenizer": tokenizer_identity(self.tokenizer),
        }
