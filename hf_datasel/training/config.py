"""`SFTConfig`, and how rows are selected."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl import SFTConfig

from hf_datasel.errors import ConfigError
from hf_datasel.selection import wanted_rows

__all__ = ["SelectiveSFTConfig"]

_STRATEGIES = ("epoch", "no")
_DTYPES = (None, "bfloat16", "float16")


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
            the others choose once); `"no"` chooses once.
        scoring_tokens_per_batch: upper bound on the padded tokens of a scoring batch; by default 2,048 on a CPU, else
            16,384.
        scoring_dtype: compute scores under autocast in `"bfloat16"` or `"float16"`; by default in the weights' own
            dtype, which is the more exact of the two.

    Raises:
        ConfigError: a field has a value or a type that it cannot have.
    """

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
            "help": "'epoch': choose again every epoch, if the selector does so (IterIT); 'no': choose once.",
            "choices": list(_STRATEGIES),
        },
    )
    scoring_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Upper bound on the padded tokens of a scoring batch; by default 2,048 on a CPU, else 16,384."
        },
    )
    scoring_dtype: str | None = field(
        default=None,
        metadata={"help": "Score under autocast in 'bfloat16' or 'float16'; by default in the weights' own dtype."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted_rows(1, self.selection_size, self.selection_ratio, ("selection_size", "selection_ratio"))
        if self.selection_schedule is not None:
            self._check_schedule(self.selection_schedule)
        if self.reselection_strategy not in _STRATEGIES:
            raise ConfigError(f"reselection_strategy={self.reselection_strategy!r} has to be one of {_STRATEGIES}.")
        if self.scoring_dtype not in _DTYPES:
            raise ConfigError(f"scoring_dtype={self.scoring_dtype!r} has to be one of {_DTYPES}.")
        tokens = self.scoring_tokens_per_batch
        if tokens is not None and (not isinstance(tokens, int) or tokens < 1):
            raise ConfigError(f"scoring_tokens_per_batch={tokens!r} has to be an int above 0.")

    def _check_schedule(self, schedule: list[int]) -> None:
        if self.selection_size is not None or self.selection_ratio is not None:
            raise ConfigError("selection_schedule gives the rows of every round: leave selection_size and _ratio out.")
        if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in schedule):
            raise ConfigError(f"selection_schedule={schedule} has to be a list of row numbers above 0.")
        if self.max_steps > 0:
            raise ConfigError("selection_schedule says how many rounds there are: leave max_steps out.")
