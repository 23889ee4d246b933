"""How the rounds of a run follow each other, in sentences: what each is for, and which model it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_datasel.publish.facts import Step

__all__ = ["course", "grows", "how_chosen", "label", "step_of", "warmups"]

Choices = Sequence[Mapping[str, Any]]
"""Facts of rounds in order, of which `round`, `rows` and `step` are read."""


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
    said = [
        f"Round {each['round']} was a warm-up: the model was trained on its rows for {_epochs(each)}, and the choice "
        "made with what it had learnt from them."
        for each in warmups(choices)
    ]
    again = [str(each["round"]) for each in choices if each["step"] is not None and each["step"]["restart"]]
    if again:
        rounds = f"Round {again[0]}" if len(again) == 1 else f"Rounds {', '.join(again[:-1])} and {again[-1]}"
        said.append(f"{rounds} began again from the base model.")
    return " ".join(said)


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
