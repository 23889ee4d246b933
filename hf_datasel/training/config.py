"""`SFTConfig`, and how rows are selected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from trl import SFTConfig

from hf_datasel.errors import ConfigError
from hf_datasel.selection import wanted_rows

__all__ = ["SelectiveSFTConfig", "default_of"]

_STRATEGIES = ("epoch", "steps", "no")
_DTYPES = (None, "bfloat16", "float16")
_REPO_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_SECRET = ("hub_token", "push_to_hub_token", "token", "use_auth_token")
"""Fields, and arguments of `from_pretrained`, that no file may hold."""


@dataclass
class SelectiveSFTConfig(SFTConfig):
    """`trl.SFTConfig` with the fields of a selection. All fields of `SFTConfig` keep their meaning.

    Parameters:
        selector: name of a selector (`hf-datasel list` shows them).
        selector_kwargs: its settings, such as `{"decay": 0.0}`.
        selection_size: rows trained on per round; or
        selection_ratio: share of all rows, rounded down. Without either, 0.05.
        selection_schedule: rows of each round, where they differ.
        reselection_strategy: `"epoch"` chooses again before every epoch, if that is how the selector works (IterIT;
            most others choose once, and some in rounds of their own); `"steps"` every `reselection_steps`; `"no"`
            chooses once.
        reselection_steps: optimizer updates of a round with `"steps"`. The run is as long as it is without: of
            `num_train_epochs` passes over as many rows as a round has, or of `max_steps`. A round longer than a pass
            over its rows repeats them; of a shorter one, some rows are not trained on. An epoch, in the log and where
            something happens every epoch, then is a pass over the rows of a round, or the part of it that is trained.
        scoring_tokens_per_batch: upper bound on the padded tokens of a scoring batch; by default 1,024 on a CPU, else
            16,384.
        scoring_dtype: compute scores under autocast in `"bfloat16"` or `"float16"`; by default in the weights' own
            dtype, which is the more exact of the two.
        reuse_training_loss: an approximation: a row that was trained on in the round before is not run through the
            model again for `Loss` and the conditional half of `IFD`. Its loss is that of the training step that saw it
            last: by the weights before that step's update, with dropout and all other noise of training, in
            training's precision. A prior is always computed. The selections record how many rows that was, under
            `reused_training_loss`, and it is logged as `selection_rows_reused`.
        push_selection: publish the selections of all rounds as a dataset when the trained model is pushed. Pushes of
            checkpoints on the way leave them out.
        selection_repo_id: of that dataset; by default the model's, with `-selection` at the end.

    Raises:
        ConfigError: a field has a value or a type that it cannot have.
    """

    _is_public = False
    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "selector_kwargs"]  # noqa: RUF012 (TRL's own declaration)

    selector: str = field(default="iterit", metadata={"help": "Name of a selector; `hf-datasel list` shows them."})
    selector_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Settings of the selector, for example {"decay": 0.0}.'}
    )
    selection_size: int | None = field(default=None, metadata={"help": "Rows trained on per round."})
    selection_ratio: float | None = field(
        default=None, metadata={"help": "Share of all rows trained on per round; 0.05 without selection_size."}
    )
    selection_schedule: list[int] | None = field(
        default=None, metadata={"help": "Rows of each round, where they differ."}
    )
    reselection_strategy: str = field(
        default="epoch",
        metadata={
            "help": "'epoch': choose again every epoch, if the selector does so (IterIT); 'steps': every "
            "reselection_steps; 'no': choose once.",
            "choices": list(_STRATEGIES),
        },
    )
    reselection_steps: int | None = field(
        default=None, metadata={"help": "Optimizer updates of a round with reselection_strategy 'steps'."}
    )
    scoring_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Upper bound on the padded tokens of a scoring batch; by default 1,024 on a CPU, else 16,384."
        },
    )
    scoring_dtype: str | None = field(
        default=None,
        metadata={"help": "Score under autocast in 'bfloat16' or 'float16'; by default in the weights' own dtype."},
    )
    reuse_training_loss: bool = field(
        default=False,
        metadata={
            "help": "An approximation that saves forward passes: score rows of the round before by the loss that they "
            "had when they were trained on, with dropout and the weights of that step."
        },
    )
    push_selection: bool = field(
        default=False,
        metadata={"help": "Publish the selections of all rounds as a dataset when the model is pushed."},
    )
    selection_repo_id: str | None = field(
        default=None,
        metadata={"help": "Where they are published; by default the model's repo id with '-selection' at the end."},
    )

    def __post_init__(self) -> None:
        self._given = self._values()
        super().__post_init__()
        self.settle()
        wanted_rows(1, self.selection_size, self.selection_ratio, ("selection_size", "selection_ratio"))
        if self.selection_schedule is not None:
            self._check_schedule(self.selection_schedule)
        if self.reselection_strategy not in _STRATEGIES:
            raise ConfigError(f"reselection_strategy={self.reselection_strategy!r} has to be one of {_STRATEGIES}.")
        self._check_steps()
        if self.scoring_dtype not in _DTYPES:
            raise ConfigError(f"scoring_dtype={self.scoring_dtype!r} has to be one of {_DTYPES}.")
        tokens = self.scoring_tokens_per_batch
        if tokens is not None and (not isinstance(tokens, int) or tokens < 1):
            raise ConfigError(f"scoring_tokens_per_batch={tokens!r} has to be an int above 0.")
        for name in ("reuse_training_loss", "push_selection"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={getattr(self, name)!r} has to be True or False.")
        repo_id = self.selection_repo_id
        if repo_id is not None and not (isinstance(repo_id, str) and _REPO_ID.fullmatch(repo_id)):
            raise ConfigError(f"selection_repo_id={repo_id!r} has to be 'name' or 'namespace/name'.")

    def given(self) -> dict[str, Any]:
        """Values of the fields as they were passed, or assigned later: without what TRL and transformers made of them.

        Secrets are left out.
        """
        settled = self._settled
        return {
            name: self._given[name] if value is settled[name] or value == settled[name] else value
            for name, value in self._values().items()
        }

    def settle(self, given: dict[str, Any] | None = None) -> None:
        """Take the values as they are now for what was made of those given, by default of those passed."""
        if given is not None:
            self._given = given
        self._settled = self._values()

    @contextmanager
    def without_secrets(self) -> Iterator[None]:
        """In the meantime pickles of it, such as training_args.bin, hold no token. It keeps its own, to push with."""
        before, self._is_public = self._is_public, True
        try:
            yield
        finally:
            self._is_public = before

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if not state.pop("_is_public", False):  # a copy made to work with
            return state
        read = {name: each for name, each in self._settled.items() if isinstance(each, dict)}
        as_json = [name for name in read if isinstance(self._given[name], str)]
        state["_given"] = self._given | {name: read[name] for name in as_json}
        return {name: None if name in _SECRET else public(value) for name, value in state.items()}

    def to_dict(self) -> dict[str, Any]:
        """As `SFTConfig.to_dict`, for logs and trackers; it hides the tokens in `model_init_kwargs` too."""
        return {name: public(value) for name, value in super().to_dict().items()}

    def _values(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _SECRET}

    def _check_steps(self) -> None:
        steps, wanted = self.reselection_steps, self.reselection_strategy == "steps"
        if wanted and (type(steps) is not int or steps < 1):
            raise ConfigError(
                f"reselection_strategy='steps' needs reselection_steps, an int above 0, and it is {steps!r}."
            )
        if steps is not None and not wanted:
            raise ConfigError(
                f"reselection_steps={steps!r} needs reselection_strategy='steps', and it is "
                f"{self.reselection_strategy!r}."
            )

    def _check_schedule(self, schedule: list[int]) -> None:
        if self.selection_size is not None or self.selection_ratio is not None:
            raise ConfigError("selection_schedule gives the rows of every round: leave selection_size and _ratio out.")
        if not (isinstance(schedule, list) and schedule and all(type(size) is int and size > 0 for size in schedule)):
            raise ConfigError(
                f"selection_schedule={schedule!r} has to be a list of row numbers above 0, one for each round."
            )
        for name, given in (("max_steps", self.max_steps > 0), ("reselection_steps", self.reselection_steps)):
            if given:
                raise ConfigError(f"selection_schedule says how many rounds there are: leave {name} out.")


def public(value: Any) -> Any:
    """A value of plain dicts and lists, with None for each secret in it."""
    if isinstance(value, dict):
        return {key: None if key in _SECRET else public(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(public(each) for each in value)
    return value


def default_of(each: Field[Any]) -> Any:
    """What a field of a dataclass is where nothing is given; `MISSING` where something has to be."""
    return each.default if each.default_factory is MISSING else each.default_factory()
