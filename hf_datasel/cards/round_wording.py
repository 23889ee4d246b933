"""Sentences about the rounds of a run: what each round is for, and which model it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_datasel.cards.facts import RoundStep

__all__ = [
    "counted",
    "describe_rounds",
    "describe_selecting",
    "epochs_in_words",
    "independent_rounds",
    "is_growing",
    "joined",
    "number_range",
    "restart_steps",
    "round_label",
    "round_step",
    "steps_before_selection",
    "warm_up_end",
    "warm_up_rounds",
]

Rounds = Sequence[Mapping[str, Any]]
"""Facts of rounds in order: `round`, `rows` and `step` are read, and `model` for numbers of training steps."""


def round_step(provenance: Mapping[str, Any]) -> RoundStep | None:
    """Return the role of a selection's round in its run; None for a single round, or if it is not recorded."""
    plan, index = provenance.get("plan"), provenance["round"]
    if not plan:
        return None
    current = plan[min(index, len(plan) - 1)]
    return {
        "kind": current["kind"],
        "rounds": len(plan),
        "epochs": float(current["epochs"]),
        "restart": bool(current["restart"]),
        "warmed": any(earlier["kind"] == "warm-up" for earlier in plan[:index]),
        "selected_before": int(provenance["selected_before"]),
    }


# -- kinds of rounds -------------------------------------------------------------------------------------------------
def is_growing(rounds: Rounds) -> bool:
    """Return whether each round has the rows of the rounds before it."""
    return all(_kind(facts) == "growing" for facts in rounds)


def warm_up_rounds(rounds: Rounds) -> list[Mapping[str, Any]]:
    """Return the rounds that train the model before the actual selection."""
    return [facts for facts in rounds if _kind(facts) == "warm-up"]


def independent_rounds(rounds: Rounds) -> list[Mapping[str, Any]]:
    """Return the rounds whose rows a page counts: those that are selections of their own, or else the last one."""
    return [facts for facts in rounds if _kind(facts) not in ("growing", "warm-up")] or [rounds[-1]]


def _kind(facts: Mapping[str, Any]) -> str:
    return "" if facts["step"] is None else str(facts["step"]["kind"])


# -- steps of training -----------------------------------------------------------------------------------------------
def restart_steps(rounds: Rounds) -> list[int]:
    """Return the steps of the run after which training started again from the base model, as far as recorded."""
    return [step for facts in rounds if _restarts(facts) and (step := _first_step(facts))]


def warm_up_end(rounds: Rounds) -> int | None:
    """Return the last step of the warm-up; None without a completed warm-up."""
    ends = [_first_step(after) for facts, after in pairwise(rounds) if _kind(facts) == "warm-up"]
    return ends[-1] or None if ends else None


def steps_before_selection(rounds: Rounds) -> int:
    """Return the number of training steps, since the base weights, of the model that made the last selection."""
    model = rounds[-1]["model"] or {}
    steps: int = model.get("steps", _first_step(rounds[-1]) - max(restart_steps(rounds[:-1]), default=0))
    return steps


def _first_step(facts: Mapping[str, Any]) -> int:
    """Return the number of steps of the run before a round."""
    return int((facts["model"] or {}).get("global_step") or 0)


def _restarts(facts: Mapping[str, Any]) -> bool:
    return facts["step"] is not None and bool(facts["step"]["restart"])


# -- sentences -------------------------------------------------------------------------------------------------------
def describe_selecting(rounds: Rounds, method: str) -> str:
    """Return how the rows of the last round were selected, to follow their number in the first sentence of a page."""
    last = rounds[-1]
    if _kind(last) == "growing":
        return f"selected by {method} {_while_growing(last)}"
    if _kind(last) == "warm-up":
        return f"selected by {method} for the warm-up of the model before the actual selection"
    count = len(rounds) - len(warm_up_rounds(rounds))
    if count > 1:
        return f"selected by {method} before each of {count} rounds of training{_after_warm_up(rounds)}"
    before = f" before round {last['round']} of training" if last["round"] else ""
    return f"selected by {method}{_after_warm_up(rounds) or before}"


def describe_rounds(rounds: Rounds) -> str:
    """Return what each round was trained on and from which model, or "" if no round needs an explanation."""
    if is_growing(rounds):
        return _describe_growing(rounds)
    sentences = [_describe_warm_up(facts, is_last=facts is rounds[-1]) for facts in warm_up_rounds(rounds)]
    restarted = [facts for facts in rounds if _restarts(facts)]
    if restarted:
        names = [str(facts["round"]) for facts in restarted]
        subject, owner = (f"Rounds {joined(names)}", "their") if len(names) > 1 else (f"Round {names[0]}", "its")
        epochs = {epochs_in_words(facts) for facts in restarted}
        trained = f" and trained it on {owner} rows for {epochs.pop()}" if len(epochs) == 1 else ""
        sentences.append(f"{subject} started again from the base model{trained}.")
    return " ".join(sentences)


def _describe_warm_up(facts: Mapping[str, Any], is_last: bool) -> str:
    if is_last:
        return (
            f"Round {facts['round']} is a warm-up: the model is trained on its rows for {epochs_in_words(facts)} "
            "before the actual selection."
        )
    return (
        f"Round {facts['round']} was a warm-up: the model was trained on its rows for {epochs_in_words(facts)} before "
        "it was used for the actual selection."
    )


def _describe_growing(rounds: Rounds) -> str:
    last = rounds[-1]
    before, restart = last["step"]["selected_before"], last["step"]["restart"]
    if len(rounds) > 1:
        model = (
            "each round but the first started again from the base model"
            if restart
            else ("each round continued with the model of the previous one")
        )
        return (
            "Each round has the rows of the previous rounds and new ones, so the overlap of two rounds is not shown. "
            f"All rows of a round were trained on for {epochs_in_words(last)}; {model}."
        )
    if not last["round"]:
        return ""
    return (
        f"{before:,} of these rows are from the previous rounds, and {last['rows'] - before:,} are new. All were "
        f"trained on for {epochs_in_words(last)}{', starting again from the base model' if restart else ''}."
    )


def _while_growing(last: Mapping[str, Any]) -> str:
    done, planned = last["round"] + 1, last["step"]["rounds"]
    if done == 1:
        return f"before the first of {planned} rounds of training, each of which adds rows"
    count = str(done) if done == planned else f"the first {done} of {planned}"
    return f"in {count} rounds of training, each of which added rows"


def _after_warm_up(rounds: Rounds) -> str:
    step, warm_ups = rounds[-1]["step"], warm_up_rounds(rounds)
    if step is None or not step["warmed"]:
        return ""
    rows = warm_ups[-1]["rows"] if warm_ups else 0
    on_rows = f" on {counted(rows, 'row')}" if rows else ""
    return f" after a warm-up of the model{on_rows}"


# -- words -----------------------------------------------------------------------------------------------------------
def round_label(facts: Mapping[str, Any]) -> str:
    """Return the name of a round in tables and sentences."""
    return f"{facts['round']}{' (warm-up)' if _kind(facts) == 'warm-up' else ''}"


def number_range(numbers: Sequence[int]) -> str:
    """Return the range of numbers that differ between rounds, or their common value.

    >>> number_range([190, 178, 185]), number_range([1260, 1260])
    ('178 to 190', '1,260')
    """
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def epochs_in_words(facts: Mapping[str, Any]) -> str:
    """Return the number of epochs over the rows of a round, such as `"2 epochs"`."""
    count = facts["step"]["epochs"]
    return f"{count:.4g} epoch{'' if count == 1 else 's'}"


def counted(count: float, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{count:,g} {noun}{'' if count == 1 else 's'}" if count < 1e6 else f"{count:,.0f} {noun}s"


def joined(words: Sequence[str]) -> str:
    """Return words as an enumeration.

    >>> joined(["a", "b", "c"])
    'a, b and c'
    """
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)
