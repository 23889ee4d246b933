"""The tokens that published IFD code scores, followed to the letter."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hf_datasel.errors import ModelError
from hf_datasel.formats import POOL_ROW, Pool, Row, alpaca_prompt, canonical_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["PRESETS", "preset_tokens"]

_VERSION = 1
"""Raised when these tokens change, so that no cached ones are taken for them."""

Pair = tuple[list[int], int, list[int], int, int]
"""Ids with the instruction, where the answer starts in them, ids without it, where the answer starts there, and how
many of the latter are kept."""


def _superfiltering(row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Pair:
    """Li et al. 2024 (2402.00530): instruction, input and answer a line each; the prior is the bare answer."""
    prompt = f"{row.instruction}\n{row.input}\n" if row.input.strip() else f"{row.instruction}\n"
    whole = tokenizer(prompt + row.response, verbose=False)["input_ids"]
    start = len(tokenizer(prompt, verbose=False)["input_ids"])
    prior = tokenizer(row.response, verbose=False)["input_ids"]
    return whole, start, prior, 1, max_length - start + 1


def _cherry(row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Pair:
    """Li et al. 2024 (2308.12032): Alpaca prompt and answer encoded together, the prior behind `### Response:`."""
    prompt = alpaca_prompt(row.instruction, row.input)
    start = len(tokenizer(prompt, verbose=False)["input_ids"])
    whole = tokenizer(prompt + row.response, verbose=False)["input_ids"]
    header = "### Response:"
    prior = tokenizer(header + row.response, verbose=False)["input_ids"]
    return whole, start, prior, len(tokenizer(header)["input_ids"]), max_length - start + 4


def _iterit(row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Pair:
    """Jia et al. 2024 (2412.17365): chat template with a system message; the prior has an empty one, and no user."""
    user = f"{row.instruction}\nInput: {row.input}" if row.input.strip() else row.instruction
    asked = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": user}]
    unasked = [{"role": "system", "content": ""}]
    answer = [{"role": "assistant", "content": row.response}]

    def ids(messages: list[dict[str, str]], prompt: bool = False) -> list[int]:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=prompt
        )
        return list(rendered["input_ids"])

    start, prior_start = len(ids(asked, prompt=True)), len(ids(unasked, prompt=True))
    return ids(asked + answer), start, ids(unasked + answer), prior_start, prior_start + max_length - start


PRESETS: dict[str, tuple[Callable[[Row, PreTrainedTokenizerBase, int], Pair], int]] = {
    "iterit": (_iterit, 1024),
    "superfiltering": (_superfiltering, 1024),
    "cherry": (_cherry, 512),
}
"""Each convention's tokens, and the length its authors cut at."""


def preset_tokens(pool: Pool, tokenizer: PreTrainedTokenizerBase, convention: str, max_length: int) -> Dataset:
    """`input_ids`, `spans`, `prior_ids`, `prior_spans` and `reason` of every pool row, under a published convention.

    Rows that are not one question and one answer have no tokens here: the published prompts leave them undefined.
    """
    if convention == "iterit":
        _check_template(tokenizer)
    data = pool.dataset.select_columns(pool.columns)
    return data.map(
        _tokenize_batch,
        batched=True,
        with_indices=True,
        fn_kwargs={
            "format": pool.format,
            "tokenizer": tokenizer,
            "convention": convention,
            "max_length": max_length,
            "version": _VERSION,
        },
        remove_columns=pool.columns,
        features=_features(),
        desc=f"Tokenizing ({convention})",
    )


def _check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot render the prompts of IterIT, its prior with no user turn above all."""
    from jinja2 import TemplateError

    otherwise = "Use convention='superfiltering' or 'cherry', or another model's tokenizer."
    if tokenizer.chat_template is None:
        raise ModelError(
            f"convention='iterit' renders rows with a chat template, and the tokenizer of {tokenizer.name_or_path!r} "
            f"has none. {otherwise}"
        )
    try:
        _iterit(Row(instruction="Hello"), tokenizer, 1024)
    except TemplateError as error:
        raise ModelError(
            f"The chat template of {tokenizer.name_or_path!r} cannot render the prompts of convention='iterit' "
            f"({error}). {otherwise}"
        ) from error


def _features() -> Any:
    from datasets import Features, List, Value

    ids = List(Value("int32"))
    return Features(
        {
            POOL_ROW: Value("int64"),
            "reason": Value("string"),
            "input_ids": ids,
            "spans": ids,
            "prior_ids": ids,
            "prior_spans": ids,
        }
    )


def _tokenize_batch(
    batch: Any,
    indices: list[int],
    format: str,
    tokenizer: PreTrainedTokenizerBase,
    convention: str,
    max_length: int,
    version: int,
) -> dict[str, list[Any]]:
    make = PRESETS[convention][0]
    out: dict[str, list[Any]] = {name: [] for name in _features()}
    for at, row in zip(indices, canonical_rows(batch, format), strict=True):
        reason = row.reason or ("" if row.single_turn else "not_single_turn")
        whole, start, prior, prior_start, limit = ([], 0, [], 0, 0) if reason else make(row, tokenizer, max_length)
        if not reason and (start >= len(whole) or prior_start >= len(prior)):
            reason = "no_response_token"
        whole, prior = whole[:max_length], prior[: max(limit, 0)]
        if not reason and (start >= len(whole) or prior_start >= len(prior)):
            reason = "prompt_fills_window"
        values = at, reason, whole, [start, len(whole)], prior, [prior_start, len(prior)]
        for name, value in zip(out, values, strict=True):
            out[name].append(value)
    return out
