"""Time that scoring and selecting took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel.cards.section import Section

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION"]


def _text(facts: Facts, own: None) -> str:
    seconds = [part["seconds"] for part in facts["rounds"] if part["seconds"] is not None]
    sentences = []
    if seconds:
        rounds = f" in {len(seconds)} rounds" if len(seconds) > 1 else ""
        sentences.append(f"Scoring and selecting took {_duration(sum(seconds))}{rounds}{_scored(facts)}.")
    training = facts["training"]
    if training is not None and training["selection_time_share"] is not None:
        sentences.append(f"That is {training['selection_time_share']:.0%} of the wall time of the training run.")
    return " ".join(sentences) or "Not recorded."


def _scored(facts: Facts) -> str:
    rows = sum(part["rows_scored"] for part in facts["rounds"])
    if rows:
        return f", for {rows:,} scored rows"
    return (
        "; the scores had been computed before, which is not included" if facts["scores"] else "; no rows were scored"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


SECTION = Section("cost", "Cost", _text)
