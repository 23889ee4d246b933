"""LESS with its warm-up: rows with the highest influence on a target task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from hf_datasel._lazy import torch
from hf_datasel.errors import ConfigError, ModelError, SelectionError
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector, check_number, round_epochs
from hf_datasel.rounds.warmup_selector import WarmupSelector
from hf_datasel.scores import Influence
from hf_datasel.scoring.base import Score
from hf_datasel.scoring.models import check_model_exists
from hf_datasel.scoring.target_rows import TargetSettings
from hf_datasel.selectors.less_top import LESSTop
from hf_datasel.selectors.random import Random

if TYPE_CHECKING:
    from hf_datasel.scoring.engine import Engine

__all__ = ["LESS"]

_INFLUENCE_SETTINGS = (
    "validation",
    "validation_config",
    "validation_split",
    "validation_columns",
    "subtask",
    "aggregate",
    "projection_dim",
    "seed",
    "learning_rates",
    "gradients",
    "dtype",
    "model_init_kwargs",
)
_DEFAULT_RATIO = 0.05
_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused")
"""Optimizers whose state `Influence` can read."""


@dataclass(frozen=True)
class LESS(TargetSettings, WarmupSelector):
    """Rows with the highest influence on a target task, at the checkpoints of a warm-up on random rows.

    One run does everything: it trains the warm-up and saves a checkpoint after each of its epochs, computes the
    influence of the whole pool at these checkpoints, and trains the base model on the selection. The warm-up trains as
    the run does: with LoRA (`use_peft`) gradients are those of the adapter, as in the paper, otherwise those of the
    whole model. It needs AdamW in full precision, a learning rate above 0, and checkpoints with the state of the
    optimizer. Rows, including those of the target, are truncated as in training.

    The settings are those of `Influence`. The base model of an adapter is loaded again by its name, so it needs one,
    and must be the same there. If the influence or the checkpoints of another run exist already, use `LESSTop`, which
    also selects without training.

    Cost: a warm-up, and one backward pass over all rows per checkpoint. Projecting gradients takes longer the more
    parameters are trained, so use an adapter.

    Reference: Xia et al. 2024 (2402.04333), whose warm-up has 5 % of the pool and 4 epochs, and who select the top 5
    %. Xia et al. 2024 (2410.09335) warm up on 10,000 rows, `warmup_size=10_000`, and use 1,000 random rows of the pool
    as the target, with `aggregate="mean"`.

    >>> [step.epochs for step in LESS(validation="bbh.jsonl").plan(2600, num_epochs=3, pool_size=52_000)]
    [4, 3]

    Args:
        validation: Rows of the target task: a file, a folder or a dataset on the Hub.
        validation_config: Configuration of a dataset on the Hub.
        validation_split: Split of `validation`.
        validation_columns: Names of the columns of the validation rows; see `Influence`.
        subtask: Column of the validation rows that names the subtask of a row; None treats all rows as one subtask.
        aggregate: How the cosine similarities with the validation rows are combined; see `Influence`.
        projection_dim: Number of dimensions that gradients are projected to.
        seed: Random seed of the projection.
        learning_rates: Weights of the checkpoints, one per epoch of the warm-up; None uses the logged learning rates.
        gradients: Folder in which the projected training gradients are stored.
        dtype: Dtype of the weights at the checkpoints; `"auto"` is that of the model in training.
        model_init_kwargs: Further arguments of `from_pretrained`, as the model in training was loaded with. A
            quantized model needs its `quantization_config` here.
        warmup_ratio: Share of the rows that can be trained on for the warm-up, rounded down.
        warmup_size: Number of rows of the warm-up, instead of `warmup_ratio`.
        warmup_epochs: Number of epochs of the warm-up, each with a checkpoint.
    """

    aggregate: Literal["code", "paper", "mean"] = field(default="code", kw_only=True)
    projection_dim: int = field(default=8192, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    learning_rates: tuple[float, ...] | None = field(default=None, kw_only=True)
    gradients: str | None = field(default=None, kw_only=True)
    dtype: str = field(default="auto", kw_only=True)
    model_init_kwargs: dict[str, Any] | None = field(default=None, kw_only=True)
    warmup_ratio: float = field(default=_DEFAULT_RATIO, kw_only=True)
    warmup_size: int | None = field(default=None, kw_only=True)
    warmup_epochs: int = field(default=4, kw_only=True)

    title: ClassVar[str] = "LESS with warm-up"
    citation = Influence.citation
    keeps_checkpoints: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "warmup_epochs", 1, 1_000, integer=True)
        check_number(self, "warmup_ratio", 0, 1, exclude_low=True)
        if self.warmup_size is not None:
            check_number(self, "warmup_size", 1, integer=True)
            if self.warmup_ratio != _DEFAULT_RATIO:
                raise ConfigError(
                    f"LESS(warmup_ratio={self.warmup_ratio!r}, warmup_size={self.warmup_size!r}): leave one of them "
                    "out."
                )
        object.__setattr__(self, "learning_rates", self._influence_before_training().learning_rates)

    def check_training(self, args: Any) -> None:
        """Raise if training would save no state of AdamW that `Influence` can read, or if its learning rate is 0."""
        if args.save_only_model:
            raise ConfigError("LESS reads the optimizer's state in checkpoints: leave save_only_model out.")
        optim = str(getattr(args.optim, "value", args.optim))
        if optim not in _OPTIMIZERS:
            raise ConfigError(
                f"LESS reads the moments of AdamW, in full precision, in checkpoints, and optim={optim!r} does not "
                f"save them: make it one of {', '.join(map(repr, _OPTIMIZERS[:2]))}."
            )
        if args.learning_rate == 0:
            raise ConfigError(
                "LESS weighs its checkpoints by their learning rates, and with learning_rate=0 they would all be the "
                "base model: make it more than 0."
            )

    def influence(self, checkpoints: Sequence[str]) -> Influence:
        """Return the score that rows are selected by, at these checkpoints of the model in training."""
        return _RunInfluence(checkpoints=tuple(checkpoints), **self._settings())

    def later_scores(self) -> tuple[Score, ...]:
        """Return the scores that later rounds compute."""
        return (self._influence_before_training(),)

    def _influence_before_training(self) -> Influence:
        """Return the score without checkpoints, which validates its settings."""
        return self.influence([f"epoch {epoch}" for epoch in range(1, self.warmup_epochs + 1)])

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _INFLUENCE_SETTINGS}

    def warmup_budget(self, pool_size: int) -> int:
        """Return the number of rows of the warm-up, at least 1."""
        if self.warmup_size is not None:
            return self.warmup_size
        return max(int(round_epochs(self.warmup_ratio * pool_size)), 1)

    def warmup(self, context: RoundContext) -> Selector:
        """Return the selector of the warm-up rows."""
        return Random()

    def final(self, context: RoundContext) -> Selector:
        """Return the selector of the rows after the warm-up."""
        if not context.checkpoints:  # `explain` of an earlier run
            settings = {**self._settings(), "learning_rates": None}
            return LESSTop(by=_RecordedInfluence(checkpoints=("warm-up",), **settings))
        return LESSTop(by=self.influence([str(checkpoint) for checkpoint in context.checkpoints]))

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows of this round.

        Raises:
            SelectionError: The checkpoints of the warm-up are missing, one per epoch.
        """
        if context.index and len(context.checkpoints) != self.warmup_epochs:
            raise SelectionError(
                f"{context.record.caller} needs the checkpoints of its warm-up, one per epoch: "
                f"{len(context.checkpoints):,} of {self.warmup_epochs:,} exist. SelectiveSFTTrainer saves them in "
                "output_dir: do not delete them. LESSTop(by=Influence(checkpoints=...)) selects the same way at any "
                "checkpoints."
            )
        return super().select(context)


@dataclass(frozen=True)
class _RunInfluence(Influence):
    """Influence at checkpoints of the model in training."""

    def _identity(self) -> str:
        """Return what determines the values apart from the settings and the checkpoints, which the run saves."""
        return f"v{self.version}:{self._source().digest}"

    def for_training(self, run: Engine) -> Influence:
        """Return this score with the dtype of the model in training, if `dtype` is `"auto"`.

        Args:
            run: Engine with the model in training, its tokenizer and its optimizer.

        Raises:
            ConfigError: The run trains an adapter that cannot be loaded again, or its optimizer saves no moments that
                can be assigned to parameters.
            ScoreError: No validation row has a response after truncation.
        """
        model = run.model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        adapters = getattr(model, "peft_config", None)
        name = next(iter(adapters)) if adapters else None
        if base is not model:  # PEFT's, which puts each other adapter into a folder of its own
            name = "default"
            if model.active_adapters != [name]:
                raise ConfigError(
                    "LESS reads the adapter beside the optimizer in checkpoints, where PEFT saves the one that is "
                    f"called 'default', and the model in training has {', '.join(map(repr, model.active_adapters))}: "
                    "leave adapter_name out of get_peft_model."
                )
        if adapters and name is not None:
            _check_kind(adapters[name])
            self._check_base(base, adapters[name])
        if run.optimizer is not None:
            _check_optimizer(run.optimizer, model, name)
        self._task(run.tokenizer, run.settings or self.token_settings())
        return replace(self, dtype=str(base.dtype).removeprefix("torch.")) if self.dtype == "auto" else self

    def _check_base(self, base: Any, adapter: Any) -> None:
        name = adapter.base_model_name_or_path or base.config.name_or_path
        action = "LESS loads the base model of its adapters again by name"
        if not name:
            raise ConfigError(f"{action}, and the model in training has none: load it from a folder or from the Hub.")
        try:
            check_model_exists(name, adapter.revision)
        except ModelError as error:
            raise ConfigError(f"{action}, and that of the model in training cannot be found. {error}") from error
        quantizer = getattr(base, "hf_quantizer", None)
        is_saved_quantized = quantizer is not None and getattr(quantizer, "pre_quantized", False)
        has_config = (self.model_init_kwargs or {}).get("quantization_config")
        if getattr(base, "is_quantized", False) and not is_saved_quantized and not has_config:
            raise ConfigError(
                f"{action}, and the model in training was quantized when {name!r} was loaded: pass "
                "model_init_kwargs={'quantization_config': {...}} to LESS as well, such as {'load_in_4bit': True}."
            )


def _check_kind(adapter: Any) -> None:
    """Raise if transformers cannot load an adapter again as PEFT saves it."""
    kind = str(getattr(adapter.peft_type, "value", adapter.peft_type))
    if kind != "LORA" or getattr(adapter, "use_dora", False):
        kind = "DoRA" if kind == "LORA" else kind
        raise ConfigError(
            f"LESS loads the adapters of its checkpoints again, which is supported for LoRA, not for {kind}: train "
            "LoRA (without use_dora), or the whole model."
        )


def _check_optimizer(optimizer: Any, model: torch.nn.Module, adapter: str | None) -> None:
    """Raise if the moments of an optimizer cannot be read from a checkpoint.

    Args:
        optimizer: Optimizer of the run, possibly wrapped by accelerate.
        model: Model in training.
        adapter: Name of the adapter whose parameters are trained; None for the whole model.

    Raises:
        ConfigError: It is not AdamW, or has other parameters.
    """
    from transformers import Trainer

    inner = getattr(optimizer, "optimizer", optimizer)
    kind = type(inner)
    if not issubclass(kind, torch.optim.Adam | torch.optim.AdamW) and "FusedAdam" not in kind.__name__:
        raise ConfigError(
            "LESS reads the moments of AdamW, in full precision, in checkpoints, and the trainer was given "
            f"{kind.__name__}, which does not save them: do not pass optimizers, or pass torch.optim.AdamW."
        )
    parameters = dict(model.named_parameters())
    names = [name for name in parameters if adapter is None or adapter in name.split(".")]
    trained = {id(parameter) for group in inner.param_groups for parameter in group["params"]}
    missing = [name for name in names if id(parameters[name]) not in trained]
    part = "the model" if adapter is None else "the adapter"
    if missing:
        raise ConfigError(
            f"LESS reads the moments of all parameters of {part} in checkpoints, and the optimizer has none of "
            f"{len(missing):,} of the {len(names):,}, such as {missing[0]!r}. Train all of {part}"
            f"{', or an adapter (use_peft)' if adapter is None else ''}."
        )
    decay_names = set(Trainer.get_decay_parameter_names(None, model))
    by_decay = [
        [id(parameters[name]) for name in names if (name in decay_names) == decays] for decays in (True, False)
    ]
    groups = [[id(parameter) for parameter in group["params"]] for group in inner.param_groups if group["params"]]
    if groups not in ([[id(parameters[name]) for name in names]], [group for group in by_decay if group]):
        raise ConfigError(
            "LESS assigns the moments in checkpoints to parameters by their order, which has to be that of Trainer's "
            f"own AdamW with all of {part}, and nothing else, in training: do not pass optimizers, and do not "
            "unfreeze other parameters."
        )


@dataclass(frozen=True)
class _RecordedInfluence(Influence):
    """Influence as a selection recorded it; its checkpoints may no longer exist."""

    def spec(self) -> dict[str, Any]:
        """Return name and settings, for the record."""
        return Score.spec(self)
