"""Lengths of the responses: of the pool, of the selected rows and of the baselines."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis import plots
from hf_datasel.analysis.plots.spreads import integer_bins
from hf_datasel.analysis.plots.theme import shortened
from hf_datasel.analysis.summaries import Distribution, distribution
from hf_datasel.cards.section import CardSource, FigureInfo, Section
from hf_datasel.cards.spread_wording import describe_spreads
from hf_datasel.formats.words import count_words

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION"]


def _compute(source: CardSource) -> Distribution | None:
    """Compute the number of words of the responses; None without the dataset, or for rows of plain text."""
    pool = source.pool
    if pool is None or not pool.has_responses:
        return None
    words = np.fromiter((count_words(row.text("response")) for row in pool.rows()), dtype=np.float64, count=len(pool))
    words[words == 0] = np.nan  # no response: a logarithmic axis cannot show it, and no selector selects it
    groups = {"pool": words, "selected": words[source.last.indices]}
    groups |= {name: words[rows] for name, rows in source.baselines.items()}
    groups = {name: values for name, values in groups.items() if not np.isnan(values).all()}
    return distribution("response_words", groups, log=True) if "selected" in groups else None


def _text(facts: Facts, own: Distribution | None) -> str:
    return ""


def _figures(facts: Facts, own: Distribution | None) -> list[FigureInfo]:
    if own is None:
        return []
    scale = " on a logarithmic axis" if own["log"] and not integer_bins(own) else ""
    alt = f"Histograms of {shortened(own['column'])}{scale}, one below the other. {describe_spreads(own)}."
    return [FigureInfo("lengths", "Response lengths", alt, partial(plots.draw_lengths, own))]


SECTION = Section("lengths", "Selected rows", _text, _figures, _compute, Distribution | None)
