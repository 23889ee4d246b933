"""How rows were chosen, and which were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from hf_datasel.cards.course import course, grows, label
from hf_datasel.cards.facts import Choice, Facts
from hf_datasel.cards.reuse import say_reused
from hf_datasel.cards.sections.reasons import is_drawn, is_filtered, is_window, long_reason
from hf_datasel.hub.markdown import Markdown, code, table, text
from hf_datasel.selection.display import in_words

__all__ = ["groups", "left_out", "means", "rounds", "score_settings", "scores", "settings"]

_INNER = ("score", "about", "citation", "tokens", "computed")
"""Parts of a score's spec that are said elsewhere, or that only a program reads, as it does those that begin with
`resolved_`; they are in selection.json."""


def means(facts: Facts) -> Markdown:
    means = facts["choices"][-1]["means"]
    if not means:
        return Markdown("No score was computed for this choice.")
    rows = [(code(name), f"{scored:.4g}", f"{chosen:.4g}") for name, (scored, chosen) in means.items()]
    return table(["score", "mean of the rows scored", "mean of the rows chosen"], rows)


def rounds(facts: Facts) -> Markdown:
    """A table of the rounds, and what each of them was trained on."""
    choices, said = facts["choices"], course(facts["choices"])
    if len(choices) < 2:
        return Markdown(said)
    columns, growing = list(choices[-1]["means"]), grows(choices)
    rows = []
    for at, each in enumerate(choices):
        means = [f"{each['means'][name][1]:.4g}" if name in each["means"] else "" for name in columns]
        last = _new(each) if growing else _shared(facts, at)
        rows.append((label(each), f"{each['rows_scored']:,}", f"{each['rows']:,}", _ruled_out(each), *means, last))
    head = ["round", "scored", "chosen", "ruled out", *(f"mean {name}" for name in columns)]
    listed = table([*head, "new rows" if growing else "Jaccard with the round before"], rows)
    return Markdown(f"{listed}\n\n{said}" if said else listed)


def _new(choice: Choice) -> str:
    return "" if choice["step"] is None else f"{choice['rows'] - choice['step']['chosen_before']:,}"


def _shared(facts: Facts, at: int) -> str:
    """The Jaccard similarity of a round with the one before."""
    overlap = facts["overlap"]
    return "" if at == 0 or overlap is None else f"{overlap['matrix'][at - 1][at]:.3f}"


def _ruled_out(choice: Choice) -> str:
    return f"{sum(choice['left_out'].values()) + sum(choice['not_eligible'].values()):,}"


def settings(facts: Facts) -> Markdown:
    said = {name: in_words(value) for name, value in facts["method"]["settings"].items()}
    return _table_of(said) or Markdown("It has no settings.")


def groups(facts: Facts) -> Markdown:
    """How the choice is spread over clusters or other groups; nothing where it knows of none."""
    found = facts["groups"]
    if found is None:
        return Markdown("")
    return Markdown(
        f"By {code(found['column'])} the pool falls into {found['pool']:,} groups, and the chosen rows are in "
        f"{found['chosen']:,} of them. The largest group has {found['largest']:.1%} of the pool, and "
        f"{found['largest_chosen']:.1%} of the chosen rows."
    )


def scores(facts: Facts) -> Markdown:
    parts = [*(score_settings(spec) for spec in facts["scores"]), say_reused([c["reused"] for c in facts["choices"]])]
    return Markdown("\n\n".join(each for each in dict.fromkeys(parts) if each))


def score_settings(spec: Mapping[str, Any]) -> Markdown:
    """What a score is, and a table of its settings."""
    shown = {key: value for key, value in spec.items() if key not in _INNER and not key.startswith("resolved_")}
    about = f": {text(spec['about'], limit=400)}" if spec.get("about") else ""
    return Markdown(f"{code(spec.get('score', 'score'))}{about}\n\n{_table_of(shown)}")


def _table_of(settings: Mapping[str, Any]) -> Markdown:
    """What is set; a setting that is null or empty says nothing."""
    rows = [(code(name), code(value)) for name, value in settings.items() if value not in (None, "", (), [], {})]
    return table(["setting", "value"], rows) if rows else Markdown("")


def left_out(facts: Facts) -> Markdown:
    last, pool = facts["choices"][-1], facts["parent"]["rows"]
    counts = [*Counter(last["not_eligible"]).most_common(), *Counter(last["left_out"]).most_common()]
    lines = []
    if is_window(facts):
        scored = last["rows_scored"]
        lines.append(
            f"{scored:,} of the {pool:,} rows were scored for the last round: those that an earlier one had ranked "
            f"highest. The table counts these, {'those that filters left out, ' if is_filtered(facts) else ''}and the "
            "rows that can never be chosen."
        )
    if counts:
        rows = [(f"{n:,}", code(name), long_reason(name)) for name, n in counts]
        lines += ["Rows that no ranking could have taken:", table(["rows", "reason", "meaning"], rows)]
    else:
        lines.append("No row was ruled out: every one could be chosen.")
    if last["interrupted"]:
        lines.append(
            f"The choice was interrupted when {last['rows']:,} of {last['budget']:,} rows had been chosen: this is "
            "the beginning of a choice, and the rest of it is missing."
        )
    elif last["rows"] < last["budget"]:
        asked = f"{last['budget']:,} rows were asked for, and only {last['rows']:,} could be chosen."
        lines.append(f"For the last round {asked}" if len(facts["choices"]) > 1 else asked)
    considered = last["rows_scored"] if is_window(facts) else pool - sum(last["not_eligible"].values())
    after = considered - sum(last["left_out"].values()) - last["rows"]
    if after > 0 and not (is_window(facts) and is_filtered(facts)):  # where nobody knows how many filters left
        came = ", and were not drawn" if is_drawn(facts) else ", and came after those that were"
        came = "" if last["interrupted"] else came
        lines.append(f"The other {after:,} rows could have been chosen{came}.")
    return Markdown("\n\n".join(lines))
