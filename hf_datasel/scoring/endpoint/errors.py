"""What a server, or the way to it, says instead of an answer: what it means, and how it is told."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

__all__ = ["PROBLEMS", "Origin", "Problem"]

_LONGEST = 600.0
"""Seconds that a server may ask to be left alone for."""
_TRANSPORT: type[Exception] = HfHubHTTPError.__bases__[0]  # of httpx, or its successor, as huggingface_hub has it
# The client reads answers and error pages without a look at what they are: these are what it trips with.
PROBLEMS = (_TRANSPORT, OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError)
"""Errors that a request may end with, through no fault of ours."""
_PASSING = (408, 409, 424, 425, 429)  # 424: text-generation-inference, where generation failed
_TOO_LARGE = 413
_REFUSED = (400, _TOO_LARGE, 422)
_OF_ONE_ROW = re.compile(
    r"context.?(length|window|size)|too (long|many|large)|max_new_tokens|content.?(filter|polic)", re.I
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no answer, in the server's words, and the seconds that it asks to be left alone for."""

    status: int | None
    said: str
    after: float = 0.0
    ends_run: bool = False
    no_endpoint: bool = False

    @property
    def passes(self) -> bool:
        """Whether it is worth another attempt."""
        return not self.ends_run and (self.status is None or self.status in _PASSING or self.status >= 500)

    @property
    def refused(self) -> bool:
        """Whether the server has read the request, and does not take it."""
        return self.status in _REFUSED

    @property
    def of_one_row(self) -> bool:
        """Whether it is about what this one request holds."""
        return self.refused and (self.status == _TOO_LARGE or _OF_ONE_ROW.search(self.said) is not None)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where problems come from: the endpoint as messages name it, the model, and the token that they must not show.

    Attributes:
        place: the endpoint, at the start of a sentence.
        model: name of the model there.
        on_hub: whether it is the Hub, and not a server with an address of its own.
        token_name: environment variable of the token.
        token: empty where there is none.
    """

    place: str
    model: str
    on_hub: bool
    token_name: str
    token: str = field(repr=False)

    def problem(self, error: BaseException) -> Problem:
        """What an error of a request means."""
        cause: BaseException | None = error
        response: Any = None
        while cause is not None and response is None:
            response, cause = getattr(cause, "response", None), cause.__cause__ or cause.__context__
        if isinstance(error, OfflineModeIsEnabled):
            said = "HF_HUB_OFFLINE is set, under which no address at all is asked: unset it"
            return Problem(None, said, ends_run=True)
        if response is None:
            said = self._plain(f"{type(error).__name__}: {error}")
            no_provider = self.on_hub and type(error) is ValueError  # the client does not even ask
            no_endpoint = isinstance(error, ValueError) or type(error).__name__ == "ConnectError"
            return Problem(None, said, ends_run=no_provider, no_endpoint=no_endpoint)
        said, status = self._plain(_said(response)), response.status_code
        other = status not in (*_PASSING, *_REFUSED) and status < 500
        return Problem(status, said, _seconds(response), other or "insufficient_quota" in said)

    def sentence(self, problem: Problem) -> str:
        """What is wrong, and what to do about it."""
        place = "model and provider" if self.on_hub else "base_url, which ends in /v1 in most cases"
        if problem.status is None:
            hint = "" if problem.ends_run else f" Check {place}."
            return f"{self.place} gives no answer to {self.model!r} ({problem.said}).{hint}"
        token = f"Check the token in {self.token_name}" if self.token else f"Set {self.token_name}"
        hints = {
            401: f"{token}, or name another environment variable with api_key_env.",
            403: f"{token}, or name another environment variable with api_key_env.",
            402: "There is no credit left.",
            404: f"Check model, and {place}." if not self.on_hub else f"Check {place}.",
            429: "Lower concurrency, or wait: a further run goes on from here.",
        }
        hint = hints.get(problem.status, "Check model, and the settings that are sent with it.")
        hint = hint if problem.status < 500 else "A further run goes on from here."
        return f"{self.place} answers {problem.status} to {self.model!r} ({problem.said}). {hint}"

    def _plain(self, text: str) -> str:
        text = text.replace(self.token, "***") if self.token else text
        text = " ".join(text.split())
        return text if len(text) <= 300 else f"{text[:300]}..."


def _said(response: Any) -> str:
    """The telling part of an error page."""
    try:
        body = response.json()
    except RuntimeError as error:  # the parser's RecursionError is one too
        return "nested too deep" if isinstance(error, RecursionError) else "a page that breaks off"
    except ValueError:
        return "a page of HTML" if "html" in response.headers.get("Content-Type", "") else str(response.text)
    said = body
    for key in ("error", "message", "detail"):
        said = said[key] if isinstance(said, dict) and said.get(key) else said
    inner = body.get("error") if isinstance(body, dict) else None
    return f"{said}, {inner['code']}" if isinstance(inner, dict) and inner.get("code") else str(said)


def _seconds(response: Any) -> float:
    """What the Retry-After of an answer asks for: seconds, or a date."""
    after = str(response.headers.get("Retry-After", ""))
    try:
        seconds = float(after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(after).timestamp() - time.time()
        except (ValueError, TypeError, IndexError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST) if math.isfinite(seconds) else 0.0
