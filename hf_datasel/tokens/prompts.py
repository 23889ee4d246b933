"""Tokenization of prompts that a model continues, and their maximum length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_datasel.errors import ModelError

__all__ = ["encode_prompts", "encode_texts", "resolve_max_length"]


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text, without special tokens."""
    if not texts:
        return []
    return list(tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"])


def encode_prompts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text, with the special tokens at the start (BOS) but without those at the end."""
    if not texts:
        return []
    bare, full = encode_texts(tokenizer, ["1"])[0], tokenizer("1", verbose=False)["input_ids"]
    num_first = next((start for start in range(len(full)) if full[start : start + len(bare)] == bare), 0)
    num_last = max(len(full) - num_first - len(bare), 0)
    return [ids[: len(ids) - num_last] for ids in tokenizer(list(texts), verbose=False)["input_ids"]]


def resolve_max_length(
    model: Any, tokenizer: Any, max_length: int | None, score: str, default: int | None = None
) -> int:
    """Return the maximum number of tokens per sequence.

    Args:
        model: The model, with or without adapters.
        tokenizer: Its tokenizer.
        max_length: Requested maximum. None means `default`, or the maximum of the model if that is smaller or
            `default` is None.
        score: Name of the score, for the error message.
        default: Maximum if none is requested.

    Raises:
        ModelError: The requested maximum is more than the model supports.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limit = int(min(tokenizer.model_max_length, positions or tokenizer.model_max_length))
    if max_length is not None and max_length > limit:
        raise ModelError(
            f"{score}(max_length={max_length}) is more than the {limit:,} tokens that "
            f"{model.config.name_or_path!r} supports. Lower it, or omit it."
        )
    return min(max_length or default or limit, limit)
