"""`SFTConfig` with the settings of the selection."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from trl import SFTConfig

from hf_datasel.errors import ConfigError, check_option
from hf_datasel.selection import resolve_size
from hf_datasel.spec import name_and_settings
from hf_datasel.training.order import SelectionOrder, plain_order
from hf_datasel.training.step_filter import step_filter_of

__all__ = ["SelectiveSFTConfig", "data_seed", "without_secrets"]

_STRATEGIES = ("epoch", "steps", "no")
_DTYPES = (None, "bfloat16", "float16")
_REPO_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_SECRETS = ("hub_token", "push_to_hub_token", "token", "use_auth_token")
"""Fields, and arguments of `from_pretrained`, that are never written to a file."""


@dataclass
class SelectiveSFTConfig(SFTConfig):
    r"""Configuration class for the [`SelectiveSFTTrainer`].

    This class includes only the parameters that are specific to the selection of training rows. All parameters of
    [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`] keep their meaning and their defaults.

    Using [`~transformers.HfArgumentParser`] we can turn this class into
    [argparse](https://docs.python.org/3/library/argparse#module-argparse) arguments that can be specified on the
    command line.

    Parameters:
        > Parameters that control which rows are selected

        selector (`str`, *optional*, defaults to `"iterit"`):
            Name of the selector, or its name with settings, as in `{"top": {"by": "ifd"}}`. `hf-datasel list` prints
            all names.
        selector_kwargs (`dict[str, Any]`, *optional*):
            Settings of the selector, for example `{"decay": 0.0}`.
        selection_size (`int`, *optional*):
            Number of rows to train on per round. Cannot be combined with `selection_ratio`.
        selection_ratio (`float`, *optional*):
            Share of all rows to train on per round, rounded down to a number of rows. If neither `selection_size` nor
            `selection_ratio` is set, it is 0.05.
        selection_schedule (`list[int]`, *optional*):
            Number of rows of each round, if the rounds differ in size. Replaces `selection_size` and
            `selection_ratio`.

        > Parameters that control how rows are read

        columns (`dict[str, str]`, *optional*):
            Names of the columns of a row format, or `role` and `content` of messages, and the names that the datasets
            have for them, for example `{"prompt": "question", "completion": "answer"}`. Evaluation rows that do not
            have these columns are read without it.

        > Parameters that control when rows are selected

        reselection_strategy (`str`, *optional*, defaults to `"epoch"`):
            When rows are selected again with the current model. Possible values are:

            - `"epoch"`: before every epoch, for selectors that use the current model, such as `IterIT`. Most other
              selectors select once, and some define their own rounds.
            - `"steps"`: every `reselection_steps` updates.
            - `"no"`: never. Rows are selected once, before training.

        reselection_steps (`int`, *optional*):
            Number of optimizer updates between two selections if `reselection_strategy="steps"`. The length of the run
            does not change: `num_train_epochs` passes over as many rows as a round has, or `max_steps` updates. If a
            round is longer than one pass over its rows, the rows are repeated; if it is shorter, some rows are not
            trained on. In the logs and for everything that happens once per epoch, an epoch is one pass over the rows
            of a round, or the part of the pass that is trained on.

        > Parameters that control the order of training

        selection_order (`str` or `dict[str, Any]`, *optional*, defaults to `"random"`):
            Order in which a round trains on its rows. Possible values are:

            - `"random"`: as `train_sampling_strategy` says, shuffled in every epoch by default.
            - `"selected"`: in the order of the selection, best first.
            - `"reversed"`: best last.
            - a dict with some of these keys, for example `{"by": "difficulty", "pattern": "folded", "folds": 3}`:

                - `by`: a column of numbers, or a score, as in `{"score": "loss"}`. Without a model of its own, a score
                  is that of the model at the beginning of the round. Left out: the order of the selection.
                - `descending`: whether the highest value comes first (`False` by default).
                - `pattern`: `"sorted"` (the default); `"folded"`: sorted rows are dealt into `folds`, each of which
                  goes from low to high; `"segmented"`: sorted rows are cut into `segments` of equal size, or into one
                  for each value of `by`, and shuffled within each segment in every epoch.

            Rows without a value come last, with a warning. All epochs of a round go through the same order but for the
            shuffling, and each begins with its first row: a part of an epoch trains on the first part of the order,
            and `dataloader_drop_last` drops the same last rows in every epoch. The order is that of one process,
            also with several processes, gradient accumulation and `dataloader_num_workers`. It cannot be combined with
            `shuffle_dataset`, with a `train_sampling_strategy` by length, or with `packing`, except for
            `packing_strategy="wrapped"`, which keeps the order (but not with segments).

        > Parameters that control the loss of the selected rows

        step_filter (`str` or `dict[str, Any]`, *optional*):
            Which rows of each batch are trained on, by their losses in that step: the name of a filter, or one name
            and its settings. Possible values are:

            - `{"tail_sft": {"fraction": 0.5, "schedule": "ramp"}}` (TailSFT, 2608.25756): drops the rows whose loss
              fell furthest below that of the model before training; with the schedule `"ramp"` none in the first step
              and `fraction` of them in the last, with `"static"` always `fraction`.
            - `{"top_loss": {"ratio": 0.5}}` (Ordered SGD, OHEM): keeps the rows with the highest losses.
            - `{"bottom_loss": {"ratio": 0.5}}` and `{"middle_loss": {"ratio": 0.5}}`: keeps those with the lowest, or
              with losses in the middle.

            Rows are compared per forward pass (of all processes), not per update: gradient accumulation adds none, and
            larger batches filter better. Too few rows to ever drop one are an error. Cannot be combined with packing.
            `step_filter_dropped` in the logs is the share of rows that were dropped.

        > Parameters that control scoring

        scoring_tokens_per_batch (`int`, *optional*):
            Maximum number of tokens in a scoring batch, with padding. If not set, it is 1,024 on a CPU and 16,384
            on other devices.
        scoring_dtype (`str`, *optional*):
            Compute scores under autocast in `"bfloat16"` or `"float16"`. If not set, scores are computed in the dtype
            of the weights, which is more exact.
        score_store (`str`, *optional*):
            Folder of a score store (`hf_datasel.scoring.ScoreStore`). Results of scoring are read from it and written
            to it, so that several runs on one pool score it with the base model once, and answers of endpoints are
            requested once. The weights of the model identify its results; results that `score` has stored of the same
            model by name are found too.
        reuse_training_loss (`bool`, *optional*, defaults to `False`):
            Whether to reuse the losses of training steps as scores, which saves forward passes but is an
            approximation. For rows of the previous round, `Loss` and the conditional loss of `IFD` are then taken from
            the last training step that contained the row: with the weights before the update of that step, with
            dropout and other randomness of training, and in the precision of training. The loss of the response
            without its prompt is always computed with the current weights, so that the `IFD` of these rows is too
            high, and may reach 1, from which on `IterIT` excludes rows. The number of these rows is logged as
            `selection_rows_reused` and saved in the selections as `reused_training_loss`.

        > Parameters that control logging

        log_selected_rows (`int`, *optional*, defaults to 0):
            Number of best and of lowest ranked selected rows of each round that are sent, with their text and scores,
            as a table to the trackers of `report_to` that take tables: trackio and wandb. 0 sends none. These trackers
            also get an alert if a round selects nearly the same rows as the one before.

        > Parameters that control pushing to the Hub

        push_selection (`bool`, *optional*, defaults to `False`):
            Whether to publish the selections of all rounds as a dataset when the trained model is pushed. Pushes of
            checkpoints during training do not include them.
        selection_repo_id (`str`, *optional*):
            Repository of that dataset. If not set, it is the repository id of the model with `-selection` appended.

    Raises:
        ConfigError: A field has an invalid value or type.
    """

    _is_public = False
    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "selector_kwargs", "columns", "step_filter"]  # noqa: RUF012 (declared so by TRL)

    # Parameters that control which rows are selected
    selector: str = field(
        default="iterit",
        metadata={"help": "Name of the selector; `hf-datasel list` prints all names."},
    )
    selector_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": 'Settings of the selector, for example {"decay": 0.0}.'},
    )
    selection_size: int | None = field(
        default=None,
        metadata={"help": "Number of rows to train on per round."},
    )
    selection_ratio: float | None = field(
        default=None,
        metadata={"help": "Share of all rows to train on per round; 0.05 if selection_size is not set either."},
    )
    selection_schedule: list[int] | None = field(
        default=None,
        metadata={"help": "Number of rows of each round, if the rounds differ in size."},
    )

    # Parameters that control how rows are read
    columns: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Names of the columns of a row format, or role and content of messages, and the names that the "
            'dataset has for them, for example {"prompt": "question", "completion": "answer"}.'
        },
    )

    # Parameters that control when rows are selected
    reselection_strategy: str = field(
        default="epoch",
        metadata={
            "help": "When rows are selected again with the current model: 'epoch' (before every epoch, for "
            "selectors that use the current model, such as IterIT), 'steps' (every reselection_steps updates) or "
            "'no'.",
            "choices": list(_STRATEGIES),
        },
    )
    reselection_steps: int | None = field(
        default=None,
        metadata={"help": "Optimizer updates between two selections if reselection_strategy is 'steps'."},
    )

    # Parameters that control the order of training
    selection_order: str = field(
        default="random",
        metadata={
            "help": "Order in which a round trains on its rows: 'random', 'selected' (best first), 'reversed', or a "
            'dict such as {"by": "difficulty", "pattern": "folded", "folds": 3}, where by is a column or a score '
            '({"score": "loss"}) and the pattern is sorted, folded or segmented.'
        },
    )

    # Parameters that control the loss of the selected rows
    step_filter: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Which rows of each batch are trained on, by their losses in that step: 'tail_sft', 'top_loss', "
            "'bottom_loss' or 'middle_loss', or one of them with its settings, for example "
            '{"tail_sft": {"fraction": 0.5}}. Rows are compared per forward pass, not per update: the filter needs a '
            "per_device_train_batch_size above 1."
        },
    )

    # Parameters that control scoring
    scoring_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of tokens in a scoring batch, with padding; by default 1,024 on a CPU and 16,384 "
            "on other devices."
        },
    )
    scoring_dtype: str | None = field(
        default=None,
        metadata={
            "help": "Compute scores under autocast in 'bfloat16' or 'float16'; by default in the dtype of the weights."
        },
    )
    score_store: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a score store: results of scoring are read from it and written to it, so that several "
            "runs on one pool score it with the base model once."
        },
    )
    reuse_training_loss: bool = field(
        default=False,
        metadata={
            "help": "Reuse the losses of training steps as scores of the rows of the previous round. This saves "
            "forward passes, but is an approximation: they are computed with dropout and with the weights of that "
            "step."
        },
    )

    # Parameters that control logging
    log_selected_rows: int = field(
        default=0,
        metadata={
            "help": "Number of best and of lowest ranked selected rows of each round that are sent to trackio and "
            "wandb as a table, with their text."
        },
    )

    # Parameters that control pushing to the Hub
    push_selection: bool = field(
        default=False,
        metadata={"help": "Publish the selections of all rounds as a dataset when the model is pushed."},
    )
    selection_repo_id: str | None = field(
        default=None,
        metadata={
            "help": "Repository of the published selections; by default that of the model with '-selection' appended."
        },
    )

    def __post_init__(self) -> None:
        self._split_selector()
        self.selection_order = plain_order(_from_json("selection_order", self.selection_order))
        self.step_filter = _from_json("step_filter", self.step_filter)
        step_filter_of(self.step_filter)  # raises for invalid settings
        self._user_values = self._values()
        super().__post_init__()
        self.mark_derived()
        resolve_size(1, self.selection_size, self.selection_ratio, ("selection_size", "selection_ratio"))
        if self.selection_schedule is not None:
            self._check_schedule(self.selection_schedule)
        check_option(f"reselection_strategy={self.reselection_strategy!r}", self.reselection_strategy, _STRATEGIES)
        self._check_steps()
        order = SelectionOrder.of(self.selection_order)
        if order is not None:
            order.check_training(self)
        check_option(f"scoring_dtype={self.scoring_dtype!r}", self.scoring_dtype, _DTYPES)
        tokens = self.scoring_tokens_per_batch
        if tokens is not None and (not isinstance(tokens, int) or tokens < 1):
            raise ConfigError(f"scoring_tokens_per_batch={tokens!r} has to be an int above 0.")
        if type(self.log_selected_rows) is not int or self.log_selected_rows < 0:
            raise ConfigError(f"log_selected_rows={self.log_selected_rows!r} has to be an int of at least 0.")
        for name in ("reuse_training_loss", "push_selection"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={getattr(self, name)!r} has to be True or False.")
        repo_id = self.selection_repo_id
        if repo_id is not None and not (isinstance(repo_id, str) and _REPO_ID.fullmatch(repo_id)):
            raise ConfigError(f"selection_repo_id={repo_id!r} has to be 'name' or 'namespace/name'.")

    def user_values(self) -> dict[str, Any]:
        """Return the values of the fields as the user passed or later assigned them, without secrets.

        Values that TRL and transformers derive from them in `__post_init__` are not included.
        """
        derived = self._derived_values
        return {
            name: self._user_values[name] if value is derived[name] or value == derived[name] else value
            for name, value in self._values().items()
        }

    def mark_derived(self, user_values: dict[str, Any] | None = None) -> None:
        """Record that the current values were derived from those of the user.

        Args:
            user_values: Values of the user; None: those recorded before.
        """
        if user_values is not None:
            self._user_values = user_values
        self._derived_values = self._values()

    @contextmanager
    def hidden_secrets(self) -> Iterator[None]:
        """Exclude tokens from pickles such as training_args.bin inside the context.

        Yields:
            None. The config itself keeps its tokens, to push with.
        """
        before, self._is_public = self._is_public, True
        try:
            yield
        finally:
            self._is_public = before

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if not state.pop("_is_public", False):  # a copy for use in this process
            return state
        parsed = {name: value for name, value in self._derived_values.items() if isinstance(value, dict)}
        as_json = [name for name in parsed if isinstance(self._user_values[name], str)]
        state["_user_values"] = self._user_values | {name: parsed[name] for name in as_json}
        return {name: None if name in _SECRETS else without_secrets(value) for name, value in state.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as `SFTConfig.to_dict` does, without the tokens in `model_init_kwargs`."""
        return {name: without_secrets(value) for name, value in super().to_dict().items()}

    def _split_selector(self) -> None:
        """Move settings in `selector`, as in `{"top": {"by": "ifd"}}`, to `selector_kwargs`."""
        value = _from_json("selector", self.selector)
        if isinstance(value, str):
            return
        self.selector, settings = name_and_settings(value, "selector")
        if settings and self.selector_kwargs:
            raise ConfigError(f"selector={value!r} has settings, and so has selector_kwargs. Remove one of the two.")
        self.selector_kwargs = settings or self.selector_kwargs

    def _values(self) -> dict[str, Any]:
        names = [setting.name for setting in dataclasses.fields(self) if setting.name not in _SECRETS]
        return {name: getattr(self, name) for name in names}

    def _check_steps(self) -> None:
        steps, by_steps = self.reselection_steps, self.reselection_strategy == "steps"
        if by_steps and (type(steps) is not int or steps < 1):
            raise ConfigError(
                f"reselection_strategy='steps' needs reselection_steps, an int above 0, but it is {steps!r}."
            )
        if steps is not None and not by_steps:
            raise ConfigError(
                f"reselection_steps={steps!r} needs reselection_strategy='steps', but it is "
                f"{self.reselection_strategy!r}."
            )

    def _check_schedule(self, schedule: list[int]) -> None:
        if self.selection_size is not None or self.selection_ratio is not None:
            raise ConfigError(
                "selection_schedule sets the number of rows of every round. Remove selection_size and selection_ratio."
            )
        if not (isinstance(schedule, list) and schedule and all(type(size) is int and size > 0 for size in schedule)):
            raise ConfigError(
                f"selection_schedule={schedule!r} has to be a list of numbers of rows above 0, one for each round."
            )
        for name, is_set in (("max_steps", self.max_steps > 0), ("reselection_steps", self.reselection_steps)):
            if is_set:
                raise ConfigError(f"selection_schedule sets the number of rounds. Remove {name}.")


def _from_json(name: str, value: Any) -> Any:
    """Return the dict of a setting that is JSON, as on the command line, and any other value unchanged."""
    if not (isinstance(value, str) and value.lstrip().startswith("{")):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}={value!r} is no valid JSON: {error}.") from error


def data_seed(config: SelectiveSFTConfig) -> int:
    """Return the random seed of the order of rows, which is `seed` if `data_seed` is not set."""
    return int(config.seed if config.data_seed is None else config.data_seed)


def without_secrets(value: Any) -> Any:
    """Return a value of plain dicts and lists with None in place of each secret."""
    if isinstance(value, dict):
        return {key: None if key in _SECRETS else without_secrets(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(without_secrets(inner) for inner in value)
    return value
