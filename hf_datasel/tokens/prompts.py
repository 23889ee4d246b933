"""The tokens of text that a model goes on from, and how many of them it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_datasel.errors import ModelError

__all__ = ["encoded", "started", "window"]


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


def window(model: Any, tokenizer: Any, max_length: int | None, asks: str, usual: int | None = None) -> int:
    """Tokens that a sequence may have.

    Args:
        model: bare or with adapters.
        tokenizer: of the same model.
        max_length: what is asked for. None is `usual`, or as many as the model takes where that is less or None too.
        asks: name of the score, for the error.
        usual: tokens that rows have where nothing is asked for.

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
    return min(max_length or usual or room, room)
