"""A model behind an HTTP endpoint: many requests at once, asked again where that helps, and within a budget."""

from __future__ import annotations

import logging
import math
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import SplitResult, urlsplit

from huggingface_hub import InferenceClient, get_token
from huggingface_hub.utils import get_session, hf_raise_for_status

from hf_datasel.errors import ConfigError, ScoreError, reason_counts
from hf_datasel.scoring.endpoint.errors import PROBLEMS, Origin, Problem

__all__ = ["Answer", "Endpoint"]

logger = logging.getLogger(__name__)

ATTEMPTS = 6
WAIT = 1.0
"""Seconds before the second attempt, give or take a half; doubled before each further one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: a value, or a reason why there is none, and what it cost.

    The reasons are `refused` (the endpoint takes other requests, but not this one), `no_answer` and `budget_spent`.
    """

    value: Any = None
    reason: str = ""
    tokens: int = 0


class Endpoint:
    """An OpenAI-compatible endpoint, or the Hub's inference providers.

    The token is that of the environment: `HF_TOKEN` or the login of huggingface_hub, and for a `base_url`
    `OPENAI_API_KEY`, which servers of one's own do without. It is nowhere but in the requests.

    Args:
        model: name of the model there.
        base_url: `http://localhost:8000/v1`, say; None is the Hub.
        provider: of the Hub; None lets the Hub choose.
        api_key_env: another environment variable with the token.
        concurrency: requests under way at once, at most.
        timeout: seconds without a sign of the server after which a request is given up, and sent again.
        max_tokens_spent: once the answers cost so many tokens, as the server counts them, no request is sent any more.
            Those under way then are waited for, and come on top.

    Raises:
        ConfigError: a setting that cannot be.
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
        max_tokens_spent: int | None = None,
    ):
        self.model, self.base_url, self.provider = model, base_url, provider
        self.api_key_env, self.concurrency, self.timeout = api_key_env, concurrency, timeout
        self.max_tokens_spent = max_tokens_spent
        self._check()
        self.answered = self.spent = 0
        self.unanswered: Counter[str] = Counter()
        self._failure = ""
        self._last = self._doubt = ""
        self._in_a_row = 0
        self._send_from = 0.0
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._random = random.Random()

    def _check(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise ConfigError(f"model={self.model!r} has to be the name of a model.")
        if self.base_url is not None:
            parts = _parts(self.base_url)
            if "@" in str(self.base_url) or (parts and re.search("key|token|secret|sig", parts.query, re.IGNORECASE)):
                raise ConfigError("base_url holds a password or a key. Put it into an environment variable.")
            if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
                raise ConfigError(f"base_url={self.base_url!r} has to be like 'http://localhost:8000/v1'.")
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
    def place(self) -> str:
        """What it is called in messages."""
        return "The Hub's inference" if self.base_url is None else f"The endpoint {self.base_url}"

    @property
    def _token_name(self) -> str:
        return self.api_key_env or ("HF_TOKEN" if self.base_url is None else "OPENAI_API_KEY")

    @cached_property
    def _token(self) -> str:
        """The token; empty where there is none and none is needed."""
        if self.api_key_env is None and self.base_url is None:
            token = get_token() or ""
        else:
            token = os.environ.get(self._token_name, "").strip()
        if not token and (self.api_key_env is not None or self.base_url is None):
            raise ScoreError(f"{self.place} needs a token: set the environment variable {self._token_name}.")
        if not re.fullmatch(r"[!-~]*", token):
            raise ScoreError(f"{self._token_name} holds no token: there are characters in it that no token has.")
        return token

    def check_token(self) -> None:
        """Refuse to begin without the token, where one is needed.

        Raises:
            ScoreError: names the environment variable that it is read from.
        """
        _ = self._token

    @cached_property
    def client(self) -> InferenceClient:
        """The client of huggingface_hub. Without a token of its own it would send the Hub's to any `base_url`."""
        where = {"model": self.model, "provider": self.provider}
        options: dict[str, Any] = where if self.base_url is None else {"base_url": self.base_url}
        return InferenceClient(**options, token=self._token or "none", timeout=self.timeout)

    def post(self, route: str, body: dict[str, Any]) -> Any:
        """What the endpoint answers to JSON at a route that the client does not know, such as `embeddings`."""
        parts = urlsplit(self.base_url or "")
        path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix(f"/{route}")
        path = path if path.endswith("/v1") else f"{path}/v1"
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        url = parts._replace(path=f"{path}/{route}").geturl()
        response = get_session().post(url, json=body, headers=headers, timeout=self.timeout)
        hf_raise_for_status(response)
        return response.json()

    # -- asking -------------------------------------------------------------------------------------------------------
    @cached_property
    def _origin(self) -> Origin:
        return Origin(self.place, self.model, self.base_url is None, self._token_name, self._token)

    def ask(
        self,
        send: Callable[[Any], tuple[Any, int | None]],
        jobs: Sequence[Any],
        divisible: Callable[[Any], bool] = lambda job: False,
    ) -> list[Answer]:
        """The answers to all requests, in their order.

        Args:
            send: sends one request; gives the value, and the tokens that it cost (None: not said).
            jobs: what is given to `send`.
            divisible: whether a job can be asked for in parts. That such a one holds too much is no failure.

        Raises:
            ScoreError: the endpoint cannot be reached or is none, answers none of the first requests, or does not take
                the token, the model or the settings. Where some of these requests were answered, their answers are
                given, and `raise_failure` raises it.
        """
        self.raise_failure()
        if jobs:  # before any thread does: all share the token, and the session, of which older clients made several
            _ = self.client, self._origin, get_session()
        pool, finished = ThreadPoolExecutor(self.concurrency, "hf_datasel_endpoint"), False
        try:
            answers = list(pool.map(lambda job: self._answer(send, job, divisible(job)), jobs))
            finished = True
        finally:
            if not finished:
                self._stopped.set()
            pool.shutdown(wait=finished, cancel_futures=True)
        if not self.answered:
            self._failure = self._failure or self._doubt
        if all(answer.reason for answer in answers):
            self.raise_failure()
        return answers

    @property
    def has_failed(self) -> bool:
        """Whether something has ended the run."""
        return bool(self._failure)

    def raise_failure(self) -> None:
        """Raise what has ended the run, if anything has."""
        if self._failure:
            raise ScoreError(self._failure)

    def log_summary(self) -> None:
        """One line in the log about the requests without an answer, if there were any."""
        if self.unanswered:
            logger.warning(
                "%s answered %d requests for %d tokens, and has left %s. %s",
                self.place,
                self.answered,
                self.spent,
                reason_counts(self.unanswered),
                self._last,
            )

    def _answer(self, send: Callable[[Any], tuple[Any, int | None]], job: Any, divisible: bool) -> Answer:
        problem = None
        for attempt in range(ATTEMPTS):
            self._wait(attempt, problem)
            if closed := self._closed():
                return self._without(closed)
            try:
                value, tokens = send(job)
            except PROBLEMS as error:
                problem = self._origin.problem(error)
            else:
                return self._taken(value, tokens)
            if not problem.passes:
                break
        assert problem is not None
        if divisible and problem.of_one_row:
            return Answer(reason="refused")
        return self._left(problem)

    def _wait(self, attempt: int, problem: Problem | None) -> None:
        if attempt:
            with self._lock:
                after = problem.after if problem is not None else 0.0
                self._send_from = max(self._send_from, time.monotonic() + after)
                own = WAIT * 2 ** (attempt - 1) * self._random.uniform(0.5, 1.5)
            self._stopped.wait(own)
        while (left := self._send_from - time.monotonic()) > 0 and not self._stopped.wait(left):
            pass

    def _closed(self) -> str:
        if self._stopped.is_set():
            return "no_answer"
        return "budget_spent" if self.max_tokens_spent is not None and self.spent >= self.max_tokens_spent else ""

    def _taken(self, value: Any, tokens: int | None) -> Answer:
        with self._lock:
            self.answered += 1
            self.spent += tokens or 0
            self._in_a_row = 0
            if tokens is None and self.max_tokens_spent is not None:
                self._fail(f"{self.place} does not say what an answer costs, so that max_tokens_spent cannot be kept.")
        return Answer(value, "", tokens or 0)

    def _left(self, problem: Problem) -> Answer:
        refused, sentence = problem.refused, self._origin.sentence(problem)
        with self._lock:
            self._in_a_row += not (refused and self.answered)
            self._last = sentence
            if problem.no_endpoint or (refused and not problem.of_one_row):
                self._doubt = sentence
            least = 64 if problem.of_one_row else self.concurrency if refused else max(self.concurrency, 4)
            if problem.ends_run or (not self.answered and self._in_a_row >= least):
                self._fail(sentence)
            elif not refused and self._in_a_row >= max(2 * self.concurrency, 8):
                self._stopped.set()  # the others would wait through all their attempts too
        return self._without("refused" if refused else "no_answer")

    def _without(self, reason: str) -> Answer:
        with self._lock:
            self.unanswered[reason] += 1
        return Answer(reason=reason)

    def _fail(self, sentence: str) -> None:
        self._failure = self._failure or sentence
        self._stopped.set()


def _parts(url: Any) -> SplitResult | None:
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        return parts if parts is None or parts.port != 0 else None
    except ValueError:
        return None
