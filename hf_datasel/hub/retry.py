"""Retries of calls over the network: which failures are temporary, and how long to wait before the next attempt."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from hf_datasel.errors import PublishError

__all__ = [
    "ATTEMPTS",
    "SILENT_WAIT",
    "TRANSPORT_ERROR",
    "backoff",
    "call_hub",
    "error_line",
    "is_temporary",
    "retry",
    "retry_after",
    "status_code",
    "wait_before_retry",
]

logger = logging.getLogger(__name__)

ATTEMPTS = 6
WAIT = 1.0
"""Seconds before the second attempt; doubled before each further one."""
TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""Base of the errors of the HTTP library that this version of huggingface_hub is built on: httpx, or its successor."""
SILENT_WAIT = 5.0
"""Longer waits than these seconds are logged as warnings when they begin."""
_LONGEST_WAIT = 60.0
_OUTDATED = (409, 412)  # another commit was made first
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)

Result = TypeVar("Result")


def retry(
    call: Callable[[], Result],
    *,
    should_retry: Callable[[Exception], bool],
    wait: Callable[[int, Exception], None],
    attempts: int = ATTEMPTS,
) -> Result:
    """Call a function until it succeeds, fails permanently, or has been called `attempts` times.

    Args:
        call: Function without arguments.
        should_retry: Whether an error is temporary. Any other error is raised at once.
        wait: Called before each further attempt with the number of failed attempts minus one and the last error.
        attempts: Number of calls at most; the error of the last one is raised.

    Returns:
        The result of the first call that succeeded.
    """
    for attempt in range(attempts - 1):
        try:
            return call()
        except Exception as error:
            if not should_retry(error):
                raise
            problem = error
        wait(attempt, problem)
    return call()


def backoff(attempt: int, first: float | None = None) -> float:
    """Return the seconds to wait after the failed attempt number `attempt`, counted from 0.

    Args:
        attempt: Number of the attempt that failed.
        first: Seconds after the first failure, `WAIT` by default; doubled after each further one.
    """
    return (WAIT if first is None else first) * 2.0**attempt


def retry_after(response: Any, longest: float = _LONGEST_WAIT) -> float:
    """Return the seconds that the `Retry-After` header of a response asks for, from 0 to `longest`.

    The header holds seconds or a date; 0 is returned for no header, or one that cannot be read.
    """
    header = str(getattr(response, "headers", {}).get("Retry-After", ""))
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError, IndexError):
            return 0.0
    return min(max(seconds, 0.0), longest) if math.isfinite(seconds) else 0.0


def call_hub(call: Callable[[], Result]) -> Result:
    """Call the Hub, with retries after temporary errors.

    Args:
        call: Function without arguments that makes one request, or several.

    Returns:
        What the function returns.

    Raises:
        PublishError: The Hub cannot be reached, or `HF_HUB_OFFLINE` is set. Other errors of the Hub are raised as
            they are.
    """
    try:
        return retry(call, should_retry=_is_worth_repeating, wait=wait_before_retry)
    except OfflineModeIsEnabled as error:
        raise PublishError("HF_HUB_OFFLINE is set, so the Hub cannot be reached.") from error
    except (TRANSPORT_ERROR, ConnectionError, TimeoutError, LocalEntryNotFoundError) as error:
        if status_code(error) is None and is_temporary(error):
            raise PublishError(f"The Hub cannot be reached: {error_line(error)}") from error
        raise


def _is_worth_repeating(error: Exception) -> bool:
    if isinstance(error, OfflineModeIsEnabled):
        return False
    is_network_error = isinstance(error, TRANSPORT_ERROR | ConnectionError | TimeoutError | LocalEntryNotFoundError)
    return is_network_error and status_code(error) not in _OUTDATED and is_temporary(error)


def wait_before_retry(attempt: int, error: Exception) -> None:
    """Log a temporary error of the Hub and wait: twice as long after each attempt, or as long as the Hub asks for."""
    asked_for = retry_after(getattr(error, "response", None))
    seconds = min(max(backoff(attempt), asked_for), _LONGEST_WAIT)
    level = logging.WARNING if seconds > SILENT_WAIT else logging.INFO
    message = "Attempt %d of %d failed, trying again in %.0f s: %s"
    logger.log(level, message, attempt + 1, ATTEMPTS, seconds, error_line(error))
    time.sleep(seconds)


def status_code(error: BaseException | None) -> int | None:
    """Return the HTTP status of the response that an error is about, or None."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_temporary(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, is temporary: no response, a server error, or a concurrent commit."""
    while error is not None:
        status = status_code(error)
        if status is not None:
            return status in _OUTDATED or status in _TEMPORARY
        if isinstance(error, json.JSONDecodeError | TRANSPORT_ERROR | ConnectionError | TimeoutError):
            return True  # JSON: a proxy answered with a page of its own
        if isinstance(error, EntryNotFoundError):
            return isinstance(error, LocalEntryNotFoundError)
        if error.__cause__ is None:
            return type(error) is RuntimeError  # of the uploader
        error = error.__cause__
    return False


def error_line(error: BaseException) -> str:
    """Return the first line of a client's error message, with the message of the server where it adds to it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    server_message = getattr(error, "server_message", None)
    suffix = f" ({server_message})" if server_message and server_message not in lines[:1] else ""
    return f"{lines[0] if lines else type(error).__name__}{suffix}"
