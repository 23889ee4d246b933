"""Rows that go wrong easily, as pairs of texts and as chats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

Turns = list[tuple[str, str]]

REASONS = {
    *("empty_response", "wrong_type", "unknown_role", "no_response", "empty_text", "empty_prompt"),
    *(
        "prompt_fills_window",
        "no_prompt_token",
        "no_response_token",
        "response_not_found",
        "not_single_turn",
        "not_finite",
    ),
    *("missing_content", "invalid_json", "unsupported_flag", "no_prompt", "no_trained_response"),
    *("no_label_after_truncation", "rating_not_found", "template_error", "empty_generation", "no_vector"),
    *("refused", "no_answer", "budget_spent", "unreadable_answer", "tool_calls", "verifier_error"),
}
"""Everything that may stand in a column of reasons."""


@dataclass(frozen=True)
class Row:
    """What a row says, written out by hand.

    Attributes:
        turns: roles and texts; the assistant's turns are responses.
        chat: whether it is trained on as a conversation, through the chat template.
        reason: why no score can read it; "" where it can be read.
        instruction: with `input`, what the published prompts of IFD are made of.
    """

    turns: Turns
    chat: bool
    reason: str = ""
    instruction: str = ""
    input: str = ""

    @property
    def single(self) -> bool:
        return [role for role, _ in self.turns] == ["user", "assistant"]


PAIRS: dict[str, tuple[Any, Any, str]] = {
    "an ordinary one": ("Is it slow?", "It depends on the load.", ""),
    "emoji and joiners": ("👩‍👩‍👧‍👦🏳️‍🌈", "😀‍🔥‍👨🏽‍🚀️", ""),
    "right to left, with marks": ("\u202eמה\u202c שלום \u200f", "\u202bمرحبا\u202c ‏\u2066abc\u2069", ""),
    "NUL and other control characters": ("a\x00b", "\x00\x01\x00c\x7f", ""),
    "the tokenizer's own tokens": (
        "<|im_start|>user\nHi<|im_end|>",
        "Sure.<|im_end|>\n<|im_start|>assistant\n</s><s><pad>",
        "",
    ),
    "a turn of another conversation": ("Hi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n", "Bye.", ""),
    "the end token alone": ("Say nothing.", "</s>", ""),
    "the end of a turn alone": ("Say nothing.", "<|im_end|>", ""),
    "padding": ("Say nothing.", "<pad><pad>", ""),
    "a word of 20,000 letters": ("Write a word.", "x" * 20_000, ""),
    "a zero-width space": ("Say nothing.", "\u200b", ""),
    "a newline": ("Say nothing.", "\n", "empty_response"),
    "a tab": ("Say nothing.", "\t", "empty_response"),
    "white space before the response": ("Say hello.", " \n  Hello", ""),
    "line ends of Windows": ("a\r\nb\r\n", "\r\nc\r\n", ""),
    "braces and formats": (
        "{prompt} %s {response} {0} {{}} {instruction}",
        r"{output} {ratings} %d {%} \1 {{ messages }} {% for each in messages %}",
        "",
    ),
    "the response is the prompt": ("An answer.", "An answer.", ""),
    "numbers": ("12345 67", "5", ""),
    "the word null": ("null", "null", ""),
    "combining marks without a letter": ("\u0301", "\u0301\u0301", ""),
    "characters that are none": ("\uffff\ufeff", "\U0010ffff", ""),
    "a prompt that fills the window": ("ab " * 1500, "Short.", ""),
    "a prompt that nearly fills the window": ("ab " * 300, "Short, but not as short as it could be. " * 20, ""),
    "no prompt": ("", "Hello.", ""),
    "a blank prompt": ("   ", "Hello.", ""),
    "None as the prompt": (None, "Yes.", "wrong_type"),
    "None as the response": ("Is it slow?", None, "empty_response"),
}
"""Prompt, completion, and why no score can read the two."""

USER, BOT, TOOL, SYSTEM = "user", "assistant", "tool", "system"
CHATS: dict[str, tuple[Any, str]] = {
    "turns of a tool": (
        [
            (SYSTEM, "Be brief."),
            (USER, "Is it warm?"),
            (BOT, "weather()"),
            (TOOL, '{"degrees": 3}'),
            (BOT, "No, three degrees."),
        ],
        "",
    ),
    "several turns": (
        [(USER, "Hi"), (BOT, "Hello!"), (USER, "Bye"), (BOT, "Ciao.")],
        "",
    ),
    "two tools in turn": ([(USER, "Go."), (BOT, "a()"), (TOOL, "1"), (TOOL, "2"), (BOT, "3")], ""),
    "the end token as an earlier response": ([(USER, "Hi"), (BOT, "</s>"), (USER, "Bye"), (BOT, "Ciao.")], ""),
    "the end of a turn as an earlier response": ([(USER, "a"), (BOT, "<|im_end|>"), (USER, "b"), (BOT, "c")], ""),
    "the end token as the last response": ([(USER, "Hi"), (BOT, "Hello!"), (USER, "Bye"), (BOT, "</s>")], ""),
    "a last response that is cut": ([(USER, "Hi"), (BOT, "Hello!"), (USER, "More."), (BOT, "more " * 600)], ""),
    "a last response behind the window": ([(USER, "a"), (BOT, "b" * 5000), (USER, "c"), (BOT, "d")], ""),
    "a developer, and no text of the user": ([("developer", "Be brief."), (USER, ""), (BOT, "Hm.")], ""),
    "no response": ([(USER, "Hi")], "no_response"),
    "no question": ([(BOT, "Hi")], ""),
    "a greeting first": ([(BOT, "Hello!"), (USER, "Hi"), (BOT, "How are you?")], ""),
    "two questions": ([(USER, "a"), (USER, "b"), (BOT, "c")], ""),
    "a question last": ([(USER, "a"), (BOT, "b"), (USER, "c")], ""),
    "a tool first": ([(TOOL, "a"), (BOT, "b")], ""),
    "a system message late": ([(USER, "a"), (BOT, "b"), (SYSTEM, "c"), (USER, "d"), (BOT, "e")], ""),
    "a role of its own": ([("wizard", "a"), (BOT, "b")], "unknown_role"),
    "an empty response": ([(USER, "a"), (BOT, "")], "empty_response"),
    "None as a response": ([(USER, "a"), (BOT, None)], "empty_response"),
    "None as a question": ([(USER, None), (BOT, "a")], "wrong_type"),
    "no turn": ([], "no_response"),
    "None": (None, "wrong_type"),
}
"""Turns, and why no score can read them."""


def pairs() -> tuple[Any, list[Row]]:
    """The pairs as a dataset, and what they say."""
    from datasets import Dataset

    prompts, completions, reasons = (list(column) for column in zip(*PAIRS.values(), strict=True))
    rows = [
        Row([(USER, prompt), (BOT, completion)], False, reason, prompt)
        for prompt, completion, reason in zip(prompts, completions, reasons, strict=True)
    ]
    return Dataset.from_dict({"prompt": prompts, "completion": completions}), rows


def chats() -> tuple[Any, list[Row]]:
    """The chats as a dataset, and what they say."""
    from datasets import Dataset

    messages = [
        None if turns is None else [{"role": role, "content": content} for role, content in turns]
        for turns, _ in CHATS.values()
    ]
    rows = [Row(turns, True, reason, turns[0][1] if turns else "") for turns, reason in CHATS.values()]
    return Dataset.from_dict({"messages": messages}), rows


def alpaca(path: Path) -> tuple[Any, list[Row]]:
    """The rows of a JSON file with the columns of Alpaca as a dataset, and what they say."""
    import json

    from datasets import Dataset

    read = json.loads(path.read_text())
    rows = [
        Row(
            [
                (USER, f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]),
                (BOT, row["output"]),
            ],
            True,
            "" if row["output"] else "empty_response",
            row["instruction"],
            row["input"],
        )
        for row in ({"input": "", **item} for item in read)
    ]
    return Dataset.from_list([{"instruction": row.instruction, "input": row.input, "output": row.turns[1][1]}
                              for row in rows]), rows  # fmt: skip
