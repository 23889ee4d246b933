"""Text of an explanation why a row was selected, or was not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_datasel.selection.explanation import Explanation, ScoreRank

__all__ = ["explanation_text"]

_SHOWN = 200
"""Characters of a prompt or a response."""


def explanation_text(explanation: Explanation) -> str:
    """Return an explanation as lines for readers, the first with the outcome.

    Args:
        explanation: What `explain` returns.
    """
    num_selected = explanation["num_selected"]
    if explanation["unusable"]:
        outcome = f"could not be selected: {explanation['unusable']}"
    elif explanation["rank"] is None:
        outcome = f"was not selected; {num_selected:,} other rows were"
    else:
        outcome = f"was selected: rank {explanation['rank'] + 1:,} of {num_selected:,}"
        if explanation["weight"] is not None:
            outcome += f", with weight {explanation['weight']:.3g}"
    lines = [f"Row {explanation['row']:,} {outcome}."]
    texts = [("Prompt", explanation["prompt"]), ("Response", explanation["response"])]
    lines += [f"  {name}: {_one_line(text)}" for name, text in texts if text]
    if explanation["interrupted"]:
        lines.append(f"  The selection was interrupted after {num_selected:,} rows.")
    if explanation["duplicates"]:
        copies = ", ".join(map(str, explanation["duplicates"]))
        lines.append(f"  Row {copies}, with the same prompt and response, was selected.")
    decided, scores = explanation["decided"], [_score_text(score) for score in explanation["scores"]]
    if explanation["cluster"] is not None and not any(line.startswith(("Cluster", "Group")) for line in decided):
        number, num_rows, num_selected_rows = explanation["cluster"]
        scores.append(f"Cluster {number}: {num_selected_rows:,} of its {num_rows:,} rows were selected.")
    said = [*decided, *scores] if explanation["excluded"] else [*scores, *decided]
    return "\n".join([*lines, *(f"  {line}" for line in said)])


def _one_line(text: str) -> str:
    """Return the beginning of a text on one line, without characters that a terminal acts on."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * _SHOWN]).split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _score_text(score: ScoreRank) -> str:
    limits = score["selected_range"]
    selected = f"; selected rows have {limits[0]:.5g} to {limits[1]:.5g}" if limits else ""
    if score["value"] is None:
        reason = f" ({score['reason']})" if score["reason"] else ""
        return f"{score['score']}: none{reason}{selected}."
    if score["rank"] is None:
        return f"{score['score']}: {score['value']:.0f}."
    texts = "".join(f", {name} {text!r:.80}" for name, text in score["texts"].items())
    tied = f", tied with {score['ties']:,} other row{'' if score['ties'] == 1 else 's'}" if score["ties"] else ""
    rank = f"rank {score['rank']:,} of {score['num_rows']:,}"
    return f"{score['score']}: {score['value']:.5g}{texts}, {rank}{tied}{selected}."
