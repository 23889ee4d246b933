"""Decorator that runs a test with every contract check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_datasel.errors import ConfigError, did_you_mean
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.base import Score
from hf_datasel.spec import changed_settings
from hf_datasel.testing import scores, selectors

if TYPE_CHECKING:
    import pytest
    from datasets import Dataset

__all__ = ["Check", "contract"]


@dataclass(frozen=True)
class Check:
    """Check of one part of the contract. It passes if the class declares an exception from it.

    Args:
        name: Name of the check.
        run: Function `(subject, rows, model)` that raises `AssertionError` if the contract is broken.
    """

    name: str
    run: Callable[..., None]

    def __call__(self, subject: Score | Selector, rows: Dataset, model: Any = None) -> None:
        """Run the check.

        Args:
            subject: Score or selector.
            rows: Small dataset with the columns that it needs.
            model: Path of a local model, for a subject whose own `model` is None.

        Raises:
            AssertionError: The contract is broken.
        """
        if self.name not in _exceptions(subject):
            self.run(subject, rows, None if model is None else str(model))


def contract(*objects: Score | Selector) -> pytest.MarkDecorator:
    """Return a pytest mark that runs a test once per check and object.

    The test has the parameters `check`, and `score` or `selector`, and calls `check(selector, rows)`.

    Args:
        *objects: Scores only, or selectors only.

    Raises:
        ConfigError: The objects are of both kinds or of none; or a class declares an exception for a check that does
            not exist, or without a reason.
    """
    import pytest

    checks: Mapping[str, Callable[..., None]]
    if objects and all(isinstance(item, Score) for item in objects):
        parameter, checks = "score", scores.CHECKS
    elif objects and all(isinstance(item, Selector) for item in objects):
        parameter, checks = "selector", selectors.CHECKS
    else:
        raise ConfigError(f"contract takes scores alone, or selectors alone, and these are {objects}.")
    cases = []
    for subject in objects:
        exceptions = _checked_exceptions(subject, checks)
        for name, run in checks.items():
            label = f"{_label(subject)}-{name}{' (excepted)' if name in exceptions else ''}"
            cases.append(pytest.param(Check(name, run), subject, id=label))
    return pytest.mark.parametrize(("check", parameter), cases)


def _exceptions(subject: object) -> Mapping[str, str]:
    return getattr(type(subject), "contract_exceptions", {})


def _checked_exceptions(subject: object, checks: Mapping[str, Any]) -> Mapping[str, str]:
    exceptions = _exceptions(subject)
    for name, reason in exceptions.items():
        if name not in checks or not reason.strip():
            raise ConfigError(
                f"{type(subject).__name__}.contract_exceptions has {name!r}: {reason!r}. It has to be a reason for "
                f"one of the checks {', '.join(checks)}.{did_you_mean(name, checks)}"
            )
    return exceptions


def _label(subject: Any) -> str:
    """Return the object as Python code, without the settings that have their defaults."""
    settings = [f"{name}={value!r}" for name, value in changed_settings(subject).items()]
    return f"{type(subject).__name__}({', '.join(settings)})"
