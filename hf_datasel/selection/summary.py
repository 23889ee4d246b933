"""Summary of a selection, as text and as HTML for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hf_datasel.errors import reason_counts
from hf_datasel.scoring.numbers import is_identifier
from hf_datasel.selection.display import describe_setting

if TYPE_CHECKING:
    from hf_datasel.selection.result import Selection

__all__ = ["summarize", "summary_html"]

_SHOWN_ROWS = 10


def summarize(selection: Selection) -> str:
    """Return a few lines about a selection: method, number of rows, tokens, excluded rows, and scores of its rows.

    Args:
        selection: The selection.
    """
    return "\n".join([_headline(selection), *_notes(selection), *_score_lines(selection)])


def summary_html(selection: Selection) -> str:
    """Return the summary of a selection as HTML without scripts or styles of its own.

    Args:
        selection: The selection.
    """
    ranges = _ranges(selection)
    parts = [f"<p><b>{escape(_headline(selection))}</b></p>"]
    parts += [f"<p>{escape(note)}</p>" for note in _notes(selection)]
    if ranges:
        cells = "".join(
            f"<tr><th>{escape(name)}</th>{''.join(f'<td>{value:.5g}</td>' for value in values)}</tr>"
            for name, values in ranges.items()
        )
        heads = "".join(f"<th>{head}</th>" for head in ("score", "mean of the selected rows", "mean of all rows"))
        parts.append(f"<table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table>")
    first = ", ".join(f"{row:,}" for row in selection.indices[:_SHOWN_ROWS].tolist())
    more = ", …" if len(selection.indices) > _SHOWN_ROWS else ""
    return "".join([*parts, f"<p>Rows, best first: {first}{more}</p>"])


def _headline(selection: Selection) -> str:
    provenance = selection.provenance
    name = describe_setting(provenance["selector"])
    rounds = f", round {provenance['round']}" if "plan" in provenance else ""
    return f"{name}: {len(selection.indices):,} of {provenance['dataset']['rows']:,} rows{rounds}."


def _notes(selection: Selection) -> list[str]:
    """Return sentences about tokens of the selected rows, excluded rows, and columns of unknown origin."""
    provenance, notes = selection.provenance, []
    if "tokens" in provenance:
        counts = provenance["tokens"]
        notes.append(f"Selected rows have {counts['selected']:,} tokens; the budget is {counts['budget']:,}.")
    if exclusions := {**provenance["not_eligible"], **provenance["exclusions"]}:
        notes.append(f"Excluded: {reason_counts(exclusions)}.")
    if unverified := provenance["columns_unverified"]:
        notes.append(f"Columns of unknown origin, used as they are: {', '.join(unverified)}.")
    return notes


def _score_lines(selection: Selection) -> list[str]:
    return [
        f"{name}: mean {selected:.5g}, of all rows {overall:.5g}."
        for name, (selected, overall) in _ranges(selection).items()
    ]


def _ranges(selection: Selection) -> dict[str, tuple[float, float]]:
    """Return the means of each score over the selected rows and over all rows that have one."""
    ranges = {}
    for name in selection.score_columns:
        dtype = selection.table.schema.field(name).type
        if is_identifier(name) or not (pa.types.is_floating(dtype) or pa.types.is_integer(dtype)):
            continue
        values = selection.scores(name)
        finite = np.isfinite(values)
        selected = values[selection.indices]
        if np.isfinite(selected).any():
            ranges[name] = (float(selected[np.isfinite(selected)].mean()), float(values[finite].mean()))
    return ranges
