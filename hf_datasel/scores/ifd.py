"""Instruction-following difficulty."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, FormatError, check_option
from hf_datasel.scoring.base import Columns, ModelScore, finite_or_null, null_counts
from hf_datasel.scoring.logprobs import SummedNLL
from hf_datasel.tokens import TokenRows, Tokens, TokenSettings
from hf_datasel.tokens.presets import PRESETS
from hf_datasel.tokens.prior import PriorContext

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["IFD"]

_RATIOS = {"perplexity": "ifd", "loss": "ifd_loss_ratio"}
_FIXED: dict[str, tuple[str, bool]] = {
    "iterit": ("empty-system", True),
    "superfiltering": ("bare", False),
    "cherry": ("response-header", False),
}
"""Context of the response in the prior, and whether the end token is scored, by published convention."""


@dataclass(frozen=True)
class IFD(ModelScore):
    """Instruction-following difficulty: perplexity of the response given the instruction, divided by that without it.

    `ifd = exp(loss - loss_prior)`, where `loss` is the mean loss of the response tokens given the instruction and
    `loss_prior` the mean loss of the same tokens without it (the prior). An `ifd` of 1 means that the instruction does
    not help the model. In conversations every assistant turn is a response, the prior has no earlier turns, and the
    losses of a row are means over all response tokens.

    Reads any supported row format that has a response. Writes `ifd`, `loss`, `loss_prior` (float32) and `ifd_reason`
    ("" for a scored row). Cost: two forward passes per row, the second over the response only; with
    `prior="first-round"` only the first one in later rounds of training.

    The convention changes which rows are selected. `"sft"` scores the row with exactly the tokens of training;
    `"iterit"`, `"superfiltering"` and `"cherry"` use the exact published prompts, with the details of the authors'
    code (boundaries by token count, no end token in the last two).

    Reference: Li et al. 2024 (2308.12032; 2402.00530); Jia et al. 2024 (2412.17365), Eq. 1 to 3.

    Args:
        model: Name or path of the model. None uses the model of the round, or the `model` of `hf_datasel.score`.
        revision: Commit, branch or tag of a Hub model.
        max_length: Maximum number of tokens of a row. By default the `max_length` of training inside a trainer,
            otherwise the length of the convention: 1,024 for `"sft"`, `"iterit"` and `"superfiltering"`, 512 for
            `"cherry"`.
        convention: Prompts and token boundaries: `"sft"`, `"iterit"`, `"superfiltering"` or `"cherry"`.
        ratio: `"perplexity"` divides perplexities and writes `ifd`; `"loss"` divides the losses (2410.09335, Eq. 2)
            and writes `ifd_loss_ratio`.
        prior_context: Context of the response in the prior: `"generation-prompt"` (default: BOS, else EOS, followed by
            the chat template's generation prompt if that does not begin with it), `"bos"`, or `"none"`, which excludes
            the first token from both terms.
        end_token: Whether the token that ends the response is scored, in both terms; true by default.
        prior: Model of `loss_prior` in training runs with several rounds. None is the model of the round, as for
            `loss`. `"first-round"` keeps the `loss_prior` of the first round that scores a row: later rounds run one
            forward pass for it, which is an approximation, recorded as `reused_prior_loss`.
        dtype: Data type of the weights: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained`, as in `SFTConfig`.
        column_prefix: Prefix of the name of every column that the score writes.
    """

    version: ClassVar[int] = 2

    convention: Literal["sft", "iterit", "superfiltering", "cherry"] = field(default="sft", kw_only=True)
    ratio: Literal["perplexity", "loss"] = field(default="perplexity", kw_only=True)
    prior_context: PriorContext | None = field(default=None, kw_only=True)
    end_token: bool | None = field(default=None, kw_only=True)
    prior: Literal["first-round"] | None = field(default=None, kw_only=True)

    citation = (
        "@inproceedings{li2024quantity, title={From Quantity to Quality: Boosting LLM Performance with Self-Guided "
        "Data Selection for Instruction Tuning}, author={Li, Ming and Zhang, Yong and Li, Zhitao and Chen, Jiuhai and "
        "Chen, Lichang and Cheng, Ning and Wang, Jianzong and Zhou, Tianyi and Xiao, Jing}, booktitle={NAACL}, "
        "year={2024}, note={arXiv:2308.12032}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(f"IFD(convention={self.convention!r})", self.convention, ("sft", *PRESETS))
        check_option(f"IFD(ratio={self.ratio!r})", self.ratio, _RATIOS)
        contexts = (*get_args(PriorContext), None)
        check_option(f"IFD(prior_context={self.prior_context!r})", self.prior_context, contexts)
        if self.convention != "sft" and (self.prior_context, self.end_token) != (None, None):
            raise ConfigError(
                f"convention={self.convention!r} fixes the context of the prior and the end token. Leave "
                "prior_context and end_token out, or use convention='sft' to set them."
            )
        check_option(f"IFD(prior={self.prior!r})", self.prior, ("first-round", None))
        if self.prior is not None and self.model is not None:
            raise ConfigError(
                f"IFD(prior={self.prior!r}) is for the model in training, and {self.model!r} does not change between "
                "rounds. Leave out prior or model."
            )

    @property
    def column(self) -> str:
        """Name of the column with the ratio."""
        return f"{self.column_prefix}{_RATIOS[self.ratio]}"

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows, for the prompts of a published convention."""
        return self.convention in PRESETS

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        names = (_RATIOS[self.ratio], "loss", "loss_prior")
        return {**dict.fromkeys(names, pa.float32()), "ifd_reason": pa.string()}

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record, with the defaults of the convention filled in."""
        context, end = self._prior()
        length = self.token_settings().max_length if self.convention in PRESETS else self.max_length
        return {**super().spec(), "prior_context": context, "end_token": end, "max_length": length}

    def token_settings(self) -> TokenSettings:
        """Return how rows are tokenized outside a trainer: truncated to the length of the convention by default."""
        if self.max_length is None and self.convention in PRESETS:
            return TokenSettings(max_length=PRESETS[self.convention][1])
        return super().token_settings()

    def column_identity(self, column: str) -> Hashable:
        """Return a value that is equal for two scores that write the same numbers into this column."""
        context, end = self._prior()
        # the prior changes the loss given the instruction only where "none" excludes the first token
        before = context == "none" if self.convention == "sft" and column == "loss" else context
        identity = (column, self.convention, end, before, str(self.model_settings()), self.max_length)
        return identity if column == "loss" else (*identity, self.prior)

    def _prior(self) -> tuple[str, bool]:
        if self.convention in _FIXED:
            return _FIXED[self.convention]
        return self.prior_context or "generation-prompt", True if self.end_token is None else self.end_token

    def tokens(self, rows: TokenRows) -> Tokens:
        """Return the sequences of the two forward passes, with and without the instruction."""
        if self.convention in PRESETS:
            return rows.preset(self.convention, self.max_length or rows.settings.max_length)
        return rows.training(self.prior_context or "generation-prompt", self._prior()[1])

    def announce(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Announce the forward pass that `compute` runs."""
        runner.announce(self.tokens(rows).conditional, SummedNLL())

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        tokens = self.tokens(rows)
        nulls = null_counts(tokens.reasons)
        loss = runner.mean_nll(tokens.conditional, len(rows), "loss", nulls)
        prior = runner.mean_nll(tokens.prior, len(rows), "loss_prior", nulls, self.prior == "first-round")
        reasons = tokens.reasons
        if rows.pool.format == "tokenized":
            reasons = self._without_prompt(rows, tokens)
            loss, prior = (np.where(reasons == "no_prompt_token", np.nan, values) for values in (loss, prior))
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            ratio = np.exp(loss - prior) if self.ratio == "perplexity" else loss / prior
        values, nulls = finite_or_null([ratio, loss, prior], reasons)
        return dict(zip(self.columns(), [*values, nulls], strict=True))

    def check_inputs(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Raise an error if no row can have an IFD, since labels of tokenized rows mark no prompt."""
        super().check_inputs(rows, runner)
        if rows.pool.format == "tokenized" and (tokenized := rows.all_tokenized()) is not None:
            self._without_prompt(tokenized, self.tokens(tokenized))

    def _without_prompt(self, rows: TokenRows, tokens: Tokens) -> np.ndarray:
        """Return the reasons of tokenized rows, with one for those whose first token has a label.

        Raises:
            FormatError: All rows are like that, or only some of them have the generation prompt before their labels.
        """
        reasons = tokens.reasons.astype(object)
        conditional = tokens.conditional
        reasons[conditional.owner[conditional.first_positions() == 0]] = "no_prompt_token"
        if len(conditional) and not (reasons == "").any():
            raise FormatError(
                "IFD compares the loss of a response with and without its prompt, and no row of these tokenized rows "
                "has a prompt: all tokens have a label. Add labels with -100 for the prompt, or select by Loss."
            )
        if self._prior()[0] == "generation-prompt" and 0 < rows.generation_prompts < 1:
            raise FormatError(
                "Some of these tokenized rows have the generation prompt of the chat template before their labels, "
                "and others do not, so that IFD cannot tell what comes before a response without its prompt. Pass "
                "IFD(prior_context='bos')."
            )
        return reasons.astype(np.str_)
