"""Page with the rows of a dataset, what became of them, and filters to try: one HTML file without a network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup

from hf_datasel.analysis.unique_names import selection_names
from hf_datasel.atomic import write_file
from hf_datasel.cards.browse_data import BrowseData, Numbers, browse_data
from hf_datasel.cards.sections.exclusions import long_reason, short_reason
from hf_datasel.errors import PublishError
from hf_datasel.selection.html_page import HtmlPage

if TYPE_CHECKING:
    from hf_datasel.selection import Selection

__all__ = ["browse", "browse_page", "scale", "write_browse"]

_BINS = 48
"""Most bins of a histogram; all are as wide, and a whole number of steps of the slider."""
_SLIDER_STEPS = 200
_TAIL = 0.005
"""Share of the rows at each end of a histogram that may lie beyond its scale, in its first and last bin."""
_LONG_TAIL = 1.5
"""A scale leaves them out if it would be this many times as long with them."""
_BORDERLINE = 20
"""Rows on each side of the border between selected rows and those that would have followed."""
_ROWS_PER_CHUNK = 2_500
"""Rows whose texts the page decompresses at once, in about 20 ms; the first appear after the first chunk."""


def browse(selections: Sequence[Selection], dataset: Any, path: str | os.PathLike[str], **settings: Any) -> HtmlPage:
    """Write the page as `Selection.browse` does.

    Args:
        selections: Selections of one dataset.
        dataset: The dataset.
        path: HTML file to write.
        **settings: As for `write_browse`.
    """
    names = selection_names([selection.provenance for selection in selections])
    return HtmlPage(write_browse(dict(zip(names, selections, strict=True)), dataset, path, **settings))


def write_browse(
    selections: Mapping[str, Selection],
    dataset: Any,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    max_characters: int = 2_000,
    max_rows: int = 100_000,
) -> Path:
    """Write the page, and return its path.

    Args:
        selections: Selections by name.
        dataset: The dataset that they were made from.
        path: HTML file to write.
        title: Title of the page; by default the names of the selections.
        max_characters: Characters at which a prompt or a response is cut.
        max_rows: Largest number of rows. Of a larger pool, the selected rows are shown, and a random sample of others.

    Raises:
        ConfigError: A limit is no positive integer.
        SelectionError: There is no selection.
        DatasetMismatchError: A selection was not made from this dataset.
        PublishError: The file cannot be written.
    """
    data = browse_data(selections, dataset, max_characters=max_characters, max_rows=max_rows)
    return write_file(Path(path), browse_page(data, title or ", ".join(selections)), PublishError)


def browse_page(data: BrowseData, title: str) -> str:
    """Render the page. Nothing in the data can become HTML or code: a policy with a hash allows one script alone.

    Args:
        data: What it shows.
        title: Title of the page.
    """
    blobs = list[str]()
    meta = json.dumps(_meta(data, blobs), allow_nan=False)
    for character in "<>&":  # in JSON these are only in texts, and U+2028 is escaped already
        meta = meta.replace(character, f"\\u{ord(character):04x}")
    files = resources.files("hf_datasel.cards") / "templates"
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("browse.css", "browse.js"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hf_datasel.cards"), undefined=jinja2.StrictUndefined, autoescape=True
    )
    return environment.get_template("browse.html.jinja").render(
        title=title,
        notes=list(_notes(data)),
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
        meta=Markup(meta),
        blobs=[Markup(blob) for blob in blobs],
    )


def _hash(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _notes(data: BrowseData) -> Iterator[str]:
    """Yield what the head of the page says of its rows."""
    shown = len(data.rows)
    if shown < data.pool_size:
        yield f"{shown:,} of {data.pool_size:,} rows: the selected rows, and a random sample of the others"
        yield "All counts are of the rows on this page"
    else:
        yield f"{shown:,} row{'' if shown == 1 else 's'}"
    if len(data.outcomes) > 1:
        yield from (f"{chr(65 + index)}: {name}" for index, name in enumerate(data.outcomes))
    if data.cut:
        texts = "1 row is" if len(data.cut) == 1 else f"{len(data.cut):,} rows are"
        yield f"Texts of {texts} cut at {data.max_characters:,} characters"


# -- data of the page -------------------------------------------------------------------------------------------------
def _meta(data: BrowseData, blobs: list[str]) -> dict[str, Any]:
    """Return what the script reads, and append the columns, which it names by their position, to `blobs`."""

    def add(content: bytes) -> int:
        blobs.append(base64.b64encode(gzip.compress(content, mtime=0)).decode())
        return len(blobs) - 1

    def column(values: np.ndarray) -> dict[str, Any]:
        name = {"f": f"f{values.dtype.itemsize}", "i": "i4", "b": "u1"}[values.dtype.kind]
        return {"blob": add(values.astype(f"<{name}" if name != "u1" else "u1").tobytes()), "type": name}

    selected = [outcomes.ranks >= 0 for outcomes in data.outcomes.values()]
    return {
        "count": len(data.rows),
        "limit": data.max_characters,
        "rows": column(data.rows),
        "usable": column(data.usable),
        "size": {**(data.unit or {}), "values": column(_single(data.sizes))} if data.sizes is not None else None,
        "selections": [
            {
                "name": name,
                "ranks": column(outcomes.ranks),
                "codes": column(outcomes.codes),
                "reasons": [short_reason(reason) for reason in outcomes.reasons],
                "meanings": [long_reason(reason) for reason in outcomes.reasons],
                "unresolved": outcomes.unresolved,
                "weights": column(_single(data.weights[name])) if name in data.weights else None,
                "rankedBy": outcomes.ranked_by,
                "borderline": _borderline(outcomes.ranks, outcomes.following),
            }
            for name, outcomes in data.outcomes.items()
        ],
        "numbers": [
            {
                "name": numbers.name,
                "isScore": numbers.is_score,
                "values": column(_single(numbers.values)),
                "ranks": column(numbers.ranks),
                "source": _source(numbers),
                **scale(numbers.values, selected),
            }
            for numbers in data.numbers
        ],
        "groups": [
            {"name": groups.name, "labels": groups.labels, "codes": column(groups.codes)} for groups in data.groups
        ],
        "cut": [[position, *lengths] for position, lengths in data.cut.items()],
        "details": {str(position): detail for position, detail in data.details.items()},
        "texts": [
            {"start": start, "blob": add(json.dumps(texts, ensure_ascii=False).encode("utf-8", "surrogatepass"))}
            for start in range(0, len(data.rows), _ROWS_PER_CHUNK)
            for texts in [[part[start : start + _ROWS_PER_CHUNK] for part in (data.prompts, data.responses)]]
        ],
    }


def _single(values: np.ndarray) -> np.ndarray:
    """Return numbers as float32 if that changes none of them."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    return single if np.array_equal(single, values, equal_nan=True) else values


def _source(numbers: Numbers) -> dict[str, Any] | None:
    if numbers.source is None:
        return None
    settings = asdict(numbers.source)
    return {**settings, "inDataset": settings.pop("in_dataset")}


def _borderline(ranks: np.ndarray, following: np.ndarray) -> list[int]:
    """Return positions of the rows that were selected last, and of those that would have followed."""
    if not len(following):
        return []
    selected = np.flatnonzero(ranks >= 0)
    last = selected[np.argsort(ranks[selected])][-_BORDERLINE:]
    return [*last.tolist(), *following[:_BORDERLINE].tolist()]


def scale(values: np.ndarray, selected: list[np.ndarray]) -> dict[str, Any]:
    """Return the scale of a histogram and its slider, and the rows in each bin.

    Args:
        values: Float64 of shape (rows,); NaN and infinity are in no bin.
        selected: Selected rows of each selection, bool of shape (rows,).

    Returns:
        `low` and `high`, multiples of `step` that enclose the values, but for long tails, which are counted in the
        first and last bin; `decimals` of the step; `bins`: rows in each bin; `selected`: the same for each selection.
    """
    finite = np.isfinite(values)
    low, high = float(values[finite].min()), float(values[finite].max())
    inner = [float(bound) for bound in np.quantile(values[finite], [_TAIL, 1 - _TAIL])]
    if high - low > _LONG_TAIL * (inner[1] - inner[0]) > 0:
        low, high = inner
    step = _round_step(((high - low) or abs(high) or 1.0) / _SLIDER_STEPS)
    if (values[finite] == np.floor(values[finite])).all():
        step = max(step, 1.0)
    low = math.floor(low / step) * step
    steps = math.floor((high - low) / step) + 1  # values at the upper end are below it
    steps_per_bin = -(-steps // _BINS)
    width, bins = steps_per_bin * step, -(-steps // steps_per_bin)
    high = low + bins * width

    def count(rows: np.ndarray) -> list[int]:
        positions = np.floor((values[rows & finite] - low) / width + 1e-9).clip(0, bins - 1)
        return [int(number) for number in np.bincount(positions.astype(np.int64), minlength=bins)]

    decimals = max(0, -math.floor(math.log10(step)))
    return {
        **{"low": round(low, decimals), "high": round(high, decimals), "step": step, "decimals": decimals},
        "bins": count(finite),
        "selected": [count(rows) for rows in selected],
    }


def _round_step(step: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least as large as the number."""
    power = 10.0 ** math.floor(math.log10(step))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9)))
