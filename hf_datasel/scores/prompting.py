"""Rows as plain questions and answers, the tokens of text that a model goes on from, and how many of them it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_datasel.errors import ModelError
from hf_datasel.formats import Row

__all__ = ["encoded", "question_and_answer", "started", "window"]


def question_and_answer(row: Row) -> tuple[str, str]:
    """What stands before the last response, and that response; of several turns before it, each with its role."""
    *before, last = row.turns
    if len(before) == 1:
        return before[0].content, last.content
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in before), last.content


def encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text, without tokens that the tokenizer adds by itself."""
    if not texts:
        return []
    return list(tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"])


def started(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text behind the tokens that the tokenizer puts first, and without those that it puts last."""
    if not texts:
        return []
    bare, whole = encoded(tokenizer, ["1"])[0], tokenizer("1", verbose=False)["input_ids"]
    first = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)
    last = max(len(whole) - first - len(bare), 0)
    return [ids[: len(ids) - last] for ids in tokenizer(list(texts), verbose=False)["input_ids"]]


def window(model: Any, tokenizer: Any, max_length: int | None, asks: str) -> int:
    """Tokens that a sequence may have: `max_length`, or as many as the model takes where that is None.

    Args:
        model: a causal LM, bare or with adapters.
        tokenizer: of the same model.
        max_length: what is asked for.
        asks: name of the score, for the error.

    Raises:
        ModelError: more is asked for than the model takes.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = int(min(tokenizer.model_max_length, positions or tokenizer.model_max_length))
    if max_length is not None and max_length > room:
        raise ModelError(
            f"{asks}(max_length={max_length}) is more than the {room:,} tokens that {model.config.name_or_path!r} "
            "takes. Lower it, or leave it out."
        )
    return max_length or room
