"""Answers that a model generates to held-out prompts, compared with the responses of the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hf_datasel.errors import FormatError
from hf_datasel.evaluation.evaluated_model import EvaluatedModel
from hf_datasel.evaluation.heldout_rows import Excluded, HeldoutRows, read_rows
from hf_datasel.evaluation.row_results import RowResults
from hf_datasel.formats import Pool
from hf_datasel.formats.rows import no_text
from hf_datasel.scoring.base import null_counts
from hf_datasel.scoring.cost import measure_cost
from hf_datasel.scoring.generation import Decoding, Generator, Prompts
from hf_datasel.scoring.normalization import Normalization
from hf_datasel.scoring.verifiers import last_response
from hf_datasel.tokens import TokenRows, TokenSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["MatchedAnswers", "match_answers"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchedAnswers(RowResults):
    """Generated answers and whether they equal the references, per row; see `match_answers`.

    Args:
        row_ids: SHA-256 of each row, uint8 of shape (rows, 32), as `Pool.row_ids`.
        reasons: Reason why a row has no value, str of shape (rows,); empty for rows with one.
        groups: Group of each row, str of shape (rows,).
        settings: Model and settings, plain values, and the cost of the run (see `hf_datasel.scoring.Cost`).
        correct: 1 for an answer that equals the reference, otherwise 0, float64 of shape (rows,); NaN for a row
            without an answer.
        truncated: Which answers were cut at `max_new_tokens`, bool of shape (rows,). They are compared like others.
        answers: Generated answers without special tokens and surrounding white space, before normalization: object
            array of str of shape (rows,); empty for a row without an answer.
        references: Responses of the rows, before normalization, in the same form.
    """

    correct: np.ndarray
    truncated: np.ndarray
    answers: np.ndarray
    references: np.ndarray

    kind: ClassVar[str] = "exact_match"

    @property
    def values(self) -> np.ndarray:
        """1 or 0 for each row, float64 of shape (rows,); NaN for a row without an answer."""
        return self.correct

    def summarize(self, rows: np.ndarray) -> dict[str, Any]:
        """Return the share of correct answers of some rows, their number, and the number of truncated answers."""
        return {
            "exact_match": float(self.correct[rows].mean()),
            "correct": int(self.correct[rows].sum()),
            "truncated_answers": int(self.truncated[rows].sum()),
        }


def match_answers(
    dataset: Dataset,
    model: Any,
    processing_class: PreTrainedTokenizerBase | None = None,
    *,
    normalization: Normalization | None = None,
    max_new_tokens: int = 256,
    group_by: str | None = None,
    columns: Mapping[str, str] | None = None,
    training_pool: Dataset | Pool | None = None,
    excluded: Excluded | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    model_init_kwargs: dict[str, Any] | None = None,
    scoring_tokens_per_batch: int | None = None,
) -> MatchedAnswers:
    """Generate an answer to the prompt of each held-out row, and compare it with the row's last response.

    Answers are decoded greedily from the tokens that `SFTTrainer` trains on up to the last response, earlier turns and
    the generation prompt included. Sampling, penalties and other settings of the model's generation config are not
    used. The reference is the content of the last response, without thinking; an answer is compared as a whole.

    A row without a value has a reason. `tool_calls`: its last response calls tools. `empty_reference`, or
    `no_number_in_reference` with `last_number`: nothing is left to compare with. `prompt_fills_window`: the prompt
    leaves no room for `max_new_tokens` in the model. Further reasons are those of the row formats, and those of
    `excluded`.

    Cost: up to `max_new_tokens` forward passes of one token per row. Neither the Hub nor the `evaluate` library is
    needed; `ExactMatch` is the same comparison as a metric of that library.

    Args:
        dataset: Held-out rows in any supported format that has a response as text. Their order does not matter.
        model: Name or path of the model, or a loaded causal LM together with `processing_class`.
        processing_class: Tokenizer of the loaded model.
        normalization: How answers and references are normalized; by default only white space is.
        max_new_tokens: Maximum number of tokens of an answer, including its end; longer ones are cut and counted.
        group_by: Name of a column whose values group the rows, such as their source.
        columns: Names of the columns of a row format, as in `hf_datasel.score`.
        training_pool: Rows that models are trained on, or their `Pool`, which may rename columns. An error names
            those of them that are held out.
        excluded: Row numbers that are not evaluated, by reason, such as `{"in_training_pool": rows_in_pool(...)}`.
        revision: Commit, branch or tag of a Hub model.
        dtype: Data type of the weights of a model that is named: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained` for a model that is named.
        scoring_tokens_per_batch: Maximum number of padded tokens in a batch, as in `hf_datasel.score`.

    Returns:
        0 or 1 and the answer per row, with groups, reasons and settings.

    Raises:
        EvaluationError: No row can be evaluated, rows are in the training pool, or arguments do not fit each other.
        ColumnError: The column of the groups does not exist, or is a list or a mapping.
        ConfigError: `max_new_tokens`, `dtype` or `model_init_kwargs` is invalid.
        FormatError: The rows are in no supported format, have only a text column, or are tokenized already.
        ModelError: The model cannot be loaded or run, cannot generate text, or not as many tokens.
    """
    normalization = normalization or Normalization()
    decoding = Decoding(max_new_tokens)
    evaluated = EvaluatedModel.of(model, processing_class, revision, dtype, model_init_kwargs)
    rows = read_rows(dataset, columns, group_by, training_pool, excluded)
    references, expected = _read_references(rows, normalization)
    rows.check_usable()
    usable = rows.usable
    token_rows = TokenRows(rows.pool.subset(usable), evaluated.tokenizer, TokenSettings(max_length=None))
    generator = Generator(evaluated.runner(scoring_tokens_per_batch), evaluated.tokenizer, decoding)
    prompts = Prompts.from_rows(token_rows, generator.max_prompt_length)
    rows.reasons[usable] = prompts.reasons
    rows.messages.update(token_rows.messages)
    rows.check_usable()
    with measure_cost() as meter:
        generated = generator.answers(prompts.prompt_ids, "exact_match answers", null_counts(prompts.reasons))
    answered = usable[prompts.owner]
    answers, truncated = np.full(len(rows.pool), "", dtype=object), np.zeros(len(rows.pool), dtype=bool)
    answers[answered] = list(generator.texts(generated))
    truncated[answered] = generated.lengths == max_new_tokens
    correct = np.full(len(rows.pool), np.nan)
    correct[answered] = [normalization(answers[row]) == expected[row] for row in answered]
    settings = {
        "model": evaluated.describe(),
        "max_new_tokens": max_new_tokens,
        "normalization": asdict(normalization),
        "group_by": group_by,
        "cost": meter.cost,
    }
    return MatchedAnswers(
        row_ids=rows.pool.row_ids,
        reasons=rows.reasons.astype(np.str_),
        groups=rows.groups,
        settings=settings,
        correct=correct,
        truncated=truncated,
        answers=answers,
        references=references,
    )


def _read_references(rows: HeldoutRows, normalization: Normalization) -> tuple[np.ndarray, np.ndarray]:
    """Return the references as they are and normalized, and add the reasons of rows without one."""
    if rows.pool.format == "tokenized":
        raise no_text("match_answers")
    if not rows.pool.has_responses:
        raise FormatError(
            "Rows with only a text column have no response to compare answers with. Split the text into prompt and "
            "completion columns."
        )
    references, expected = (np.full(len(rows.pool), "", dtype=object) for _ in range(2))
    usable = rows.usable
    for number, row in zip(usable, rows.pool.rows(usable), strict=True):
        reference = last_response(row)
        if reference is None:
            rows.reasons[number] = "tool_calls"
            continue
        references[number], expected[number] = reference, normalization(reference)
        rows.reasons[number] = normalization.reason(expected[number])
    return references, expected
