"""Sentences about how numbers are distributed, for alternative texts of figures."""

from __future__ import annotations

from hf_datasel.analysis.plots.theme import format_number, shortened
from hf_datasel.analysis.summaries import Distribution, Spread

__all__ = ["describe_spread", "describe_spreads"]


def describe_spreads(summary: Distribution) -> str:
    """Return the quantiles of each group of a distribution."""
    return "; ".join(
        f"{shortened(group['name'])}, {_rows(group['rows'])}: {describe_spread(group)}" for group in summary["groups"]
    )


def describe_spread(group: Spread) -> str:
    """Return the quantiles of a group of rows."""
    low, lower, median, upper, high = (format_number(value) for value in group["quantiles"])
    return f"median {median}, interquartile range {lower} to {upper}, range {low} to {high}"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
