"""Positions of the assistant turns in a rendered conversation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Conversation", "common_prefix"]

Span = tuple[int, int]


def common_prefix(ids: list[int], others: list[int]) -> int:
    """Return the number of leading tokens that two sequences have in common."""
    length = 0
    for first, second in zip(ids, others, strict=False):
        if first != second:
            break
        length += 1
    return length


class Conversation:
    """A conversation as a chat template renders it.

    Args:
        tokenizer: Tokenizer with a chat template.
        row: Row with `messages`, or conversational `prompt` and `completion`, and optionally `tools` and
            `chat_template_kwargs`.
        template: Chat template to use instead of the tokenizer's own.

    Attributes:
        ids: Token ids of the rendered conversation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], template: str | None):
        self.tokenizer = tokenizer
        self.messages = row["messages"] if "messages" in row else row["prompt"] + row["completion"]
        self.context = 0 if "messages" in row else len(row["prompt"])
        tools = row.get("tools")
        tools = json.loads(tools) if isinstance(tools, str) else tools
        self.kwargs = {"chat_template": template, "tools": tools, **(row.get("chat_template_kwargs") or {})}
        self.ids = self._render(self.messages)

    def _render(self, messages: list[dict[str, Any]], prompt: bool = False) -> list[int]:
        rendered = self.tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=prompt, **self.kwargs
        )
        return list(rendered["input_ids"])

    def spans(self) -> list[Span] | None:
        """Return start and stop of each response, including the tokens that end it.

        A response starts after the generation prompt. It ends where the conversation up to this turn ends, unless the
        template renders a turn differently once others follow (for example, reasoning models drop earlier thoughts).

        Returns:
            One (start, stop) per response, or None if the responses cannot be located in the rendered conversation.
        """
        spans = []
        for index in range(self.context, len(self.messages)):
            if self.messages[index]["role"] != "assistant":
                continue
            prompt = self._render(self.messages[:index], prompt=True)
            start = common_prefix(prompt, self.ids)
            if start < len(prompt) and start < len(self._render(self.messages[:index])):
                return None  # the template renders the earlier turns differently here
            stop = self._stop(index)
            if stop is None or stop < start:
                return None
            spans.append((start, stop))
        return spans

    def _stop(self, index: int) -> int | None:
        if index == len(self.messages) - 1:
            return len(self.ids)
        ids_to_turn = self._render(self.messages[: index + 1])
        if ids_to_turn == self.ids[: len(ids_to_turn)]:
            return len(ids_to_turn)
        content_stop = self._content_stop(self.messages, index, self.ids)
        last = max(position for position, message in enumerate(self.messages) if message["role"] == "assistant")
        last_content_stop = self._content_stop(self.messages, last, self.ids)
        if content_stop is None or last_content_stop is None:
            return None
        ending = self.ids[last_content_stop:]  # the tokens after the last response, possibly including EOS
        num_shared = common_prefix(ending, self.ids[content_stop:])
        return content_stop + num_shared if num_shared or not ending else None

    def _content_stop(self, messages: list[dict[str, Any]], index: int, ids: list[int]) -> int | None:
        """Return where the text of a turn ends, by comparing renderings with two other texts.

        The two renderings differ up to the end of the text and are equal after it.
        """
        first, second = (
            self._render([*messages[:index], {**messages[index], "content": text}, *messages[index + 1 :]])
            for text in "AB"
        )
        num_after = common_prefix(first[::-1], second[::-1])
        if num_after > len(ids) or ids[len(ids) - num_after :] != first[len(first) - num_after :]:
            return None
        return len(ids) - num_after
