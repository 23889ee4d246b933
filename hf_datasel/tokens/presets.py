"""Tokens that the published IFD implementations score, reproduced exactly."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hf_datasel.errors import ModelError
from hf_datasel.formats import POOL_ROW, Pool, Row, alpaca_prompt, canonical_rows
from hf_datasel.formats.json_values import table_values
from hf_datasel.tokens.valid_rows import error_message

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["PRESETS", "preset_tokens"]

_VERSION = 4
"""Version of these tokens, part of the fingerprint in the cache of `datasets`."""

TokenPair = tuple[list[int], int, list[int], int, int]
"""Token ids with the instruction, start of the response in them, token ids without the instruction (the prior), start
of the response in them, and maximum length of the prior."""


def _superfiltering(row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenPair:
    """Tokenize as Li et al. 2024 (2402.00530): instruction, input and response on lines; the prior is the response."""
    prompt = f"{row.instruction}\n{row.input}\n" if row.input.strip() else f"{row.instruction}\n"
    full = tokenizer(prompt + row.response, verbose=False)["input_ids"]
    start = len(tokenizer(prompt, verbose=False)["input_ids"])
    prior = tokenizer(row.response, verbose=False)["input_ids"]
    return full, start, prior, 1, max_length - start + 1


def _cherry(row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenPair:
    """Tokenize as Li et al. 2024 (2308.12032): Alpaca prompt and response; the prior follows `### Response:`."""
    prompt = alpaca_prompt(row.instruction, row.input)
    start = len(tokenizer(prompt, verbose=False)["input_ids"])
    full = tokenizer(prompt + row.response, verbose=False)["input_ids"]
    header = "### Response:"
    prior = tokenizer(header + row.response, verbose=False)["input_ids"]
    return full, start, prior, len(tokenizer(header)["input_ids"]), max_length - start + 4


def _iterit(row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenPair:
    """Tokenize as Jia et al. 2024 (2412.17365): chat template; the prior has an empty system message and no user."""
    user = f"{row.instruction}\nInput: {row.input}" if row.input.strip() else row.instruction
    with_user = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": user}]
    without_user = [{"role": "system", "content": ""}]
    answer = [{"role": "assistant", "content": row.response}]

    def ids(messages: list[dict[str, str]], prompt: bool = False) -> list[int]:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=prompt
        )
        return list(rendered["input_ids"])

    start, prior_start = len(ids(with_user, prompt=True)), len(ids(without_user, prompt=True))
    return ids(with_user + answer), start, ids(without_user + answer), prior_start, prior_start + max_length - start


PRESETS: dict[str, tuple[Callable[[Row, PreTrainedTokenizerBase, int], TokenPair], int]] = {
    "iterit": (_iterit, 1024),
    "superfiltering": (_superfiltering, 1024),
    "cherry": (_cherry, 512),
}
"""Tokenization function of each convention, and the maximum length that its authors use."""


def preset_tokens(
    pool: Pool,
    tokenizer: PreTrainedTokenizerBase,
    convention: str,
    max_length: int | None,
    num_proc: int | None = None,
) -> Dataset:
    """Tokenize every row of a pool under a published convention.

    Rows that are not one user turn and one assistant turn get a reason instead of tokens, because the published
    prompts are not defined for them.

    Args:
        pool: The pool.
        tokenizer: Tokenizer of the model that scores.
        convention: A key of `PRESETS`.
        max_length: Maximum number of tokens; None for no truncation.
        num_proc: Number of processes, as in `Dataset.map`.

    Returns:
        Dataset with one row per pool row and the columns `pool_row`, `reason`, `error`, `input_ids`, `spans`,
        `prior_ids` and `prior_spans`. `error` is the message of a row with the reason `template_error`.

    Raises:
        ModelError: The tokenizer cannot render the prompts of the convention.
    """
    from datasets import Dataset

    if convention == "iterit":
        _check_template(tokenizer)
    data = pool.dataset.select_columns(pool.columns)
    if len(data) == 0:  # map returns an empty dataset without the new columns
        return Dataset.from_dict({name: [] for name in _features()}, features=_features())
    tokens = data.with_format("arrow").map(
        _tokenize_batch,
        batched=True,
        with_indices=True,
        fn_kwargs={
            "row_format": pool.format,
            "mapping": pool.mapping,
            "tokenizer": tokenizer,
            "convention": convention,
            "max_length": sys.maxsize if max_length is None else max_length,
            "version": _VERSION,
        },
        remove_columns=pool.columns,
        features=_features(),
        num_proc=num_proc,
        desc=f"Tokenizing ({convention})",
    )
    return tokens.with_format(None)


def _check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ModelError` if the tokenizer cannot render the prompts of IterIT, such as the prior without a user."""
    from jinja2 import TemplateError

    hint = "Use convention='superfiltering' or 'cherry', or another model's tokenizer."
    if tokenizer.chat_template is None:
        raise ModelError(
            f"convention='iterit' renders rows with a chat template, and the tokenizer of {tokenizer.name_or_path!r} "
            f"has none. {hint}"
        )
    try:
        _iterit(Row(instruction="Hello"), tokenizer, 1024)
    except TemplateError as error:
        raise ModelError(
            f"The chat template of {tokenizer.name_or_path!r} cannot render the prompts of convention='iterit' "
            f"({error}). {hint}"
        ) from error


def _features() -> Any:
    from datasets import Features, List, Value

    ids = List(Value("int32"))
    return Features(
        {
            POOL_ROW: Value("int64"),
            "reason": Value("string"),
            "error": Value("string"),
            "input_ids": ids,
            "spans": ids,
            "prior_ids": ids,
            "prior_spans": ids,
        }
    )


def _tokenize_batch(
    table: pa.Table,
    indices: list[int],
    row_format: str,
    mapping: dict[str, str] | None,
    tokenizer: PreTrainedTokenizerBase,
    convention: str,
    max_length: int,
    version: int,
) -> dict[str, list[Any]]:
    tokenize = PRESETS[convention][0]
    columns: dict[str, list[Any]] = {name: [] for name in _features()}
    for index, row in zip(indices, canonical_rows(table_values(table), row_format, mapping), strict=True):
        reason, error = row.reason or ("" if row.single_turn else "not_single_turn"), ""
        pair: TokenPair = [], 0, [], 0, 0
        if not reason:
            try:
                pair = tokenize(row, tokenizer, max_length)
            except Exception as problem:  # chat templates and tokenizers raise errors of any kind
                reason, error = "template_error", error_message(problem)
        full, start, prior, prior_start, limit = pair
        if not reason and (start >= len(full) or prior_start >= len(prior)):
            reason = "no_response_token"
        full, prior = full[:max_length], prior[: max(limit, 0)]
        if not reason and (start >= len(full) or prior_start >= len(prior)):
            reason = "prompt_fills_window"
        values = index, reason, error, full, [start, len(full)], prior, [prior_start, len(prior)]
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    return columns
