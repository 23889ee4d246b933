"""Verifiers: whether a model's answer to a prompt is right, given a reference answer."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hf_datasel.errors import ConfigError, check_option
from hf_datasel.formats import Row
from hf_datasel.scoring.endpoint.ratings import without_thoughts
from hf_datasel.scoring.normalization import Normalization
from hf_datasel.spec import import_function

__all__ = ["UnjudgedError", "Verifier", "get_verifier", "last_response", "reference_text"]

_SECONDS = 5
"""Seconds that math-verify may parse a text, and compare two expressions."""
_MATHS = ("$", r"\(", r"\[", r"\boxed")
"""What math-verify finds mathematics by in a text."""


class UnjudgedError(Exception):
    """An answer cannot be judged.

    Args:
        reason: Why not, as one word.
        message: What was found.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Verifier(ABC):
    """Judges answers by a reference."""

    reads_row = False
    """Whether `verify` reads the row."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What determines its results besides its settings, for records."""

    def check(self, reference: str) -> str:
        """Return the reason why answers cannot be compared with a reference, "" if they can.

        Args:
            reference: Text of the reference.
        """
        return "" if reference.strip() else "empty_reference"

    @abstractmethod
    def verify(self, answer: str, reference: Any, row: Mapping[str, Any]) -> float:
        """Return how right an answer is, from 0 to 1.

        Args:
            answer: Text of the answer.
            reference: The reference.
            row: Columns of the row, if `reads_row` is true.

        Raises:
            UnjudgedError: The answer cannot be judged.
        """


@dataclass(frozen=True)
class ExactMatch(Verifier):
    """Judges whether an answer, without its thoughts, equals the reference after normalization of both.

    Args:
        normalization: How both are normalized.
    """

    normalization: Normalization

    @property
    def identity(self) -> str:
        """Version of the comparison."""
        return "2"

    def check(self, reference: str) -> str:
        """Return the reason why answers cannot be compared with a reference, "" if they can."""
        return self.normalization.reason(self.normalization(reference))

    def verify(self, answer: str, reference: Any, row: Mapping[str, Any]) -> float:
        """Return 1 if the answer equals the reference, else 0."""
        return float(self.normalization(without_thoughts(answer)) == self.normalization(reference_text(reference)))


class MathVerify(Verifier):
    """Judges with the package math-verify whether an answer, without its thoughts, is mathematically equal.

    What its functions cannot parse, or not compare within 5 seconds, counts as wrong, as they define it. A reference
    without a mark of mathematics, such as `$` or a box, is read as LaTeX if it can be.
    """

    @cached_property
    def _functions(self) -> tuple[Callable[..., list[Any]], Callable[..., bool]]:
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError(
                "verifier='math_verify' needs the package math-verify, which is not installed. Run "
                'pip install "hf-datasel[math]", or use another verifier.'
            )
        from math_verify import parse, verify

        return parse, verify

    @property
    def identity(self) -> str:
        """Version of the package."""
        from importlib.metadata import version

        _ = self._functions
        return f"math-verify {version('math-verify')}"

    def verify(self, answer: str, reference: Any, row: Mapping[str, Any]) -> float:
        """Return 1 if the answer is equal to the reference, else 0."""
        parse, verify = self._functions
        is_main = threading.current_thread() is threading.main_thread()
        seconds = _SECONDS if is_main else None  # its limits are signals, which other threads do not get
        text = reference_text(reference).rpartition("####")[2].strip()
        texts = [text, f"${text}$"] if any(mark in text for mark in _MATHS) else [f"${text}$", text]
        expected = next(filter(None, (parse(item, parsing_timeout=seconds) for item in texts)), None)
        if expected is None:
            raise UnjudgedError("unparsable_reference", f"math-verify finds no mathematics in {text[:80]!r}")
        return float(
            verify(expected, parse(without_thoughts(answer), parsing_timeout=seconds), timeout_seconds=seconds)
        )


@dataclass(frozen=True)
class FunctionVerifier(Verifier):
    """Judges by a function of the user.

    Args:
        name: Name of the function, as `module:function`.
    """

    name: str

    reads_row = True

    @cached_property
    def function(self) -> Callable[[str, Any, dict[str, Any]], Any]:
        """The function, imported when it is first used.

        Raises:
            ConfigError: It cannot be imported, or not be called with three arguments.
        """
        function = import_function(self.name)
        try:
            inspect.signature(function).bind("", "", {})
        except TypeError as error:
            raise ConfigError(
                f"verifier={self.name!r} is called with (answer, reference, row), and its signature is "
                f"{inspect.signature(function)}: {error}."
            ) from error
        return function

    @property
    def identity(self) -> str:
        """SHA-256 of the function's source code."""
        try:
            source = inspect.getsource(self.function)
        except OSError as error:
            raise ConfigError(
                f"verifier={self.name!r} has no source code to record. Put the function into a file."
            ) from error
        return f"sha256:{hashlib.sha256(source.encode()).hexdigest()}"

    def verify(self, answer: str, reference: Any, row: Mapping[str, Any]) -> float:
        """Return what the function returns."""
        result = self.function(answer, reference, dict(row))
        is_number = isinstance(result, bool | int | float) or hasattr(result, "__float__")
        value = float(result) if is_number else math.nan
        if not 0 <= value <= 1:
            raise UnjudgedError("verifier_error", f"{self.name} returned {result!r:.80}, and no bool or 0 to 1")
        return value


def get_verifier(name: str, normalization: Mapping[str, Any] | None = None) -> Verifier:
    """Return the verifier of a name.

    Args:
        name: `"exact_match"`, `"math_verify"`, or the name of a function, `"module:function"`.
        normalization: Settings of `Normalization`, for `"exact_match"`.

    Raises:
        ConfigError: There is no such verifier or setting. Whether a package is installed, or a function exists, is not
            checked.
    """
    if not isinstance(name, str) or ":" not in name:
        check_option(f"verifier={name!r}", name, ["exact_match", "math_verify", "module:function"])
    if normalization is not None and name != "exact_match":
        raise ConfigError(f"normalization={normalization!r} is for verifier='exact_match', and verifier is {name!r}.")
    if name == "exact_match":
        return ExactMatch(Normalization.from_settings(normalization or {}))
    return MathVerify() if name == "math_verify" else FunctionVerifier(name)


def reference_text(reference: Any) -> str:
    """Return the text of a reference: of a float without decimals the integer, and of NaN none.

    A column of integers becomes one of floats in pandas if a value is missing.

    >>> [reference_text(value) for value in (42.0, 0.5, 1e16, "42.0", float("nan"))]
    ['42', '0.5', '10000000000000000', '42.0', '']

    Args:
        reference: Text or number.
    """
    if not isinstance(reference, float):
        return str(reference)
    return "" if math.isnan(reference) else str(int(reference) if reference.is_integer() else reference)


def last_response(row: Row) -> str | None:
    """Return the content of the last response of a row, without thinking; None if it calls tools."""
    turn = row.turns[row.response_turns[-1]]
    if turn.message is None:
        return turn.content
    return None if turn.message.get("tool_calls") else str(turn.message.get("content") or "")
