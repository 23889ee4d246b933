"""LESS, with its warm-up: the rows that help most on a target task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from hf_datasel.errors import ConfigError, ModelError, SelectionError
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector, check_number, round_off
from hf_datasel.rounds.warmup_selector import WarmedSelector
from hf_datasel.scores import Influence
from hf_datasel.scoring.base import Score
from hf_datasel.scoring.models import check_model_exists
from hf_datasel.selectors.less_top import LESSTop
from hf_datasel.selectors.random import Random

if TYPE_CHECKING:
    from hf_datasel.scoring.engine import Engine

__all__ = ["LESS"]

_OF_INFLUENCE = (
    "validation",
    "validation_split",
    "subtask",
    "aggregate",
    "projection_dim",
    "seed",
    "learning_rates",
    "gradients",
    "dtype",
    "model_init_kwargs",
)
_RATIO = 0.05
_WITH_MOMENTS = ("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused")
"""Optimizers whose state `Influence` can read."""


@dataclass(frozen=True)
class LESS(WarmedSelector):
    """The rows with the highest influence on a target task, at the checkpoints of a warm-up on random rows.

    One run does it all: the warm-up, with a checkpoint after each of its epochs; the influence of the whole pool at
    these; and the training on the choice, from the base model again. The warm-up trains as the run does: with LoRA
    (`use_peft`) gradients are those of the adapter, as in the paper, else of the whole model. It takes AdamW in full
    precision, a learning rate above 0, and checkpoints with their optimizer. Rows, those of the target too, are cut
    where training cuts them.

    The settings are those of `Influence`. An adapter's base model is loaded again by its name, so that it has to have
    one, and to be as it is there. Where influence is known, or there are checkpoints of another run, `LESSTop`
    chooses by it, also without training.

    Reference: Xia et al. 2024 (2402.04333), whose warm-up has 5 % of the pool and 4 epochs, and who keep the top 5 %.
    Xia et al. 2024 (2410.09335) warm up on 10,000 rows, `warmup_size=10_000`, and take 1,000 random rows of the pool
    as the target, with `aggregate="mean"`.

    >>> [each.epochs for each in LESS(validation="bbh.jsonl").plan(2600, num_epochs=3, pool_size=52_000)]
    [4, 3]
    """

    validation: str = field(kw_only=True)
    """Rows of the target task: a file, a folder or a name on the Hub."""
    validation_split: str = field(default="train", kw_only=True)
    subtask: str | None = field(default=None, kw_only=True)
    """Column of the validation rows that says which subtask a row belongs to; None makes all of them one."""
    aggregate: Literal["code", "paper", "mean"] = field(default="code", kw_only=True)
    """Of the cosines with the validation rows; see `Influence`."""
    projection_dim: int = field(default=8192, kw_only=True)
    """Numbers that a gradient is projected to."""
    seed: int = field(default=0, kw_only=True)
    """Of the projection."""
    learning_rates: tuple[float, ...] | None = field(default=None, kw_only=True)
    """Weights of the checkpoints, one an epoch of the warm-up; None takes the learning rates that were logged."""
    gradients: str | None = field(default=None, kw_only=True)
    """Folder where the projected training gradients are kept."""
    dtype: str = field(default="auto", kw_only=True)
    """Of the weights at the checkpoints; "auto" is that of the model in training."""
    model_init_kwargs: dict[str, Any] | None = field(default=None, kw_only=True)
    """More arguments of `from_pretrained`, as the model in training was loaded with; one that was quantised then needs
    its `quantization_config` here."""
    warmup_ratio: float = field(default=_RATIO, kw_only=True)
    """Share of the rows that can be trained on for the warm-up, rounded down; or"""
    warmup_size: int | None = field(default=None, kw_only=True)
    """its rows."""
    warmup_epochs: int = field(default=4, kw_only=True)
    """Passes over the rows of the warm-up, with a checkpoint after each."""

    title: ClassVar[str] = "LESS with warm-up"
    citation = Influence.citation
    keeps_checkpoints: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "warmup_epochs", 1, whole=True)
        check_number(self, "warmup_ratio", 0, 1, open_low=True)
        if self.warmup_size is not None:
            check_number(self, "warmup_size", 1, whole=True)
            if self.warmup_ratio != _RATIO:
                raise ConfigError(
                    f"LESS(warmup_ratio={self.warmup_ratio!r}, warmup_size={self.warmup_size!r}): leave one of them "
                    "out."
                )
        object.__setattr__(self, "learning_rates", self._at_each_epoch().learning_rates)

    def check_training(self, args: Any) -> None:
        if args.save_only_model:
            raise ConfigError("LESS reads the optimizer's state in checkpoints: leave save_only_model out.")
        optim = str(getattr(args.optim, "value", args.optim))
        if optim not in _WITH_MOMENTS:
            raise ConfigError(
                f"LESS reads the moments of AdamW, in full precision, in checkpoints, and optim={optim!r} does not "
                f"save them: make it one of {', '.join(map(repr, _WITH_MOMENTS[:2]))}."
            )
        if args.learning_rate == 0:
            raise ConfigError(
                "LESS weighs its checkpoints by their learning rates, and with learning_rate=0 they would all be the "
                "base model: make it more than 0."
            )

    def influence(self, checkpoints: Sequence[str]) -> Influence:
        """The score that rows are chosen by, at these checkpoints of the model in training."""
        return _OfThisRun(checkpoints=tuple(checkpoints), **self._settings())

    def later_scores(self) -> tuple[Score, ...]:
        return (self._at_each_epoch(),)

    def _at_each_epoch(self) -> Influence:
        """The score before there are checkpoints, to see whether its settings can be."""
        return self.influence([f"epoch {at + 1}" for at in range(self.warmup_epochs)])

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OF_INFLUENCE}

    def warmup_budget(self, pool_size: int) -> int:
        if self.warmup_size is not None:
            return self.warmup_size
        return max(int(round_off(self.warmup_ratio * pool_size)), 1)

    def warmup(self, round: Round) -> Selector:
        return Random()

    def final(self, round: Round) -> Selector:
        if not round.checkpoints:  # a choice of an earlier run that is looked at again
            return LESSTop(by=_Recorded(checkpoints=("warm-up",), **{**self._settings(), "learning_rates": None}))
        return LESSTop(by=self.influence([str(each) for each in round.checkpoints]))

    def choose(self, round: Round) -> np.ndarray:
        """The rows of the round.

        Raises:
            SelectionError: the warm-up has not left a checkpoint for each epoch.
        """
        if round.index and len(round.checkpoints) != self.warmup_epochs:
            raise SelectionError(
                f"{round.asker} reads the checkpoints of its warm-up, one an epoch, and of {self.warmup_epochs:,} "
                f"there are {len(round.checkpoints):,}. SelectiveSFTTrainer and hf-datasel train save them in "
                "output_dir: leave them there. LESSTop(by=Influence(checkpoints=...)) chooses the same way at any "
                "checkpoints."
            )
        return super().choose(round)


@dataclass(frozen=True)
class _OfThisRun(Influence):
    """Influence at checkpoints of the model that is being trained."""

    def beside(self, run: Engine) -> Influence:
        """The same, with the dtype of the model in training where none is said.

        Args:
            run: with the live model, as it is trained, its tokenizer and its optimizer.

        Raises:
            ConfigError: it trains an adapter that cannot be loaded again as it is, or its optimizer saves no moments
                that can be told apart.
            ScoreError: none of the validation rows has a response where training cuts it.
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
        way = "LESS loads the base model of its adapters again by name"
        if not name:
            raise ConfigError(f"{way}, and the model in training has none: load it from a folder or from the Hub.")
        try:
            check_model_exists(name, adapter.revision)
        except ModelError as error:
            raise ConfigError(f"{way}, and that of the model in training means nothing here. {error}") from error
        quantizer = getattr(base, "hf_quantizer", None)
        quantised_there = quantizer is not None and getattr(quantizer, "pre_quantized", False)
        given = (self.model_init_kwargs or {}).get("quantization_config")
        if getattr(base, "is_quantized", False) and not quantised_there and not given:
            raise ConfigError(
                f"{way}, and the model in training was quantised when {name!r} was loaded: pass "
                "model_init_kwargs={'quantization_config': {...}} to LESS as well, such as {'load_in_4bit': True}."
            )

    def spec(self) -> dict[str, Any]:
        return {**super().spec(), "score": "Influence"}


def _check_kind(adapter: Any) -> None:
    """Refuse an adapter that transformers does not load again as PEFT has saved it."""
    kind = str(getattr(adapter.peft_type, "value", adapter.peft_type))
    if kind != "LORA" or getattr(adapter, "use_dora", False):
        kind = "DoRA" if kind == "LORA" else kind
        raise ConfigError(
            f"LESS loads the adapters of its checkpoints again, and knows how to for LoRA, not for {kind}: train LoRA "
            "(without use_dora), or the whole model."
        )


def _check_optimizer(optimizer: Any, model: torch.nn.Module, adapter: str | None) -> None:
    """Refuse an optimizer whose moments cannot be read from a checkpoint.

    Args:
        optimizer: of the run, as accelerate wraps it or bare.
        model: in training.
        adapter: whose parameters are looked at; None: those of the whole model.

    Raises:
        ConfigError: it is not AdamW, or of other parameters.
    """
    from transformers import Trainer

    inner = getattr(optimizer, "optimizer", optimizer)
    kind = type(inner)
    if not issubclass(kind, torch.optim.Adam | torch.optim.AdamW) and "FusedAdam" not in kind.__name__:
        raise ConfigError(
            "LESS reads the moments of AdamW, in full precision, in checkpoints, and the trainer was given "
            f"{kind.__name__}, which does not save them: leave optimizers out, or make it torch.optim.AdamW."
        )
    named = dict(model.named_parameters())
    wanted = [name for name in named if adapter is None or adapter in name.split(".")]
    trained = {id(each) for group in inner.param_groups for each in group["params"]}
    missing = [name for name in wanted if id(named[name]) not in trained]
    whole = "the model" if adapter is None else "the adapter"
    if missing:
        raise ConfigError(
            f"LESS reads the moments of all parameters of {whole} in checkpoints, and the optimizer has none of "
            f"{len(missing):,} of the {len(wanted):,}, such as {missing[0]!r}. Train all of {whole}"
            f"{', or an adapter (use_peft)' if adapter is None else ''}."
        )
    with_decay = set(Trainer.get_decay_parameter_names(None, model))
    split = [[id(named[name]) for name in wanted if (name in with_decay) == decays] for decays in (True, False)]
    groups = [[id(each) for each in group["params"]] for group in inner.param_groups if group["params"]]
    if groups not in ([[id(named[name]) for name in wanted]], [each for each in split if each]):
        raise ConfigError(
            f"LESS tells the moments in checkpoints apart by their order, which has to be that of Trainer's own AdamW "
            f"with all of {whole}, and nothing else, in training: leave optimizers out, and unfreeze nothing more."
        )


@dataclass(frozen=True)
class _Recorded(Influence):
    """Influence as a selection has recorded it, whose checkpoints may be gone."""

    def spec(self) -> dict[str, Any]:
        return Score.spec(self)
