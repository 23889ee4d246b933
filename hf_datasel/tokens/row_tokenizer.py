"""Tokenizer of converted rows: it reads what `hf_datasel.formats.convert_pool` writes into their columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_datasel.formats.convert import JSON_KWARGS, MESSAGE, TEXT_ROLE
from hf_datasel.formats.json_values import load_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["RowTokenizer", "is_text_row", "row_messages", "row_texts", "template_kwargs"]


@dataclass(frozen=True)
class RowTokenizer:
    """Stand-in for the tokenizer in `SFTTrainer._prepare_dataset`, which passes the columns of a row on to it.

    Args:
        tokenizer: Tokenizer of the rows.
        version: Version of this class, part of the fingerprint in the cache of `datasets`.
    """

    tokenizer: PreTrainedTokenizerBase
    version: int = 1

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "tokenizer":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.tokenizer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Tokenize text."""
        return self.tokenizer(*args, **kwargs)

    def apply_chat_template(self, conversation: list[dict[str, Any]], **kwargs: Any) -> Any:
        """Tokenize a conversation, or a row of text.

        Args:
            conversation: Converted messages.
            **kwargs: Keyword arguments of the tokenizer, and the converted arguments of the chat template.
        """
        if conversation and conversation[0]["role"] == TEXT_ROLE:
            return self._text(conversation, **kwargs)
        row = {
            "tools": kwargs.pop("tools", None),
            "chat_template_kwargs": {JSON_KWARGS: kwargs.pop(JSON_KWARGS, None)},
        }
        options = template_kwargs(row, kwargs.pop("chat_template", None))
        return self.tokenizer.apply_chat_template(decoded(conversation), **options, **kwargs)

    def _text(self, parts: list[dict[str, Any]], return_assistant_tokens_mask: bool = False, **_: Any) -> Any:
        """Tokenize the prompt of a row of text, or its prompt and completion, without a chat template."""
        texts = [part["content"] for part in parts]
        text = texts[0] if len(texts) == 1 else "".join(with_eos(texts, self.tokenizer))
        ids = self.tokenizer(text=text)["input_ids"]
        return {"input_ids": ids, **({"assistant_masks": [0] * len(ids)} if return_assistant_tokens_mask else {})}


def with_eos(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return prompt and completion with the end token that `SFTTrainer` adds to the completion of rows of text."""
    prompt, completion = texts
    eos = tokenizer.eos_token
    return [prompt, completion if completion.endswith(eos) else completion + eos]


def decoded(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return converted messages as a chat template receives them."""
    if not messages or MESSAGE not in messages[0]:
        return messages
    return [
        {"role": message["role"], "content": message["content"]}
        if message[MESSAGE] is None
        else load_json(message[MESSAGE])
        for message in messages
    ]


def is_text_row(row: Mapping[str, Any]) -> bool:
    """Return whether a converted row is a text, or a prompt and a completion as text."""
    if "messages" in row:
        return False
    prompt = row.get("prompt")
    return not isinstance(prompt, list) or (bool(prompt) and prompt[0]["role"] == TEXT_ROLE)


def row_texts(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the prompt and the completion of a row of text that `SFTTrainer` has prepared."""
    if isinstance(row["prompt"], str):
        return [row["prompt"], row["completion"]]
    return with_eos([row["prompt"][0]["content"], row["completion"][0]["content"]], tokenizer)


def row_messages(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Return the messages of a converted row as a chat template receives them.

    Args:
        row: Row with `messages`, or conversational `prompt` and `completion`.

    Returns:
        The messages, and how many of them come before the first that is trained on.
    """
    if "messages" in row:
        return decoded(row["messages"]), 0
    return [*decoded(row["prompt"]), *decoded(row["completion"])], len(row["prompt"])


def template_kwargs(row: Mapping[str, Any], template: str | None) -> dict[str, Any]:
    """Return the keyword arguments with which `SFTTrainer` renders a row.

    Args:
        row: Converted row with `tools` and `chat_template_kwargs`, or without them.
        template: Chat template to use instead of the tokenizer's own.
    """
    tools, kwargs = row.get("tools"), dict(row.get("chat_template_kwargs") or {})
    if text := kwargs.pop(JSON_KWARGS, None):
        kwargs = load_json(text)
    return {"chat_template": template, "tools": load_json(tools) if isinstance(tools, str) else tools, **kwargs}
