"""Client of an OpenAI-compatible endpoint: concurrent requests with retries and a token budget."""

from __future__ import annotations

import inspect
import json
import logging
import math
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from hf_datasel.errors import ConfigError, ScoreError, reason_counts
from hf_datasel.hub.secrets import may_hold_key
from hf_datasel.scoring.endpoint.errors import FailureReader, RequestFailure, request_errors
from hf_datasel.scoring.endpoint.limits import RequestLimits
from hf_datasel.scoring.endpoint.transport import Transport

if TYPE_CHECKING:
    from huggingface_hub import InferenceClient

__all__ = ["Answer", "Endpoint"]

logger = logging.getLogger(__name__)

WAIT = 1.0
"""Seconds before the second attempt, plus or minus a half; doubled before each further one."""
_PARAMETERS = {"api-version"}
"""Parameters that a `base_url` may have: that of Azure."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Outcome of a request.

    Args:
        value: Value of the answer; None without an answer.
        reason: Why there is no answer: `refused` (the endpoint accepts other requests, but not this one), `no_answer`
            or `budget_spent`; empty with an answer.
        tokens: Number of tokens that the answer cost.
    """

    value: Any = None
    reason: str = ""
    tokens: int = 0


class _RequestError(Exception):
    """A request failed."""

    def __init__(self, failure: RequestFailure):
        super().__init__(failure.message)
        self.failure = failure


class _NotSentError(Exception):
    """A request was not sent, because the endpoint is stopped or the budget is spent."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Endpoint:
    """An OpenAI-compatible endpoint, or the Hub's inference providers.

    The token is read from the environment: `HF_TOKEN` or the login of huggingface_hub, and for a `base_url`
    `OPENAI_API_KEY`, which self-hosted servers do not need. It is used in requests and nowhere else.

    Args:
        model: Name of the model on the server.
        base_url: URL such as `http://localhost:8000/v1`; None is the Hub.
        provider: Inference provider of the Hub; None lets the Hub select one.
        api_key_env: Another environment variable with the token.
        concurrency: Maximum number of concurrent requests.
        timeout: Seconds without a response after which a request is cancelled and sent again.
        limits: Limits of a request, as in `RequestLimits`: `{"request_seconds": 60, "attempts": 3}`.
        max_tokens_spent: Token budget: once the answers cost this many tokens, as counted by the server, no further
            request is sent. Requests that are running at that time are completed, and come on top.

    Raises:
        ConfigError: A setting is invalid.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        provider: str | None = None,
        *,
        api_key_env: str | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        limits: dict[str, Any] | None = None,
        max_tokens_spent: int | None = None,
    ):
        self.model, self.base_url, self.provider = model, base_url, provider
        self.api_key_env, self.concurrency, self.timeout = api_key_env, concurrency, timeout
        self.max_tokens_spent = max_tokens_spent
        self.limits = RequestLimits.from_settings(limits)
        self._check()
        self.answered = self.spent = 0
        self.unanswered: Counter[str] = Counter()
        self._failure = ""  # message of the failure that ended the run
        self._last_failure = self._possible_failure = ""
        self._consecutive_failures = 0
        self._send_from = self._announced = 0.0
        self._transport: Transport | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._random = random.Random()

    @classmethod
    def of(cls, score: Any) -> Self:
        """Return the endpoint of a score, whose settings have the names of the arguments here.

        Args:
            score: The score; an argument that it has no setting for keeps its default.

        Raises:
            ConfigError: A setting is invalid.
        """
        names = inspect.signature(cls).parameters
        return cls(
            **{setting.name: getattr(score, setting.name) for setting in fields(score) if setting.name in names}
        )

    def read_failure(self, error: BaseException) -> RequestFailure:
        """Return what an error of a request means.

        Args:
            error: The error.
        """
        return self._reader.read(error)

    def _check(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise ConfigError(f"model={self.model!r} has to be the name of a model.")
        if self.base_url is not None:
            _check_url(self.base_url)
            if self.provider is not None:
                raise ConfigError(f"provider={self.provider!r} is for the Hub, and base_url is another endpoint.")
        if self.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", str(self.api_key_env)):
            raise ConfigError(
                "api_key_env has to be the name of an environment variable, in capitals, and not the token itself."
            )
        if type(self.concurrency) is not int or not 1 <= self.concurrency <= 100:
            raise ConfigError(f"concurrency={self.concurrency!r} has to be an int from 1 to 100.")
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout < math.inf:
            raise ConfigError(f"timeout={self.timeout!r} has to be a number of seconds above 0.")
        if self.max_tokens_spent is not None and (type(self.max_tokens_spent) is not int or self.max_tokens_spent < 1):
            raise ConfigError(f"max_tokens_spent={self.max_tokens_spent!r} has to be an int above 0, or None.")

    @property
    def name(self) -> str:
        """Name of the endpoint in messages, at the start of a sentence."""
        return "The Hub's inference" if self.base_url is None else f"The endpoint {self.base_url}"

    @property
    def _token_name(self) -> str:
        return self.api_key_env or ("HF_TOKEN" if self.base_url is None else "OPENAI_API_KEY")

    @cached_property
    def _token(self) -> str:
        """The token; empty if there is none and none is needed."""
        if self.api_key_env is None and self.base_url is None:
            from huggingface_hub import get_token

            token = get_token() or ""
        else:
            token = os.environ.get(self._token_name, "").strip()
        if not token and (self.api_key_env is not None or self.base_url is None):
            raise ScoreError(f"{self.name} needs a token: set the environment variable {self._token_name}.")
        if not re.fullmatch(r"[!-~]*", token):
            raise ScoreError(f"{self._token_name} is not a token: it has characters that no token has.")
        return token

    def check_token(self) -> None:
        """Raise an error if a token is needed and there is none.

        Raises:
            ScoreError: There is no token; the message names the environment variable that it is read from.
        """
        _ = self._token

    @cached_property
    def hub_client(self) -> InferenceClient:
        """Client of the Hub's inference providers, which sends its requests as `post` does."""
        from huggingface_hub import InferenceClient

        send = self._send_json

        class HubClient(InferenceClient):
            def _inner_post(self, request_parameters: Any, *, stream: bool = False) -> Any:
                return send(request_parameters.url, request_parameters.json, request_parameters.headers)

        provider: Any = self.provider
        return HubClient(model=self.model, provider=provider, token=self._token)

    def post(self, route: str, body: dict[str, Any]) -> Any:
        """Post JSON to a route of the `base_url`.

        Args:
            route: Route after `/v1`, such as `embeddings`.
            body: The request.

        Returns:
            The parsed response.
        """
        parts = urlsplit(self.base_url or "")
        path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/embeddings")
        path = path if path.endswith("/v1") else f"{path}/v1"
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        return json.loads(self._send_json(parts._replace(path=f"{path}/{route}").geturl(), body, headers))

    def _send_json(self, url: str, body: Any, headers: Mapping[str, str]) -> bytes:
        if self._transport is None:
            raise RuntimeError("Requests are sent in a function that is passed to Endpoint.answers.")
        return self._transport.post(url, body, headers)

    # -- requests -----------------------------------------------------------------------------------------------------
    @cached_property
    def _reader(self) -> FailureReader:
        return FailureReader(self.name, self.model, self.base_url is None, self._token_name, self._token)

    def answers(
        self,
        send: Callable[[Any], tuple[Any, int | None]],
        requests: Sequence[Any],
        is_divisible: Callable[[Any], bool] = lambda request: False,
    ) -> Iterator[tuple[int, Answer]]:
        """Send requests concurrently, with retries, and yield the answers as they come.

        Args:
            send: Function that sends one request, and returns the value of its answer and the tokens that it cost
                (None if the server does not count them).
            requests: Arguments of `send`.
            is_divisible: Whether a request can be divided into smaller ones. If such a request is refused for its
                content, this does not count as a failure of the endpoint.

        Yields:
            The index of a request and its answer; each request once.

        Raises:
            ScoreError: The endpoint cannot be reached, answers none of the first requests, or does not accept the
                token, the model or the settings. If some of the requests were answered, no error is raised here, but
                by `raise_failure`.
        """
        self.raise_failure()
        if not requests:
            return
        _ = self._reader, self.base_url or self.hub_client  # before the threads start, which share them
        transport, pool = Transport(self.timeout, self.limits), ThreadPoolExecutor(self.concurrency, "hf_datasel")
        self._transport, finished, any_answer = transport, False, False
        try:
            futures = {
                pool.submit(self._answer, send, request, is_divisible(request)): index
                for index, request in enumerate(requests)
            }
            for future in as_completed(futures):
                answer = future.result()
                any_answer |= not answer.reason
                yield futures[future], answer
            finished = True
        finally:
            if not finished:
                self._stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            transport.close()
            pool.shutdown()
        if not self.answered:
            self._failure = self._failure or self._possible_failure
        if not any_answer:
            self.raise_failure()

    @property
    def has_failed(self) -> bool:
        """Whether a failure has ended the run."""
        return bool(self._failure)

    def raise_failure(self) -> None:
        """Raise an error if a failure has ended the run.

        Raises:
            ScoreError: The failure.
        """
        if self._failure:
            raise ScoreError(self._failure)

    def log_summary(self) -> None:
        """Log one line about the requests without an answer, if there are any."""
        if self.unanswered:
            logger.warning(
                "%s answered %d requests for %d tokens, and left without an answer: %s. %s",
                self.name,
                self.answered,
                self.spent,
                reason_counts(self.unanswered),
                self._last_failure,
            )

    def _answer(self, send: Callable[[Any], tuple[Any, int | None]], request: Any, is_divisible: bool) -> Answer:
        from hf_datasel.hub.retry import retry

        waits = list[float]()
        try:
            value, tokens = retry(
                lambda: self._send_once(send, request),
                should_retry=_is_temporary,
                wait=lambda attempt, error: self._wait_before_retry(attempt, error, waits),
                attempts=self.limits.attempts,
            )
        except _NotSentError as error:
            return self._count_unanswered(error.reason)
        except _RequestError as error:
            if is_divisible and error.failure.is_about_one_request:
                return Answer(reason="refused")
            return self._count_failure(error.failure)
        return self._count_answer(value, tokens)

    def _send_once(self, send: Callable[[Any], tuple[Any, int | None]], request: Any) -> tuple[Any, int | None]:
        while (seconds := self._send_from - time.monotonic()) > 0 and not self._stopped.wait(seconds):
            pass
        if self._stopped.is_set():
            raise _NotSentError("no_answer")
        if self.max_tokens_spent is not None and self.spent >= self.max_tokens_spent:
            raise _NotSentError("budget_spent")
        try:
            return send(request)
        except CancelledError:
            raise _NotSentError("no_answer") from None
        except request_errors() as error:
            raise _RequestError(self._reader.read(error)) from error

    def _wait_before_retry(self, attempt: int, error: Exception, waits: list[float]) -> None:
        """Wait for the backoff of this request; all requests wait as long as the server asks for."""
        from hf_datasel.hub.retry import SILENT_WAIT, backoff

        if not isinstance(error, _RequestError):
            raise error
        failure = error.failure
        with self._lock:
            backoff_seconds = backoff(attempt, WAIT) * self._random.uniform(0.5, 1.5)
            seconds = max(backoff_seconds, failure.retry_after)
            waits.append(seconds)
            if sum(waits) > self.limits.waiting_seconds:
                raise _RequestError(self._reader.without_budget(failure, self.limits.waiting_seconds)) from error
            end = time.monotonic() + seconds
            self._send_from = max(self._send_from, end - seconds + failure.retry_after)
            is_news = seconds > SILENT_WAIT and end > self._announced + SILENT_WAIT
            self._announced = max(self._announced, end) if is_news else self._announced
        if is_news:
            logger.warning(
                "%s %s to %r (%s). Waiting for %.0f s%s, before attempt %d of %d.",
                self.name,
                "gives no answer" if failure.status is None else f"answers {failure.status}",
                self.model,
                failure.message,
                seconds,
                ", as it asks" if failure.retry_after == seconds else "",
                attempt + 2,
                self.limits.attempts,
            )
        self._stopped.wait(backoff_seconds)

    def _count_answer(self, value: Any, tokens: int | None) -> Answer:
        with self._lock:
            self.answered += 1
            self.spent += tokens or 0
            self._consecutive_failures = 0
            if tokens is None and self.max_tokens_spent is not None:
                self._fail(f"{self.name} does not report the tokens of an answer, which max_tokens_spent needs.")
        return Answer(value, "", tokens or 0)

    def _count_failure(self, failure: RequestFailure) -> Answer:
        is_refused, message = failure.is_refused, self._reader.describe(failure)
        with self._lock:
            self._consecutive_failures += not (is_refused and self.answered)
            self._last_failure = message
            if failure.no_endpoint or (is_refused and not failure.is_about_one_request):
                self._possible_failure = message
            if failure.is_about_one_request:
                limit = 64
            else:
                limit = self.concurrency if is_refused else max(self.concurrency, 4)
            if failure.ends_run or (not self.answered and self._consecutive_failures >= limit):
                self._fail(message)
            elif not is_refused and self._consecutive_failures >= max(2 * self.concurrency, 8):
                self._stopped.set()  # the other requests would go through all their attempts too
        return self._count_unanswered("refused" if is_refused else "no_answer")

    def _count_unanswered(self, reason: str) -> Answer:
        with self._lock:
            self.unanswered[reason] += 1
        return Answer(reason=reason)

    def _fail(self, message: str) -> None:
        self._failure = self._failure or message
        self._stopped.set()


def _is_temporary(error: Exception) -> bool:
    return isinstance(error, _RequestError) and error.failure.is_temporary


def _check_url(url: Any) -> None:
    """Raise an error for a URL that may hold a secret, without showing it, and for one that is not of an endpoint."""
    address, _, query = str(url).partition("?")
    parameters = {part.partition("=")[0] for part in query.split("&") if part}
    if "@" in str(url) or "#" in str(url) or not parameters <= _PARAMETERS or may_hold_key(str(url)):
        raise ConfigError(
            "base_url holds a password, a key, a fragment or parameters. Put a token into an environment variable "
            f"that api_key_env names. Only the parameters {sorted(_PARAMETERS)} are accepted."
        )
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        is_endpoint = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
        is_endpoint = is_endpoint and parts is not None and parts.port != 0 and address.isprintable()
    except ValueError:
        is_endpoint = False
    if not is_endpoint:
        raise ConfigError(f"base_url={url!r} has to be like 'http://localhost:8000/v1'.")
