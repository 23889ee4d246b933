"""BibTeX entries of the selector, the scores and the filter within steps."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hf_datasel.cards.section import Section
from hf_datasel.cards.sections.training import step_filter_citation
from hf_datasel.hub.markdown import fence

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION"]


def _text(facts: Facts, own: None) -> str:
    citations = [*facts["method"]["citation"].split("\n\n"), *(spec.get("citation", "") for spec in facts["scores"])]
    if facts["training"] is not None:
        citations.append(step_filter_citation(facts["training"]["settings"].get("step_filter")))
    entries = [_one_field_per_line(entry) for entry in dict.fromkeys(citations) if entry]
    return fence("\n\n".join(entries), "bibtex") if entries else ""


def _one_field_per_line(entry: str) -> str:
    return re.sub(r"\}\}$", "}\n}", re.sub(r",\s+(?=\w+\s*=)", ",\n  ", entry))


SECTION = Section("citation", "Citation", _text)
