"""Which failures of the Hub pass, and asking again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from hf_datasel.errors import PublishError

__all__ = ["ATTEMPTS", "TRANSPORT", "asked", "line_of", "may_pass", "status_of", "wait"]

logger = logging.getLogger(__name__)

ATTEMPTS = 6
WAIT = 1.0
"""Seconds before the second attempt; doubled before each further one."""
TRANSPORT: type[Exception] = HfHubHTTPError.__bases__[0]
"""Errors of the HTTP library that this version of huggingface_hub is built on: httpx, or its successor."""
_LONGEST = 60.0
_STALE = (409, 412)
_PASSING = (408, 425, 429, 500, 502, 503, 504)

Answer = TypeVar("Answer")


def asked(ask: Callable[[], Answer]) -> Answer:
    """The answer to a question to the Hub, which is asked again where it has a passing problem.

    Raises:
        PublishError: there is no answer at all.
    """
    for attempt in range(ATTEMPTS):
        try:
            return ask()
        except OfflineModeIsEnabled as error:
            raise PublishError("HF_HUB_OFFLINE is set, so that the Hub cannot be asked.") from error
        except (TRANSPORT, ConnectionError, TimeoutError, LocalEntryNotFoundError) as error:
            final = attempt == ATTEMPTS - 1
            if final and status_of(error) is None:
                raise PublishError(f"The Hub does not answer: {line_of(error)}") from error
            if final or status_of(error) in _STALE or not may_pass(error):
                raise
            logger.info("The Hub has a problem, asking again: %s", line_of(error))
            wait(attempt, error)
    raise AssertionError


def wait(attempt: int, error: BaseException) -> None:
    """Wait before the next attempt, as long as the Hub asks for."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    after = str(headers.get("Retry-After", ""))
    time.sleep(min(max(WAIT * 2**attempt, float(after) if after.isdigit() else 0.0), _LONGEST))


def status_of(error: BaseException | None) -> int | None:
    """HTTP status of the answer that an error is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def may_pass(error: BaseException | None) -> bool:
    """Whether a failure, or its cause, is of a kind that goes away: no answer, a server error, a faster commit."""
    while error is not None:
        status = status_of(error)
        if status is not None:
            return status in _STALE or status in _PASSING
        if isinstance(error, json.JSONDecodeError | TRANSPORT | ConnectionError | TimeoutError):
            return True  # JSON: a proxy answered with a page of its own
        if isinstance(error, EntryNotFoundError):
            return isinstance(error, LocalEntryNotFoundError)
        if error.__cause__ is None:
            return type(error) is RuntimeError  # of the uploader
        error = error.__cause__
    return False


def line_of(error: BaseException) -> str:
    """The telling line of a client's message, which spreads over several."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = getattr(error, "server_message", None)
    return f"{lines[0] if lines else type(error).__name__}{f' ({said})' if said and said not in lines[:1] else ''}"
