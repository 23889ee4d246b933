"""Failed requests: what an error or an error response of a server means, and the message for the user."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

from hf_datasel.scoring.endpoint.transport import LimitError, RedirectError, StatusError

__all__ = ["FailureReader", "RequestFailure", "request_errors"]

_TEMPORARY = (408, 409, 424, 425, 429)  # 424: text-generation-inference, if the generation failed
_TOO_LARGE = 413
_REFUSED = (400, _TOO_LARGE, 422)
_ABOUT_ONE_REQUEST = re.compile(
    r"context.?(length|window|size)|too (long|many|large)|max_new_tokens|content.?(filter|polic)", re.I
)


@functools.cache
def request_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that a request raises because of the network or the server."""
    from hf_datasel.hub.retry import TRANSPORT_ERROR

    # The client parses answers and error pages without checking their structure, so malformed ones raise the others.
    malformed = (ValueError, TypeError, AttributeError, KeyError, RecursionError)
    return (StatusError, LimitError, RedirectError, TRANSPORT_ERROR, OSError, *malformed)


@dataclass(frozen=True, slots=True)
class RequestFailure:
    """Why a request has no answer.

    Args:
        status: HTTP status, or None without a response.
        message: Message of the server or of the client.
        retry_after: Number of seconds that the server asks to wait for.
        ends_run: Whether no further request can succeed.
        is_final: Whether this request is not sent again.
        no_endpoint: Whether there is no endpoint at this address.
    """

    status: int | None
    message: str
    retry_after: float = 0.0
    ends_run: bool = False
    is_final: bool = False
    no_endpoint: bool = False

    @property
    def is_temporary(self) -> bool:
        """Whether another attempt may succeed."""
        is_worth_repeating = self.status is None or self.status in _TEMPORARY or self.status >= 500
        return is_worth_repeating and not (self.ends_run or self.is_final)

    @property
    def is_refused(self) -> bool:
        """Whether the server has read the request and refused it."""
        return self.status in _REFUSED

    @property
    def is_about_one_request(self) -> bool:
        """Whether the content of this request was refused, and not the settings of all requests."""
        return self.is_refused and (self.status == _TOO_LARGE or _ABOUT_ONE_REQUEST.search(self.message) is not None)


@dataclass(frozen=True, slots=True)
class FailureReader:
    """Reads the errors of requests to one endpoint.

    Args:
        endpoint: Name of the endpoint, at the start of a sentence.
        model: Name of the model.
        on_hub: Whether the endpoint is the Hub, and not a server with its own URL.
        token_name: Environment variable of the token.
        token: The token, which messages must not show; empty if there is none.
    """

    endpoint: str
    model: str
    on_hub: bool
    token_name: str
    token: str = field(repr=False)

    def read(self, error: BaseException) -> RequestFailure:
        """Return what an error of a request means.

        Args:
            error: The error; its causes are searched for a response of the server.
        """
        from huggingface_hub.errors import OfflineModeIsEnabled

        from hf_datasel.hub.retry import retry_after, status_code

        if isinstance(error, OfflineModeIsEnabled):
            return RequestFailure(None, "HF_HUB_OFFLINE is set, which blocks all requests: unset it", ends_run=True)
        if isinstance(error, LimitError | RedirectError):
            is_limit = isinstance(error, LimitError)
            return RequestFailure(None, self._clean(str(error)), ends_run=not is_limit, is_final=is_limit)
        cause: BaseException | None = error
        while cause is not None and getattr(cause, "response", None) is None:
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            message = self._clean(f"{type(error).__name__}: {error}")
            no_provider = self.on_hub and type(error) is ValueError  # raised by the client before it sends the request
            no_endpoint = isinstance(error, ValueError) or type(error).__name__ == "ConnectError"
            return RequestFailure(None, message, ends_run=no_provider, no_endpoint=no_endpoint)
        response: Any = getattr(cause, "response", None)
        message, status = self._clean(_message(response)), status_code(cause) or 0
        is_final = status not in (*_TEMPORARY, *_REFUSED) and status < 500
        wait = retry_after(response, math.inf)
        return RequestFailure(status, message, wait, is_final or "insufficient_quota" in message)

    def without_budget(self, failure: RequestFailure, waiting_seconds: float) -> RequestFailure:
        """Return the failure of a request whose next attempt would exceed the time for waiting.

        Args:
            failure: The failure of the last attempt.
            waiting_seconds: The limit.
        """
        asks = f" and asks to wait for {failure.retry_after:,.0f} s" if failure.retry_after > waiting_seconds else ""
        message = f"{failure.message}{asks}; the limit waiting_seconds is {waiting_seconds:,g} s"
        return replace(failure, message=message, is_final=True)

    def describe(self, failure: RequestFailure) -> str:
        """Return a message with what is wrong and how to solve it."""
        address = "model and provider" if self.on_hub else "base_url, which ends in /v1 in most cases"
        if failure.status is None:
            hint = "" if failure.ends_run or failure.is_final else f" Check {address}."
            return f"{self.endpoint} gives no answer to {self.model!r} ({failure.message}).{hint}"
        token = f"Check the token in {self.token_name}" if self.token else f"Set {self.token_name}"
        hints = {
            401: f"{token}, or name another environment variable with api_key_env.",
            403: f"{token}, or name another environment variable with api_key_env.",
            402: "There is no credit left.",
            404: f"Check model, and {address}." if not self.on_hub else f"Check {address}.",
            429: "Lower concurrency, or wait: another run continues from here.",
        }
        hint = hints.get(failure.status, "Check model, and the settings that are sent with it.")
        if failure.is_refused and "temperature" in failure.message:
            hint = "Some models take no temperature but their own: Judge(temperature=None), RewardGap(temperature=1)."
        hint = hint if failure.status < 500 else "Another run continues from here."
        return f"{self.endpoint} answers {failure.status} to {self.model!r} ({failure.message}). {hint}"

    def _clean(self, text: str) -> str:
        text = text.replace(self.token, "***") if self.token else text
        text = " ".join("".join(char if char.isprintable() else " " for char in text[:10_000]).split())
        return text if len(text) <= 300 else f"{text[:300]}..."


def _message(response: Any) -> str:
    """Return the informative part of an error response."""
    try:
        body = response.json()
    except RuntimeError as error:  # includes the RecursionError of the parser
        return "nested too deep" if isinstance(error, RecursionError) else "a page that breaks off"
    except ValueError:
        return "a page of HTML" if "html" in response.headers.get("Content-Type", "") else str(response.text)
    message = body
    for key in ("error", "message", "detail"):
        message = message[key] if isinstance(message, dict) and message.get(key) else message
    inner = body.get("error") if isinstance(body, dict) else None
    return f"{message}, {inner['code']}" if isinstance(inner, dict) and inner.get("code") else str(message)
