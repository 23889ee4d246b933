"""Instruction-following difficulty."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, did_you_mean
from hf_datasel.scoring.base import Columns, ModelScore, finite_or_null, null_counts
from hf_datasel.scoring.logprobs import SummedNLL
from hf_datasel.tokens import TokenRows, Tokens
from hf_datasel.tokens.presets import PRESETS
from hf_datasel.tokens.training import PriorContext

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelContext

__all__ = ["IFD"]

_RATIOS = {"perplexity": "ifd", "loss": "ifd_loss_ratio"}
_FIXED: dict[str, tuple[str, bool]] = {
    "iterit": ("empty-system", True),
    "superfiltering": ("bare", False),
    "cherry": ("response-header", False),
}
"""What stands before the answer in the prior, and whether the end token is scored, in each published convention."""


@dataclass(frozen=True)
class IFD(ModelScore):
    """How much less the response surprises the model with its instruction than without: 1 is no help at all.

    `ifd = exp(loss - loss_prior)`, where `loss` is the mean loss of the response tokens given the instruction and
    `loss_prior` that of the same tokens without it. Of several turns every assistant turn is a response, a prior has
    no earlier turns, and the row's losses are means over all response tokens.

    Reads any supported row format that has a response. Writes `ifd`, `loss`, `loss_prior` (float32) and `ifd_reason`
    ("" for a scored row). Cost: two forward passes, the second over the responses alone.
    Reference: Li et al. 2024 (2308.12032; 2402.00530); Jia et al. 2024 (2412.17365), Eq. 1 to 3.

    The convention changes which rows are picked, so it is part of the result: `"sft"` scores the row exactly as
    training will see it; `"iterit"`, `"superfiltering"` and `"cherry"` are the published prompts to the letter, with
    the details that their authors' code has (boundaries by token count, no end token in the last two).
    """

    convention: Literal["sft", "iterit", "superfiltering", "cherry"] = field(default="sft", kw_only=True)
    ratio: Literal["perplexity", "loss"] = field(default="perplexity", kw_only=True)
    """`"loss"` divides the losses instead of the perplexities (2410.09335, Eq. 2), and writes `ifd_loss_ratio`."""
    prior_context: PriorContext | None = field(default=None, kw_only=True)
    """Before the response in the prior: `"generation-prompt"` (default: BOS, else EOS, then the chat template's
    generation prompt), `"bos"`, or `"none"`, which leaves the first token out of both terms."""
    end_token: bool | None = field(default=None, kw_only=True)
    """Score the token that ends the response in both terms (default), or in neither."""

    citation = (
        "@inproceedings{li2024quantity, title={From Quantity to Quality: Boosting LLM Performance with Self-Guided "
        "Data Selection for Instruction Tuning}, author={Li, Ming and Zhang, Yong and Li, Zhitao and Chen, Jiuhai and "
        "Chen, Lichang and Cheng, Ning and Wang, Jianzong and Zhou, Tianyi and Xiao, Jing}, booktitle={NAACL}, "
        "year={2024}, note={arXiv:2308.12032}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("convention", self.convention, ["sft", *PRESETS])
        _one_of("ratio", self.ratio, list(_RATIOS))
        _one_of("prior_context", self.prior_context, ["generation-prompt", "bos", "none", None])
        if self.convention != "sft" and (self.prior_context, self.end_token) != (None, None):
            raise ConfigError(
                f"convention={self.convention!r} fixes the context of the prior and the end token. Leave "
                "prior_context and end_token out, or use convention='sft' to set them."
            )

    @property
    def column(self) -> str:
        """Name of the column with the score itself."""
        return f"{self.column_prefix}{_RATIOS[self.ratio]}"

    def columns(self) -> dict[str, pa.DataType]:
        names = (_RATIOS[self.ratio], "loss", "loss_prior")
        return {**dict.fromkeys(names, pa.float32()), "ifd_reason": pa.string()}

    def spec(self) -> dict[str, Any]:
        context, end = self._prior()
        length = self.max_length or (PRESETS[self.convention][1] if self.convention in PRESETS else None)
        return {**super().spec(), "prior_context": context, "end_token": end, "max_length": length}

    def meaning(self, column: str) -> Hashable:
        context, end = self._prior()
        # the loss given the instruction does not depend on the prior, but for the first token that "none" leaves out
        before = context == "none" if self.convention == "sft" and column == "loss" else context
        return (column, self.convention, end, before, str(self.model_settings()), self.max_length)

    def _prior(self) -> tuple[str, bool]:
        if self.convention in _FIXED:
            return _FIXED[self.convention]
        return self.prior_context or "generation-prompt", True if self.end_token is None else self.end_token

    def tokens(self, rows: TokenRows) -> Tokens:
        """The sequences that are scored."""
        if self.convention in PRESETS:
            return rows.preset(self.convention, self.max_length or PRESETS[self.convention][1])
        return rows.training(self.prior_context or "generation-prompt", self._prior()[1])

    def announce(self, rows: TokenRows, context: ModelContext) -> None:
        context.announce(self.tokens(rows).conditional, SummedNLL())

    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        tokens = self.tokens(rows)
        nulls = null_counts(tokens.reasons)
        loss = context.mean_nll(tokens.conditional, len(rows), "loss", nulls)
        prior = context.mean_nll(tokens.prior, len(rows), "loss_prior", nulls)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            ratio = np.exp(loss - prior) if self.ratio == "perplexity" else loss / prior
        values, reasons = finite_or_null([ratio, loss, prior], tokens.reasons)
        return dict(zip(self.columns(), [*values, reasons], strict=True))


def _one_of(name: str, value: str | None, options: list[Any]) -> None:
    if value not in options:
        hint = did_you_mean(str(value), [option for option in options if option])
        raise ConfigError(f"IFD({name}={value!r}): it has to be one of {options}.{hint}")
