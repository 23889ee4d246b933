"""Where in a rendered conversation the assistant's turns are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Conversation", "common_prefix"]

Span = tuple[int, int]


def common_prefix(ids: list[int], others: list[int]) -> int:
    """Number of leading tokens that the two have in common."""
    length = 0
    for one, other in zip(ids, others, strict=False):
        if one != other:
            break
        length += 1
    return length


class Conversation:
    """A row of messages as a chat template renders it.

    Args:
        row: with `messages`, or conversational `prompt` and `completion`, and `tools` and `chat_template_kwargs`
            where the dataset has them.
        template: instead of the tokenizer's own.
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
        """Start and stop of each response with the tokens that end it; None where the template does not let one tell.

        A response starts behind the generation prompt. It ends where the conversation up to it ends, unless the
        template shows a turn differently once others follow (reasoning models drop earlier thoughts, for example).
        """
        found = []
        for at in range(self.context, len(self.messages)):
            if self.messages[at]["role"] != "assistant":
                continue
            prompt = self._render(self.messages[:at], prompt=True)
            start = common_prefix(prompt, self.ids)
            if start < len(prompt) and start < len(self._render(self.messages[:at])):
                return None  # what comes before the turn is shown differently here
            stop = self._stop(at)
            if stop is None or stop < start:
                return None
            found.append((start, stop))
        return found

    def _stop(self, at: int) -> int | None:
        if at == len(self.messages) - 1:
            return len(self.ids)
        upto = self._render(self.messages[: at + 1])
        if upto == self.ids[: len(upto)]:
            return len(upto)
        content = self._content_stop(self.messages, at, self.ids)
        last = max(each for each, message in enumerate(self.messages) if message["role"] == "assistant")
        ended = self._content_stop(self.messages, last, self.ids)
        if content is None or ended is None:
            return None
        end = self.ids[ended:]  # what the template puts behind the last response, the end of the text perhaps included
        shared = common_prefix(end, self.ids[content:])
        return content + shared if shared or not end else None

    def _content_stop(self, messages: list[dict[str, Any]], at: int, ids: list[int]) -> int | None:
        """Where the text of a turn ends: two other texts in its place differ up to there, and agree behind it."""
        one, other = (
            self._render([*messages[:at], {**messages[at], "content": text}, *messages[at + 1 :]]) for text in "AB"
        )
        behind = common_prefix(one[::-1], other[::-1])
        return (
            len(ids) - behind if behind <= len(ids) and ids[len(ids) - behind :] == one[len(one) - behind :] else None
        )
