"""What a chat template makes of tool calls, found by rendering one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_datasel.tokens.row_tokenizer import row_messages
from hf_datasel.tokens.turns import RENDERING_ERRORS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["call_rendering", "conversion_options", "has_only_calls", "has_text", "is_only_calls", "unrendered_message"]

_NAME = "find_nearest_harbour"
_TOWN = "Longyearbyen"
_ARGUMENTS = {"town": _TOWN}
_TOOLS = [{"type": "function", "function": {"name": "get_time", "description": "Time.", "parameters": {
    "type": "object", "properties": {"zone": {"type": "string", "description": "A zone."}}, "required": ["zone"]
}}}]  # fmt: skip


@dataclass(frozen=True)
class CallRendering:
    """How a chat template renders tool calls.

    Args:
        renders_calls: Whether it renders them, or raises an error for them.
        text_arguments: Whether it needs their arguments as JSON text, not as mappings.
    """

    renders_calls: bool
    text_arguments: bool


def call_rendering(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> CallRendering:
    """Render tool calls with a chat template, with arguments as a mapping and as JSON text.

    Args:
        tokenizer: Tokenizer of the rows.
        template: Chat template to use instead of the tokenizer's own.
    """
    mappings, texts = (
        [_render(tokenizer, template, arguments, tools) for tools in (None, _TOOLS)]
        for arguments in (_ARGUMENTS, json.dumps(_ARGUMENTS))
    )
    rendered = [text for text in (*mappings, *texts) if text is not None]
    return CallRendering(
        not rendered or any(_NAME in text or _TOWN in text for text in rendered),
        mappings == [None, None] and texts[0] is not None,
    )


def _render(tokenizer: PreTrainedTokenizerBase, template: str | None, arguments: Any, tools: Any) -> str | None:
    """Render a call with these arguments; None if the template does not support it."""
    function = {"name": _NAME, "arguments": arguments}
    call = {"id": "call00001", "type": "function", "function": function}
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    try:
        return str(tokenizer.apply_chat_template(messages, chat_template=template, tools=tools, tokenize=False))
    except RENDERING_ERRORS:
        return None


def conversion_options(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> dict[str, bool]:
    """Return the arguments of `hf_datasel.formats.convert_pool` that depend on the chat template.

    Args:
        tokenizer: Tokenizer of the rows.
        template: Chat template to use instead of the tokenizer's own.
    """
    if template is None and tokenizer.chat_template is None:
        return {"chat_template": False, "text_arguments": False}
    return {"chat_template": True, "text_arguments": call_rendering(tokenizer, template).text_arguments}


def unrendered_message(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what is said about a row whose response consists of tool calls that are not rendered.

    Args:
        tokenizer: Tokenizer of the rows.
    """
    return f"The chat template of {tokenizer.name_or_path!r} does not render tool calls"


def has_text(message: dict[str, Any]) -> bool:
    """Return whether a message has content or thinking."""
    return any(
        str(message.get(key) or "").strip() for key in ("content", "reasoning_content", "thinking", "reasoning")
    )


def is_only_calls(message: dict[str, Any]) -> bool:
    """Return whether a message has tool calls, and neither content nor thinking."""
    return bool(message.get("tool_calls")) and not has_text(message)


def has_only_calls(row: dict[str, Any]) -> bool:
    """Return whether a response of a converted row consists of tool calls only.

    Args:
        row: Row with `messages`, or conversational `prompt` and `completion`.
    """
    messages, context = row_messages(row)
    excluded = row.get("untrained_turns") or ()
    return any(
        message["role"] == "assistant" and is_only_calls(message) and position not in excluded
        for position, message in enumerate(messages)
        if position >= context
    )
