"""Evaluation results of models trained on the selected rows and of models to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel.cards.facts import Result
from hf_datasel.cards.section import CardSource, Section
from hf_datasel.hub.markdown import table

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION"]


def _compute(source: CardSource) -> list[Result]:
    return list(source.results)


def _text(facts: Facts, own: list[Result]) -> str:
    if not own:
        return (
            "No model trained on these rows has been evaluated. A high score does not mean that training on a row "
            "helps: compare with the same number of random rows before you rely on this selection."
        )
    rows = [
        (result["trained_on"], result["metric"], result["dataset"], f"{result['value']:.4g}", result["note"])
        for result in own
    ]
    return table(["trained on", "metric", "evaluated on", "value", "note"], rows)


SECTION = Section("evaluation", "Evaluation", _text, compute=_compute, facts_type=list[Result])
