"""`hf-datasel list`: list selectors, filters and scores with their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from hf_datasel.errors import ConfigError
from hf_datasel.spec import changed_settings, default_of, summary

__all__ = ["run"]

_MAX_LENGTH = 60  # characters of a default that are shown


def run(argv: Sequence[str]) -> None:
    """Print the name, the description and the settings of each selector, filter and score."""
    from hf_datasel import scores, selectors
    from hf_datasel.rounds.incremental_selector import IncrementalSelector
    from hf_datasel.rounds.warmup_selector import WarmupSelector

    if argv:
        raise ConfigError(f"list takes no arguments, and got {' '.join(argv)}.")
    groups = (
        ("Selectors", selectors.list_selectors()),
        ("Filters of chain", selectors.list_filters()),
        ("Scores", scores.list_scores()),
    )
    for title, classes in groups:
        print(f"{title}\n")
        for name, class_ in classes.items():
            print(f"  {name}\n      {summary(class_)}")
            if issubclass(class_, IncrementalSelector | WarmupSelector):
                print("      trains between its rounds: hf-datasel train")
            settings = ", ".join(_setting(setting) for setting in fields(class_))
            print(f"      settings: {settings or 'none'}\n")


def _setting(setting: Field[Any]) -> str:
    return f"{setting.name} (required)" if default_of(setting) is MISSING else f"{setting.name}={_default(setting)}"


def _default(setting: Field[Any]) -> str:
    """Return the default as text; a score with its changed settings, a long tuple as its length, long text cut."""
    default = default_of(setting)
    if is_dataclass(default):
        settings = ", ".join(f"{name}={value!r}" for name, value in changed_settings(default).items())
        return f"{type(default).__name__}({settings})"
    text = repr(default)
    if len(text) <= _MAX_LENGTH:
        return text
    if isinstance(default, tuple):
        return f"({len(default)} {setting.name})"
    return f"{text[: _MAX_LENGTH - 2].rstrip()}…{text[-1]}"
