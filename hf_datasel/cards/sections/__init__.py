"""The sections of a page, one module each with its facts, its text and its figures."""

from __future__ import annotations

from hf_datasel.cards.section import Section
from hf_datasel.cards.sections import (
    citation,
    cost,
    distributions,
    embedding_map,
    evaluation,
    exclusions,
    groups,
    lengths,
    limitations,
    method,
    overlap,
    overview,
    reproduce,
    rounds,
    rows,
    training,
    usage,
)

__all__ = ["SECTIONS"]

SECTIONS: tuple[Section, ...] = (
    overview.SECTION,
    usage.SECTION,
    rows.SECTION,
    distributions.SECTION,
    rounds.SECTION,
    lengths.SECTION,
    overlap.SECTION,
    groups.SECTION,
    embedding_map.SECTION,
    method.SECTION,
    exclusions.SECTION,
    evaluation.SECTION,
    training.SECTION,
    reproduce.SECTION,
    cost.SECTION,
    limitations.SECTION,
    citation.SECTION,
)
"""All sections in the order of the page."""
