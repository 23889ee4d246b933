"""Positions of the assistant turns in a rendered conversation."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from hf_datasel.tokens.row_tokenizer import row_messages, template_kwargs
from hf_datasel.tokens.turn_segments import Segment, message_segments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["RENDERING_ERRORS", "Conversation", "Span", "common_prefix"]

Span = tuple[int, int]

RENDERING_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""Errors that chat templates raise for conversations that they do not support, besides those of Jinja."""

_QUESTION = {"role": "user", "content": "Hello"}
_MAX_HEADER = 400
"""Maximum number of characters of a generation prompt that is searched for in a turn."""


def common_prefix(ids: list[int], others: list[int]) -> int:
    """Return the number of leading tokens that two sequences have in common."""
    length = 0
    for first, second in zip(ids, others, strict=False):
        if first != second:
            break
        length += 1
    return length


def _shared_length(text: str, other: str) -> int:
    """Return the number of leading characters that two texts have in common."""
    low, high = 0, min(len(text), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if text[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Conversation:
    """A conversation as a chat template renders it.

    Args:
        tokenizer: Tokenizer with a chat template.
        row: Converted row with `messages`, or conversational `prompt` and `completion`.
        template: Chat template to use instead of the tokenizer's own.

    Attributes:
        text: The rendered conversation.
        ids: Its token ids.
        context: Number of messages before the first that is trained on.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], template: str | None):
        self.tokenizer = tokenizer
        self.messages, self.context = row_messages(row)
        self.kwargs = template_kwargs(row, template)
        self.text = self._render(self.messages)
        encoded = tokenizer(self.text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
        self.ids = list(encoded["input_ids"])
        self._stops = [stop for _, stop in encoded["offset_mapping"]] if tokenizer.is_fast else None

    def _render(self, messages: list[dict[str, Any]], prompt: bool = False) -> str:
        return str(
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **self.kwargs)
        )

    def _try_render(self, messages: list[dict[str, Any]], prompt: bool = False) -> str | None:
        """Render other messages than those of the row; None if the template does not support them."""
        try:
            return self._render(messages, prompt) if messages else None
        except RENDERING_ERRORS:
            return None

    def turn_spans(self, first: int | None = None) -> dict[int, list[Span]] | None:
        """Return start and stop of each assistant turn, including the tokens that end it.

        A turn starts after the generation prompt, as far as the template renders it before this turn, and ends with
        what the template adds to it, such as an end token.

        Args:
            first: Position of the first message that may be such a turn; by default the first that is trained on.

        Returns:
            The spans of each turn by its position in the conversation, in order: usually one, none if the template
            does not render the turn, and several if it renders tool results in the middle of the turn. None if the
            turns cannot be located in the text.
        """
        turns = {}
        for index in range(self.context if first is None else first, len(self.messages)):
            if self.messages[index]["role"] == "assistant":
                characters = self._turn(index)
                if characters is None:
                    return None
                spans = [(self._token(start), self._token(stop)) for start, stop in characters]
                turns[index] = [(start, stop) for start, stop in spans if stop > start]
        return turns

    def _token(self, character: int) -> int:
        """Return the first token that ends after a position in the text."""
        if character == len(self.text):
            return len(self.ids)
        if self._stops is not None:
            return bisect_right(self._stops, character)
        return common_prefix(self.tokenizer(self.text[:character], add_special_tokens=False)["input_ids"], self.ids)

    def _token_start(self, character: int) -> int:
        """Return where the token at a position in the text begins, if the tokenizer knows."""
        if self._stops is None:
            return character
        token = bisect_right(self._stops, character)
        return self._stops[token - 1] if token else 0

    def _turn(self, index: int) -> list[Span] | None:
        """Return the parts of the text that belong to a turn."""
        is_last = index == len(self.messages) - 1
        prompt = self._try_render(self.messages[:index], prompt=True)
        if is_last and prompt is not None and self.text.startswith(prompt):
            parts: list[Span] | None = [(len(prompt), len(self.text))]
        elif parts := [(segment.start, segment.stop) for segment in self._segments if segment.message == index]:
            start, stop = parts[0]
            parts[0] = start + self._header(index, prompt, self.text[start:stop], start), stop
            if is_last:
                parts[-1] = parts[-1][0], len(self.text)
        else:
            parts = self._turn_by_prefixes(index, prompt)
        if parts and index and self.messages[index - 1]["role"] in ("assistant", "tool"):
            # some templates have no generation prompt here, but begin the turn like any other
            start, stop = self._token_start(parts[0][0]), parts[0][1]
            if self.text.startswith(self._usual_prompt, start):
                parts[0] = start + len(self._usual_prompt), stop
        return parts

    @cached_property
    def _usual_prompt(self) -> str:
        """Generation prompt after a question; empty if the template does not support a single question."""
        return self._generation_prompt([_QUESTION]) or ""

    def _generation_prompt(self, messages: list[dict[str, Any]]) -> str | None:
        """Return what the template adds after messages; None if it does not support them."""
        prompt, without = self._try_render(messages, prompt=True), self._try_render(messages)
        if prompt is None or without is None:
            return None
        segments = self._find_segments(messages, prompt, add_generation_prompt=True)
        start = segments[-1].stop if segments else len(prompt)
        return prompt[start:] or prompt[_shared_length(prompt, without) :]

    def _header(self, index: int, prompt: str | None, turn: str, start: int) -> int:
        """Return the number of characters at the beginning of a turn that belong to the generation prompt."""
        if prompt is not None and (shared := _shared_length(prompt, self.text)) >= start:
            return min(shared - start, len(turn))  # the turns before render the same with and without this turn
        if prompt is None:  # such as for a first turn, which may follow BOS or a default system message
            usual = self._usual_prompt
            size = next((size for size in range(len(usual), 0, -1) if usual[:size] in turn), 0)
            return turn.find(usual[:size]) + size
        added = self._generation_prompt(self.messages[:index])
        if added is None or turn.startswith(added):
            return len(added or "")
        overlaps = (size for size in range(min(len(turn), _MAX_HEADER), 1, -1) if prompt.endswith(turn[:size]))
        return next(overlaps, _shared_length(added, turn))

    def _turn_by_prefixes(self, index: int, prompt: str | None) -> list[Span] | None:
        """Locate a turn of a template that copies its messages, if it renders the turns before and after the same."""
        before, after = self._try_render(self.messages[:index]), self._try_render(self.messages[: index + 1])
        if prompt is None or before is None or after is None or not self.text.startswith(after):
            return None
        start = _shared_length(prompt, self.text)
        if start < len(prompt) and start < len(before):
            return None
        stop = len(self.text) if index == len(self.messages) - 1 else len(after)
        return [(min(start, stop), stop)]

    @cached_property
    def _segments(self) -> list[Segment]:
        """Parts of the text that each message produced; empty if they cannot be found."""
        return self._find_segments(self.messages, self.text)

    def _find_segments(self, messages: list[dict[str, Any]], expected: str, **options: Any) -> list[Segment]:
        try:
            text, segments = message_segments(self.tokenizer, messages, {**self.kwargs, **options})
        except RENDERING_ERRORS:  # the template does not work with markers
            return []
        return segments if text == expected else []

    def unrendered_calls(self, turns: Iterable[int]) -> set[int]:
        """Return the turns with tool calls of which the template renders none.

        Args:
            turns: Positions of assistant turns in the conversation.
        """
        return {index for index in turns if self.messages[index].get("tool_calls") and not self._has_calls(index)}

    def _has_calls(self, index: int) -> bool:
        plain = {key: value for key, value in self.messages[index].items() if key != "tool_calls"}
        return self._try_render([*self.messages[:index], plain, *self.messages[index + 1 :]]) != self.text
