"""Fixtures of the selectors' tests that the tests of rounds use too."""

from __future__ import annotations

from ..selectors.conftest import full, rows

__all__ = ["full", "rows"]
