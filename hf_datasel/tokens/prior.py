"""Context of a response that is scored without its instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from hf_datasel.errors import ScoreError
from hf_datasel.tokens.turns import common_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PriorContext", "generation_prompt", "prior_prefix"]

PriorContext = Literal["generation-prompt", "bos", "none"]


def prior_prefix(tokenizer: PreTrainedTokenizerBase, chat: bool, context: PriorContext) -> np.ndarray:
    """Return the token ids before a response when it is scored without its instruction.

    Args:
        tokenizer: Tokenizer of the model that scores.
        chat: Whether the rows are conversational.
        context: `"generation-prompt"` is BOS (or EOS if there is none) and the generation prompt of the chat template,
            which begins with BOS itself in some templates; `"bos"` is BOS (or EOS) alone; `"none"` is no token, so
            that the first response token is not scored, with or without the instruction.

    Returns:
        Token ids, int64.

    Raises:
        ScoreError: The tokenizer has neither BOS nor EOS, or its chat template has no fixed generation prompt.
    """
    if context == "none":
        return np.empty(0, dtype=np.int64)
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise ScoreError(
            f"The tokenizer of {tokenizer.name_or_path!r} has neither a BOS nor an EOS token to put before the "
            "response. Pass prior_context='none' to exclude the first token of the response from both terms."
        )
    if context == "bos" or not chat:
        return np.array([first], dtype=np.int64)
    prompts = {generation_prompt(tokenizer, question) for question in ("Hello", "Is it slow?")}
    if len(prompts) > 1:
        raise ScoreError(
            f"The chat template of {tokenizer.name_or_path!r} renders a question differently with a generation "
            "prompt, so that the generation prompt cannot be determined. Pass prior_context='bos'."
        )
    prompt = prompts.pop()
    # conversations of some templates begin with the header of a message, whose first token is BOS (SmolLM2)
    return np.array(prompt if prompt[:1] == (first,) else (first, *prompt), dtype=np.int64)


def generation_prompt(tokenizer: PreTrainedTokenizerBase, question: str) -> tuple[int, ...]:
    """Return the token ids of the generation prompt that the chat template adds after a question.

    Args:
        tokenizer: Tokenizer with a chat template.
        question: Message of the user.
    """
    messages = [{"role": "user", "content": question}]
    without_prompt = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    with_prompt = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    return tuple(with_prompt["input_ids"][common_prefix(without_prompt, with_prompt["input_ids"]) :])
