"""What each section of a page says, worked out from the facts."""

from __future__ import annotations

from collections.abc import Callable

from hf_datasel.cards.facts import Facts
from hf_datasel.cards.sections import choice, overview, proof
from hf_datasel.hub.markdown import Markdown

__all__ = ["SECTIONS"]

SECTIONS: dict[str, Callable[[Facts], Markdown]] = {
    "headline": overview.headline,
    "gist": overview.gist,
    "summary": overview.summary,
    "load": overview.load,
    "configs": overview.configs,
    "columns": overview.columns,
    "means": choice.means,
    "rounds": choice.rounds,
    "groups": choice.groups,
    "settings": choice.settings,
    "scores": choice.scores,
    "left_out": choice.left_out,
    "results": proof.results,
    "training": proof.training,
    "command": proof.command,
    "missing": proof.missing,
    "rebuild": proof.rebuild,
    "versions": proof.versions,
    "cost": proof.cost,
    "limits": proof.limits,
    "citation": proof.citation,
}
"""Name in the template -> what it says."""
