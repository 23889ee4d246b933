"""Conversion of the rows of each format into canonical rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_datasel.formats.layouts import Layout, row_layout
from hf_datasel.formats.messages import (
    ROLES,
    MalformedRowError,
    describe,
    drop_nulls,
    parse_json,
    read_flag,
    read_messages,
    text_of,
)
from hf_datasel.formats.rows import Batch, Row, Turn
from hf_datasel.formats.token_ids import tokenized_row

__all__ = ["canonical_rows"]


def canonical_rows(batch: Batch, row_format: str | None = None, columns: Mapping[str, str] | None = None) -> list[Row]:
    """Convert a batch of rows into canonical rows. A malformed row has a `reason`, and a `detail`.

    Args:
        batch: Mapping from column name to values.
        row_format: A key of `FORMATS`; detected from the columns by default.
        columns: Names of columns of the supported formats, and the names that the batch has for them.

    Returns:
        One `Row` per row of the batch.

    Raises:
        FormatError: The columns match no supported format.

    >>> canonical_rows({"prompt": ["Is it slow?"], "completion": ["Yes."]})[0].response
    'Yes.'
    """
    layout = row_layout(list(batch), columns, row_format)
    reader = _Reader(layout)
    required = [batch[name] for name in layout.fields.values()]
    if layout.format == "alpaca":  # the order of the values is part of the id of a malformed row
        inputs = batch[layout.optional["input"]] if "input" in layout.optional else [""] * len(required[0])
        required = [required[0], inputs, required[1]]
    extras = {key: batch[name] for key, name in layout.optional.items() if (layout.format, key) != ("alpaca", "input")}
    rows = []
    for number, values in enumerate(zip(*required, strict=True)):
        extra = {key: column[number] for key, column in extras.items() if column[number] is not None} if extras else {}
        try:
            rows.append(reader.read(values, extra))
        except MalformedRowError as error:
            turns = _raw_turns(values, extra)
            rows.append(Row(turns=turns, context=1, reason=error.reason, detail=error.detail))
    return rows


def _raw_turns(values: Sequence[Any], extra: Mapping[str, Any]) -> tuple[Turn, ...]:
    """Return the values of a malformed row as one turn, from which its id is computed."""
    content: Any = [drop_nulls(value) for value in values]
    if extra := {key: value for key, value in extra.items() if key != "rejected" and value not in ("", [], {})}:
        content = [content, drop_nulls(extra)]
    return (Turn("raw", json.dumps(content, default=str, ensure_ascii=False, sort_keys=True)),)


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


class _Reader:
    """Reader of the rows of one layout."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.columns = {**layout.fields, **layout.optional}
        readers: dict[str, Callable[..., Row]] = {
            "prompt-completion": self._prompt_completion,
            "messages": self._messages,
            "sharegpt": self._messages,
            "preference": self._preference,
            "alpaca": self._alpaca,
            "instruction-response": self._instruction_response,
            "text": self._text_row,
            "tokenized": lambda extra, ids: tokenized_row(self.columns, {**extra, "input_ids": ids}),
        }
        self._read = readers[layout.format]

    def read(self, values: Sequence[Any], extra: dict[str, Any]) -> Row:
        """Return the row, or raise `MalformedRowError`."""
        return self._read(extra, *values)

    # -- columns ------------------------------------------------------------------------------------------------------
    def _place(self, key: str) -> str:
        return f"column {self.columns.get(key, key)!r}"

    def _text(self, value: Any, key: str) -> str:
        return value if isinstance(value, str) else text_of(value, self._place(key))

    def _response(self, value: Any, key: str) -> str:
        if _is_blank(value):
            raise MalformedRowError("empty_response", f"{self._place(key)} is {describe(value)}")
        return self._text(value, key)

    def _turns(self, messages: Any, key: str) -> list[Turn]:
        return read_messages(messages, self._place(key), self.layout.role_key, self.layout.content_key)

    def _system(self, extra: dict[str, Any], turns: Sequence[Turn]) -> list[Turn]:
        """Return the turn of the system column, none if it is empty or the first turn repeats it."""
        value = extra.get("system")
        if _is_blank(value):
            return []
        turn = Turn("system", self._text(value, "system"))
        return [] if turns and turns[0] == turn else [turn]

    def _history(self, extra: dict[str, Any]) -> list[Turn]:
        value, place = extra.get("history"), self._place("history")
        if isinstance(value, str):
            value = parse_json(value, place) if value.strip() else None
        if not value:
            return []
        if not isinstance(value, list):
            raise MalformedRowError("wrong_type", f"{place} is {describe(value)}, and has to be a list of pairs")
        if all(isinstance(item, dict) for item in value):
            return self._turns(value, "history")
        turns = []
        for pair in value:
            if not isinstance(pair, list) or len(pair) != 2:
                raise MalformedRowError("wrong_type", f"{place} has {describe(pair)} for a pair of texts")
            turns += [Turn("user", self._text(pair[0], "history")), Turn("assistant", self._text(pair[1], "history"))]
        return turns

    def _tools(self, extra: dict[str, Any]) -> list[Any] | None:
        value, place = extra.get("tools"), self._place("tools")
        if isinstance(value, str):
            value = parse_json(value, place) if value.strip() else None
        value = drop_nulls(value)
        if isinstance(value, dict):
            value = [value] if value else None
        if not value:
            return None
        if not isinstance(value, list):
            raise MalformedRowError("wrong_type", f"{place} is {describe(value)}, and has to be a list of tools")
        tools = [parse_json(tool, place) if isinstance(tool, str) else tool for tool in value]
        for tool in tools:
            if not isinstance(tool, dict):
                raise MalformedRowError("wrong_type", f"{place} has {describe(tool)} for a tool, a mapping is needed")
        return tools

    def _template_kwargs(self, extra: dict[str, Any]) -> dict[str, Any] | None:
        value, place = extra.get("chat_template_kwargs"), self._place("chat_template_kwargs")
        if isinstance(value, str):
            value = parse_json(value, place) if value.strip() else None
        value = drop_nulls(value)
        if value is not None and not isinstance(value, dict):
            raise MalformedRowError("wrong_type", f"{place} is {describe(value)}, and has to be a mapping")
        return value or None

    def _masked(self, extra: dict[str, Any], roles: Sequence[str]) -> list[bool] | None:
        """Return for each message whether the loss does not cover it; None without such a column.

        Args:
            extra: Values of the optional columns.
            roles: Role of each message.
        """
        for key in ("masked", "trained"):
            value, place = extra.get(key), self._place(key)
            if value is None:
                continue
            if isinstance(value, str) and value.lower() in ROLES:  # NeMo: the role that the loss does not cover
                return [(role == ROLES[value.lower()]) == (key == "masked") for role in roles]
            if not isinstance(value, list):
                return [read_flag(value, place) == (key == "masked")] * len(roles)
            if len(value) != len(roles):
                raise MalformedRowError(
                    "wrong_type", f"{place} has {len(value)} values for {len(roles)} messages; one each is needed"
                )
            return [flag is not None and read_flag(flag, place) == (key == "masked") for flag in value]
        return None

    # -- rows ---------------------------------------------------------------------------------------------------------
    def _chat_row(self, extra: dict[str, Any], turns: list[Turn], context: int) -> Row:
        if extra:
            if masked := self._masked(extra, [turn.role for turn in turns]):
                turns = [
                    Turn(
                        turn.role, turn.content, turn.message, turn.trained and not (flag and turn.role == "assistant")
                    )
                    for turn, flag in zip(turns, masked, strict=True)
                ]
            system = self._system(extra, turns)
            turns, context = [*system, *turns], context + len(system)
        row = self._row(extra, turns, context, instruction=turns[0].content if turns else "")
        if not any(turn.role == "assistant" for turn in turns[context:]):
            raise MalformedRowError("no_response", f"{self._place(self._last())} has no turn of the assistant")
        responses = row.response_turns
        if not responses:
            raise MalformedRowError("no_trained_response", "loss flags exclude every turn of the assistant")
        if not any(turns[position].content.strip() for position in responses):
            raise MalformedRowError("empty_response", f"{self._place(self._last())} has no text of the assistant")
        return row

    def _last(self) -> str:
        return next(key for key in ("completion", "chosen", "messages", "output") if key in self.columns)

    def _row(
        self, extra: dict[str, Any], turns: Sequence[Turn], context: int, instruction: str = "", input_text: str = ""
    ) -> Row:
        if not extra:
            return Row(tuple(turns), context, "", instruction, input_text)
        tools, kwargs = self._tools(extra), self._template_kwargs(extra)
        return Row(tuple(turns), context, "", instruction, input_text, tools, kwargs)

    def _pair(self, extra: dict[str, Any], user: str, response: str, instruction: str, input_text: str = "") -> Row:
        turns = [Turn("user", user), Turn("assistant", response)]
        if not extra:
            return Row(tuple(turns), 1, "", instruction, input_text)
        masked = self._masked(extra, ["user", "assistant"])
        if masked and masked[-1]:
            raise MalformedRowError("no_trained_response", "the mask excludes the response")
        history = self._history(extra)
        turns = [*self._system(extra, history), *history, *turns]
        return self._row(extra, turns, len(turns) - 1, instruction, input_text)

    def _alpaca(self, extra: dict[str, Any], instruction: Any, instruction_input: Any, output: Any) -> Row:
        response, instruction = self._response(output, "output"), self._text(instruction, "instruction")
        instruction_input = self._text("" if instruction_input is None else instruction_input, "input")
        user = f"{instruction}\n\n{instruction_input}" if instruction_input.strip() else instruction
        return self._pair(extra, user, response, instruction, instruction_input)

    def _instruction_response(self, extra: dict[str, Any], instruction: Any, output: Any) -> Row:
        return self._alpaca(extra, instruction, extra.pop("input", ""), output)

    def _prompt_completion(self, extra: dict[str, Any], prompt: Any, completion: Any) -> Row:
        if isinstance(prompt, str) and (completion is None or isinstance(completion, str)):
            return self._pair(extra, prompt, self._response(completion, "completion"), prompt)
        if _is_blank(completion):
            raise MalformedRowError("empty_response", f"{self._place('completion')} is {describe(completion)}")
        turns = self._prompt_turns(prompt, "prompt")
        return self._chat_row(extra, [*turns, *self._answer_turns(completion, "completion")], len(turns))

    def _prompt_turns(self, prompt: Any, key: str) -> list[Turn]:
        return [Turn("user", prompt)] if isinstance(prompt, str) else self._turns_or_text(prompt, key)

    def _answer_turns(self, answer: Any, key: str) -> list[Turn]:
        if isinstance(answer, list) and any(isinstance(item, str) and '"role"' not in item for item in answer):
            raise MalformedRowError(
                "wrong_type",
                f"{self._place(key)} is a list of {len(answer)} texts, and has to be text or a list of messages",
            )
        return [Turn("assistant", answer)] if isinstance(answer, str) else self._turns_or_text(answer, key)

    def _turns_or_text(self, value: Any, key: str) -> list[Turn]:
        if not isinstance(value, list | dict):
            raise MalformedRowError(
                "wrong_type", f"{self._place(key)} is {describe(value)}, and has to be text or a list of messages"
            )
        return self._turns(value, key)

    def _messages(self, extra: dict[str, Any], messages: Any) -> Row:
        return self._chat_row(extra, self._turns(messages, "messages"), 0)

    def _text_row(self, extra: dict[str, Any], text: Any) -> Row:
        if _is_blank(text):
            raise MalformedRowError("empty_text", f"{self._place('text')} is {describe(text)}")
        return Row((Turn("text", self._text(text, "text")),))

    # -- preference data ----------------------------------------------------------------------------------------------
    def _preference(self, extra: dict[str, Any], first: Any, second: Any) -> Row:
        if "rejected" in self.layout.fields:
            return self._implicit_prompt(extra, first, second)
        rejected = extra.pop("rejected", None)
        if "instruction" in self.layout.fields:
            if _is_blank(second) or isinstance(second, str):
                return self._alpaca(extra, first, extra.pop("input", ""), second)
            instruction_input = extra.pop("input", "")
            first = f"{first}\n\n{instruction_input}" if isinstance(first, str) and instruction_input else first
        if isinstance(first, str) and (second is None or isinstance(second, str)):
            return self._pair(extra, first, self._response(second, "chosen"), first)
        if _is_blank(second):
            raise MalformedRowError("empty_response", f"{self._place('chosen')} is {describe(second)}")
        key = "instruction" if "instruction" in self.layout.fields else "prompt"
        prompt, chosen = self._prompt_turns(first, key), self._answer_turns(second, "chosen")
        asked, told = _texts(prompt), _texts(chosen)
        if isinstance(first, str) and asked[0] in told[:-1]:  # argilla: the prompt is a turn of the chosen
            return self._chat_row(extra, chosen, _shared(chosen, self._other_turns(rejected)))
        most = max(min(len(asked), len(told) - 1), 0)
        repeated = next(size for size in range(most, -1, -1) if told[:size] == asked[len(asked) - size :])
        roles = [turn.role for turn in chosen]
        if not repeated and "assistant" in roles and roles[0] not in ("assistant", "tool"):
            raise MalformedRowError(
                "no_prompt",
                f"{self._place('chosen')} is a conversation without {self._place(key)}; remove one of the two "
                "columns, or leave nothing but the answer in the former",
            )
        return self._chat_row(extra, [*prompt, *chosen[repeated:]], len(prompt))

    def _other_turns(self, rejected: Any) -> list[Turn]:
        return self._answer_turns(rejected, "rejected") if rejected else []

    def _implicit_prompt(self, extra: dict[str, Any], chosen: Any, rejected: Any) -> Row:
        if _is_blank(chosen):
            raise MalformedRowError("empty_response", f"{self._place('chosen')} is {describe(chosen)}")
        if not isinstance(chosen, str):
            turns = self._turns(chosen, "chosen")
            return self._chat_row(extra, turns, _shared(turns, self._other_turns(rejected)))
        rejected = rejected if isinstance(rejected, str) else ""
        if turns := _dialogue(chosen):
            return self._chat_row(extra, turns, _shared(turns, _dialogue(rejected)))
        start = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), len(rejected))
        start = chosen.rfind(" ", 0, start) + 1 if start < len(chosen) else 0
        if not chosen[:start].strip():
            raise MalformedRowError(
                "no_prompt", f"{self._place('chosen')} and {self._place('rejected')} share no beginning"
            )
        return self._pair(extra, chosen[:start].rstrip(), chosen[start:], chosen[:start].rstrip())


def _texts(turns: list[Turn]) -> list[tuple[str, str]]:
    """Return what turns say, for comparing turns that differ in white space."""
    return [(turn.role, turn.content.strip()) for turn in turns]


def _shared(turns: list[Turn], others: list[Turn]) -> int:
    """Return how many turns the prompt has: those shared with other turns, or those up to the last user turn."""
    count = 0
    while count < min(len(turns), len(others)) and turns[count] == others[count]:
        count += 1
    if 0 < count < len(turns):
        return count
    last = max((position for position, turn in enumerate(turns) if turn.role == "assistant"), default=0)
    return (
        last
        if count or not others
        else next((position for position in range(len(turns) - 1, -1, -1) if turns[position].role == "user"), -1) + 1
    )


_SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")


def _dialogue(text: str) -> list[Turn]:
    """Return the turns of a text in which Human and Assistant take turns, as in HH-RLHF; none of another text."""
    text = f"\n\n{text.lstrip()}"
    start, *parts = _SPEAKER.split(text)
    if start or len(parts) < 4 or parts[0] != "Human":
        return []
    roles = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [Turn(roles[speaker], content.strip()) for speaker, content in pairs]
