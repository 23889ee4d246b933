"""What a reader should know before relying on the selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel.cards.round_wording import counted, number_range
from hf_datasel.cards.section import Section
from hf_datasel.cards.selector_traits import (
    draws_first_round,
    draws_from_all,
    draws_rows,
    runs_model,
    selecting_scores,
)
from hf_datasel.hub.markdown import code
from hf_datasel.selection.display import model_names

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION"]

_ALWAYS = (
    "Rows are selected, not corrected. The parent dataset may contain errors, biases and private information, and the "
    "selected rows were not checked for correctness or safety.",
    "Selection does not replace more good data. On large pools, random rows often do as well as published methods "
    "([2410.09335](https://arxiv.org/abs/2410.09335)), and on pools with few bad rows, training on all rows is "
    "often better.",
)


def _text(facts: Facts, own: None) -> str:
    sentences = [_model(facts), _columns(facts), _randomness(facts), _shortfall(facts), _pool(facts), *_ALWAYS]
    return "\n".join(f"- {sentence}" for sentence in sentences if sentence)


def _model(facts: Facts) -> str:
    has_model = facts["rounds"][-1]["model"]
    is_read = any(model_names(spec) or (has_model and runs_model(spec)) for spec in selecting_scores(facts))
    if is_read and not draws_from_all(facts):
        return "The scores depend on the model and its prompt format: another model would select other rows."
    return ""


def _columns(facts: Facts) -> str:
    names = [code(name) for name in facts["rounds"][-1]["columns_unverified"]]
    if not names:
        return ""
    return f"The selection uses {', '.join(names)} of the dataset. How this was computed is not recorded."


def _randomness(facts: Facts) -> str:
    if draws_rows(facts):
        return "The rows were drawn at random: another seed gives other rows."
    if draws_first_round(facts):
        return "The rows of the first round were drawn at random: another seed gives other rows in all rounds."
    return ""


def _shortfall(facts: Facts) -> str:
    """Return by how many rows the selections are smaller than requested; "" if none is."""
    rounds, last = facts["rounds"], facts["rounds"][-1]
    if last["interrupted"]:
        return (
            f"The selection was interrupted: it has {last['rows']:,} of the {last['budget']:,} requested rows, and "
            "differs from a complete selection by this method."
        )
    missing = {part["round"]: part["budget"] - part["rows"] for part in rounds if part["budget"] > part["rows"]}
    if not missing:
        return ""
    if len(rounds) == 1:
        return f"The selection has {counted(max(missing.values()), 'row')} fewer than requested."
    if len(missing) == 1:
        subject = f"Round {next(iter(missing))}"
    else:
        subject = f"Each of {'the' if len(missing) == len(rounds) else f'{len(missing)} of the'} {len(rounds)} rounds"
    counts = list(missing.values())
    noun = "row" if set(counts) == {1} else "rows"
    return f"{subject} has {number_range(counts)} {noun} fewer than requested."


def _pool(facts: Facts) -> str:
    if facts["parent"]["changed"]:
        return (
            "The pool is not the parent dataset as it is on the Hub: rows were filtered, changed, mixed or reordered "
            "before the selection. Row numbers refer to that pool."
        )
    if facts["parent"]["name"] is None:
        return "The parent dataset is not on the Hub, so others cannot reproduce the selection."
    return ""


SECTION = Section("limitations", "Limitations", _text)
