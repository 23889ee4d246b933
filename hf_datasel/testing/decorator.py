"""The contract as a decorator for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from hf_datasel.errors import ConfigError, did_you_mean
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.base import Score
from hf_datasel.testing import scores, selectors

if TYPE_CHECKING:
    import pytest
    from datasets import Dataset

__all__ = ["Check", "contract"]


@dataclass(frozen=True)
class Check:
    """One part of the contract: raises AssertionError where it is broken.

    An object whose class declares an exception from it passes.
    """

    name: str
    run: Callable[..., None]

    def __call__(self, subject: Score | Selector, rows: Dataset, model: Any = None) -> None:
        if self.name not in _exceptions(subject):
            self.run(subject, rows, None if model is None else str(model))


def contract(*objects: Score | Selector) -> pytest.MarkDecorator:
    """Run a test with every check of the contract, on each of these scores, or on each of these selectors.

    The test's parameters are `check`, and `score` or `selector`; it calls `check(selector, rows)`.

    Raises:
        ConfigError: not scores alone or selectors alone; or a class has an exception that names no check, or that
            gives no reason.
    """
    import pytest

    checks: Mapping[str, Callable[..., None]]
    if objects and all(isinstance(each, Score) for each in objects):
        parameter, checks = "score", scores.CHECKS
    elif objects and all(isinstance(each, Selector) for each in objects):
        parameter, checks = "selector", selectors.CHECKS
    else:
        raise ConfigError(f"contract takes scores alone, or selectors alone, and these are {objects}.")
    cases = []
    for each in objects:
        excepted = _checked_exceptions(each, checks)
        for name, run in checks.items():
            label = f"{_label(each)}-{name}{' (excepted)' if name in excepted else ''}"
            cases.append(pytest.param(Check(name, run), each, id=label))
    return pytest.mark.parametrize(("check", parameter), cases)


def _exceptions(subject: object) -> Mapping[str, str]:
    return getattr(type(subject), "contract_exceptions", {})


def _checked_exceptions(subject: object, checks: Mapping[str, Any]) -> Mapping[str, str]:
    excepted = _exceptions(subject)
    for name, reason in excepted.items():
        if name not in checks or not reason.strip():
            raise ConfigError(
                f"{type(subject).__name__}.contract_exceptions has {name!r}: {reason!r}. It has to be a reason for "
                f"one of the checks {', '.join(checks)}.{did_you_mean(name, checks)}"
            )
    return excepted


def _label(subject: Any) -> str:
    """The object as one would write it, without the settings left at their defaults."""
    changed = (each for each in fields(subject) if getattr(subject, each.name) != each.default)
    shown = [f"{each.name}={getattr(subject, each.name)!r}" for each in changed if each.default_factory is MISSING]
    return f"{type(subject).__name__}({', '.join(shown)})"
