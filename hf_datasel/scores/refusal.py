"""Responses that refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from hf_datasel.errors import ConfigError
from hf_datasel.formats import Row
from hf_datasel.scoring.base import Columns, Score
from hf_datasel.scoring.phrases import Phrases, checked_phrases
from hf_datasel.scoring.row_texts import measure_texts
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["REFUSAL_PHRASES", "Refusal"]

_CANNOT = (
    "I cannot",
    "I can't",
    "I can not",
    "I am unable to",
    "I'm unable to",
    "I am not able to",
    "I'm not able to",
    "I do not have",
    "I don't have",
    "I won't",
    "I will not",
)
_ACTIONS = (
    "access", "answer", "assist", "browse", "complete", "comply", "create", "do that", "do this", "engage", "fulfill",
    "generate", "give you", "help with", "help you", "offer", "perform", "process", "produce", "provide", "set up",
    "support", "write",
)  # fmt: skip

REFUSAL_PHRASES = (
    "as an AI language model",
    "as an AI model",
    "as an artificial intelligence",
    "as a language model",
    "as a large language model",
    "I am an AI language model",
    "I'm an AI language model",
    "I am just an AI",
    "I'm just an AI",
    "I am only an AI",
    "I'm only an AI",
    "I am a language model",
    "I'm a language model",
    "I must decline",
    "I do not have access to",
    "I don't have access to",
    "I do not have the ability to",
    "I don't have the ability to",
    *(f"{sorry} {cannot}" for sorry in ("sorry, but", "sorry,", "I apologize, but") for cannot in _CANNOT),
    *(f"as an {ai} {cannot}" for ai in ("AI,", "AI", "AI assistant,", "AI assistant") for cannot in _CANNOT),
    *(f"{cannot} {action}" for cannot in _CANNOT for action in _ACTIONS),
    "sorry, this cannot",
    "sorry, the task",
    "cannot be completed by a GPT",
    "nooutput",
    "<no output",
)
"""Phrases of refusals in English, of well-known assistants; the last five are those of Alpaca."""


@dataclass(frozen=True)
class Refusal(Score):
    """Whether a response begins like a refusal, such as "As an AI language model, I cannot": 1 or 0.

    A response counts if one of the phrases is in its first characters, as words: case, white space and the form of
    apostrophes do not matter. In a conversation every response is looked at.

    False positives: answers that name what they cannot do and then do it ("As an AI language model, I have no
    opinions, but here are some arguments"), answers to who the assistant is, and a refusal that the row asked for (a
    letter that declines an offer, a dialogue). Refusals in other words, in other languages or after a longer beginning
    are not found: add their phrases. Apologies ("I'm sorry for the delay") and "as an AI assistant, I am happy to" do
    not count. Of 5,200 rows of Alpaca 12 count, one of which was asked for.

    Reads any supported row format that has a response. Writes `refusal` (int32, 1 for a refusal), `refusal_phrase`
    (the phrase that was found, "" for none) and `refusal_reason` ("" for a row with a value). Cost: no model.

    Args:
        phrases: Further phrases, beside those of `hf_datasel.scores.refusal.REFUSAL_PHRASES`.
        builtin_phrases: Whether the phrases of `REFUSAL_PHRASES` count.
        first_characters: Number of characters of a response that a phrase has to be in.
        column_prefix: Prefix of the name of every column that the score writes.

    >>> rows = {"prompt": ["Hi"] * 2, "completion": ["I’m sorry, but I can't help.", "I cannot believe it."]}
    >>> columns = Refusal()(rows)
    >>> columns["refusal"], columns["refusal_phrase"]
    ([np.int32(1), np.int32(0)], ["sorry, but I can't", ''])
    """

    phrases: Sequence[str] = ()
    builtin_phrases: bool = field(default=True, kw_only=True)
    first_characters: int = field(default=200, kw_only=True)

    is_flaw = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "phrases", checked_phrases("Refusal", self.phrases))
        if not self.builtin_phrases and not self.phrases:
            raise ConfigError("Refusal(builtin_phrases=False) has no phrases: pass phrases=[...].")
        if type(self.first_characters) is not int or self.first_characters < 1:
            raise ConfigError(
                f"Refusal(first_characters={self.first_characters!r}): it has to be an int of at least 1."
            )

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows."""
        return True

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"refusal": pa.int32(), "refusal_phrase": pa.string(), "refusal_reason": pa.string()}

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        phrases = Phrases((*self.phrases, *(REFUSAL_PHRASES if self.builtin_phrases else ())))

        def measure(text: str, row: Row) -> tuple[int, str]:
            responses = (row.turns[position].content for position in row.response_turns)
            found = [phrase for response in responses for phrase in phrases.find(response[: self.first_characters])]
            return int(bool(found)), found[0] if found else ""

        return measure_texts(self, rows, "response", measure)
