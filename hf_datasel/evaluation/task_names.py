"""Names of suites, and of the tasks that are not those of lm-eval."""

from __future__ import annotations

from pathlib import Path

__all__ = ["OWN_TASKS", "SUITES", "list_suites"]

OWN_TASKS = ("heldout", "exact_match", "humaneval", "mbpp_plus", "code")
"""Tasks that are not those of lm-eval."""
SUITES = Path(__file__).with_name("suites")
"""Folder with a YAML file per suite."""


def list_suites() -> list[str]:
    """Return the names of all suites.

    >>> list_suites()
    ['at_scale', 'iterit', 'iterit_code', 'kmq', 'quick', 'small']
    """
    return sorted(path.stem for path in SUITES.glob("*.yaml"))
