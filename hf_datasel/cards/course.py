"""How the rounds of a run follow each other, in sentences: what each is for, and which model it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from hf_datasel.cards.facts import Step

__all__ = [
    "anew",
    "course",
    "from_to",
    "grows",
    "how_chosen",
    "label",
    "restarts",
    "step_of",
    "trained_before",
    "warm_up_end",
    "warmups",
]

Choices = Sequence[Mapping[str, Any]]
"""Facts of rounds in order, of which `round`, `rows` and `step` are read, and `model` where steps are asked for."""


def step_of(provenance: Mapping[str, Any]) -> Step | None:
    """What the round of a selection is in its run; None where there is only one, or it is not recorded."""
    plan, index = provenance.get("plan"), provenance["round"]
    if not plan:
        return None
    own = plan[min(index, len(plan) - 1)]
    return {
        "kind": own["kind"],
        "rounds": len(plan),
        "epochs": float(own["epochs"]),
        "restart": bool(own["restart"]),
        "warmed": any(each["kind"] == "warm-up" for each in plan[:index]),
        "chosen_before": int(provenance["chosen_before"]),
    }


def grows(choices: Choices) -> bool:
    """Whether each round has the rows of those before it."""
    return all(_kind(each) == "growing" for each in choices)


def warmups(choices: Choices) -> list[Mapping[str, Any]]:
    """Those of the rounds that are there for the model to learn from before the choice."""
    return [each for each in choices if _kind(each) == "warm-up"]


def anew(choices: Choices) -> list[Mapping[str, Any]]:
    """The rounds whose rows a page counts: those that are a choice by themselves, or else the last."""
    own = [each for each in choices if _kind(each) == "choice"]
    return own or [choices[-1]]


def from_to(counts: Sequence[int]) -> str:
    """Numbers that rounds differ in, as a range, or the one number that they share.

    >>> from_to([190, 178, 185]), from_to([1260, 1260])
    ('178 to 190', '1,260')
    """
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def label(choice: Mapping[str, Any]) -> str:
    """A round as tables and sentences name it."""
    return f"{choice['round']}{' (warm-up)' if _kind(choice) == 'warm-up' else ''}"


def how_chosen(choices: Choices, method: str) -> str:
    """How the rows of the last round were chosen, as it stands behind their number in the first sentence of a page."""
    last, kind = choices[-1], _kind(choices[-1])
    if kind == "growing":
        return f"chosen by {method}{_while_growing(last)}"
    if kind == "warm-up":
        return f"chosen by {method} to warm the model up before the choice itself"
    anew = len(choices) - len(warmups(choices))
    if anew > 1:
        return f"chosen anew before each of {anew} rounds of training by {method}{_after_warm_up(choices)}"
    return f"chosen by {method}{_after_warm_up(choices) or _before_round(last['round'])}"


def course(choices: Choices) -> str:
    """What each round was trained on and from which model, where that is not plain; "" where it is."""
    if grows(choices):
        return _course_of_growing(choices)
    said = [_course_of_warm_up(each, over=each is not choices[-1]) for each in warmups(choices)]
    again = [each for each in choices if _restarts(each)]
    if again:
        *most, last = [str(each["round"]) for each in again]
        rounds, whose = (f"Rounds {', '.join(most)} and {last}", "their") if most else (f"Round {last}", "its")
        epochs = {_epochs(each) for each in again}
        trained = f", which was trained on {whose} rows for {epochs.pop()}" if len(epochs) == 1 else ""
        said.append(f"{rounds} began again from the base model{trained}.")
    return " ".join(said)


def restarts(choices: Choices) -> list[int]:
    """Steps of the run after which training began again from the base model, as far as they are recorded."""
    return [_begin(each) for each in choices if _restarts(each) and _begin(each)]


def warm_up_end(choices: Choices) -> int | None:
    """The last step of the warm-up; None where there is none that is over."""
    ends = [_begin(after) for each, after in pairwise(choices) if _kind(each) == "warm-up"]
    return ends[-1] or None if ends else None


def trained_before(choices: Choices) -> int:
    """Steps of training since the base weights that the model had behind it which made the last choice."""
    model = choices[-1]["model"] or {}
    before: int = model.get("steps", _begin(choices[-1]) - max(restarts(choices[:-1]), default=0))
    return before


def _begin(choice: Mapping[str, Any]) -> int:
    """Steps of the run before a round, which are those of the model that chose its rows."""
    return int((choice["model"] or {}).get("global_step") or 0)


def _restarts(choice: Mapping[str, Any]) -> bool:
    return choice["step"] is not None and bool(choice["step"]["restart"])


def _course_of_warm_up(choice: Mapping[str, Any], over: bool) -> str:
    if not over:
        return (
            f"Round {choice['round']} is a warm-up: the model is trained on its rows for {_epochs(choice)} before the "
            "choice itself is made."
        )
    return (
        f"Round {choice['round']} was a warm-up: the model was trained on its rows for {_epochs(choice)}, and the "
        "choice made with what it had learnt from them."
    )


def _course_of_growing(choices: Choices) -> str:
    last = choices[-1]
    before, restart = last["step"]["chosen_before"], last["step"]["restart"]
    if len(choices) > 1:
        model = "each but the first from the base model again" if restart else "each with the model of the one before"
        return (
            "Each round has the rows of the rounds before and new ones, so that what two rounds share says nothing. "
            f"All rows of a round were trained on for {_epochs(last)}, {model}."
        )
    if not last["round"]:
        return ""
    return (
        f"{before:,} of these rows are those of the rounds before, and {last['rows'] - before:,} are new: all were "
        f"trained on for {_epochs(last)}{', from the base model again' if restart else ''}."
    )


def _while_growing(last: Mapping[str, Any]) -> str:
    done, rounds = last["round"] + 1, last["step"]["rounds"]
    if done == 1:
        return f" before the first of {rounds} rounds of training, each of which adds more"
    count = str(done) if done == rounds else f"the first {done} of {rounds}"
    return f", some before each of {count} rounds of training"


def _after_warm_up(choices: Choices) -> str:
    step, found = choices[-1]["step"], warmups(choices)
    if step is None or not step["warmed"]:
        return ""
    count = found[-1]["rows"] if found else 0
    rows = f" on {count:,} row{'' if count == 1 else 's'}" if count else ""
    return f" after a warm-up of the model{rows}"


def _before_round(number: int) -> str:
    return f" before round {number} of training" if number else ""


def _kind(choice: Mapping[str, Any]) -> str:
    return "choice" if choice["step"] is None else str(choice["step"]["kind"])


def _epochs(choice: Mapping[str, Any]) -> str:
    count = choice["step"]["epochs"]
    return f"{count:.4g} epoch{'' if count == 1 else 's'}"
