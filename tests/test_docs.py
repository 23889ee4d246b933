"""Docstrings say what every setting means, and what each score and method costs."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from trl import SFTConfig

from hf_datasel.scores import list_scores
from hf_datasel.selectors import list_filters, list_selectors
from hf_datasel.training.config import SelectiveSFTConfig

CLASSES = [*list_scores().values(), *list_selectors().values(), *list_filters().values()]


def undocumented(cls: type, names: list[str]) -> list[str]:
    """Return the names of settings that the class's own docstring does not list."""
    text = cls.__dict__.get("__doc__") or ""
    return [name for name in names if not re.search(rf"^\s*`?{name}`?(:| \()", text, re.MULTILINE)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_settings_documented(cls: type) -> None:
    assert undocumented(cls, [field.name for field in fields(cls) if field.init]) == []


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_cost_documented(cls: type) -> None:
    assert re.search(r"\bCost:\s+\w", cls.__doc__ or "")


def test_training_arguments_documented() -> None:
    inherited = {field.name for field in fields(SFTConfig)}
    names = [field.name for field in fields(SelectiveSFTConfig) if field.init and field.name not in inherited]
    assert names
    assert undocumented(SelectiveSFTConfig, names) == []
