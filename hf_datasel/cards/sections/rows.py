"""Examples of rows: selected ones, and on local pages also what was not selected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel.cards.row_examples import RowExamples, border_sentence, examples_of, examples_table
from hf_datasel.cards.section import CardSource, Section

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION"]


def _compute(source: CardSource) -> RowExamples | None:
    """Return examples of the last selection; None without the dataset."""
    if source.pool is None:
        return None
    return examples_of(source.last, source.pool, only_selected=source.is_published)


def _text(facts: Facts, own: RowExamples | None) -> str:
    if own is None:
        return ""
    part = "In the last round: " if len(facts["rounds"]) > 1 else ""
    return f"{part}{border_sentence(own)}\n\n{examples_table(own['rows'], own['scores'], own['selected'])}"


SECTION = Section("rows", "Rows", _text, compute=_compute, facts_type=RowExamples | None)
