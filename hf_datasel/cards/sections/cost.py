"""What scoring and selecting cost, and how that compares with training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hf_datasel.cards.cost_wording import compare_costs, describe_cost, describe_duration
from hf_datasel.cards.round_wording import joined
from hf_datasel.cards.section import Section
from hf_datasel.scoring.cost import total_cost

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION"]


def _text(facts: Facts, own: None) -> str:
    seconds = [part["seconds"] for part in facts["rounds"] if part["seconds"] is not None]
    sentences = []
    if seconds:
        rounds = f" in {len(seconds)} rounds" if len(seconds) > 1 else ""
        sentences.append(f"Scoring and selecting took {describe_duration(sum(seconds))}{rounds}{_scored(facts)}.")
    training = facts["training"]
    if training is not None and training["selection_time_share"] is not None:
        sentences.append(f"That is {training['selection_time_share']:.0%} of the wall time of the training run.")
    costs = [part["cost"] for part in facts["rounds"] if "cost" in part]
    if len(costs) == len(facts["rounds"]) and (cost := total_cost(costs))["tokens_forward"]:
        sentences.append(f"Models processed {describe_cost(cost)}{_purposes(facts)}.")
    if training is not None and (comparison := compare_costs(training.get("costs", {}))):
        sentences.append(comparison)
    return " ".join(sentences) or "Not recorded."


def _purposes(facts: Facts) -> str:
    """Return what models ran for, where that is more than scoring rows to select them; otherwise ""."""
    settings = {} if facts["training"] is None else facts["training"]["settings"]
    order, step_filter = settings.get("selection_order"), settings.get("step_filter")
    purposes = ["to score rows"] if any(part["rows_scored"] for part in facts["rounds"]) else []
    others = ["to order them"] if isinstance(order, Mapping) and isinstance(order.get("by"), Mapping) else []
    if step_filter == "tail_sft" or (isinstance(step_filter, Mapping) and "tail_sft" in step_filter):
        others.append("for the losses before training that step_filter reads")
    return f", {joined([*purposes, *others])}" if others else ""


def _scored(facts: Facts) -> str:
    rows = sum(part["rows_scored"] for part in facts["rounds"])
    if rows:
        return f", for {rows:,} scored rows"
    order = None if facts["training"] is None else facts["training"]["settings"].get("selection_order")
    if isinstance(order, Mapping) and isinstance(order.get("by"), Mapping):
        return "; rows were scored only to order them"
    return (
        "; the scores had been computed before, which is not included" if facts["scores"] else "; no rows were scored"
    )


SECTION = Section("cost", "Cost", _text)
