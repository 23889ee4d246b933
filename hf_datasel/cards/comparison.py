"""Comparison of several selections in a folder: tables and plots as Markdown and HTML, and the numbers as JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from hf_datasel.analysis import plots
from hf_datasel.analysis.comparison import Comparison, RowFacts, SelectionFacts
from hf_datasel.analysis.plots.comparison import format_chance
from hf_datasel.analysis.plots.theme import format_number, shortened
from hf_datasel.analysis.summaries import Distribution
from hf_datasel.cards.card import picture
from hf_datasel.cards.figures import file_stem, png_of
from hf_datasel.cards.report import html_page, json_text, write_files
from hf_datasel.cards.spread_wording import describe_spread
from hf_datasel.hub.markdown import Markdown, code, table, text
from hf_datasel.selection.display import describe_setting
from hf_datasel.spec import compact

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["chance_sentence", "notes", "overlap_table", "overview_table", "page", "write_comparison"]

_MAX_MEDIANS = 3  # scores whose medians are in the table
_MAX_NAME = 24  # letters of the name of a score in a head, unless another score begins in the same way
_NAME = 120  # characters
_MEAN_WORDS, _MEDIAN_WORDS = "mean words", "median words"
_PAGE_WIDTH = 80  # characters in a row of a table
_NAME_WIDTH = 18  # of them for a name, which continues in the next line


def write_comparison(
    comparison: Comparison, folder: str | os.PathLike[str], title: str, rows: Markdown | None = None
) -> list[Path]:
    """Write `compare.html` (with everything in it), `compare.md`, `compare.json` and `plots/*.png`.

    Args:
        comparison: The comparison.
        folder: Folder to write into; it is created if it does not exist.
        title: Title of the page.
        rows: Rows to show, as from `hf_datasel.cards.row_examples.rows_of_one`.

    Returns:
        The paths of the files.

    Raises:
        DataselError: matplotlib is not installed.
        PublishError: The folder cannot be written.
    """
    content = page(comparison, title, rows)
    images = {
        f"plots/{figure.name}-{'dark' if dark else 'light'}.png": png_of(figure.draw(dark=dark), dark)
        for figure in _figures(comparison)
        for dark in (False, True)
    }
    files: dict[str, str | bytes] = {"compare.html": html_page(title, content, images), "compare.md": content}
    return write_files(Path(folder), {**files, **images, "compare.json": json_text(comparison)})


def overview_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return head and cells of a table of the pool and each selection, without empty columns."""
    selections = comparison["selections"]
    rows: list[RowFacts] = [comparison["pool"], *selections]
    names = ["pool", *(selection["name"] for selection in selections)]
    counted = comparison["size_unit"]
    columns: dict[str, list[str]] = {
        "rows": [f"{row['rows']:,}" for row in rows],
        counted["unit"] if counted else "size": [_count(row["size"]) for row in rows],
        _MEAN_WORDS: [_number(row["words_mean"]) for row in rows],
        _MEDIAN_WORDS: [_number(row["words_median"]) for row in rows],
        "duplicates": [f"{row['duplicates']:,}" for row in rows],
        "near-duplicates": ["", *(_near_duplicates(selection) for selection in selections)],
        "clusters": [f"{row['coverage']['covered']:,}" if row["coverage"] else "" for row in rows],
        "effective": [format_number(row["coverage"]["effective"]) if row["coverage"] else "" for row in rows],
    }
    listed = comparison["scores"][:_MAX_MEDIANS]
    short = [shortened(scores["column"], _MAX_NAME) for scores in listed]
    for scores, name in zip(listed, short, strict=True):
        medians = {group["name"]: format_number(group["quantiles"][2]) for group in scores["groups"]}
        head = name if short.count(name) == 1 else shortened(scores["column"], len(scores["column"]))
        columns[f"median {head}"] = [medians.get(selection, "") for selection in names]
    columns["mean weight"] = ["", *(_number(selection["weight_mean"]) for selection in selections)]
    columns["rows scored"] = ["", *(f"{selection['rows_scored']:,}" for selection in selections)]
    columns["seconds"] = ["", *(_number(selection["seconds"]) for selection in selections)]
    shown = {head: cells for head, cells in columns.items() if any(cells)}
    return ["", *shown], [[name, *cells] for name, *cells in zip(names, *shown.values(), strict=True)]


def overlap_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return head and cells of the lower half of the Jaccard matrix; the columns are numbered like the rows."""
    overlap = comparison["overlap"]
    rows = [
        [f"{index + 1} {name}", *(f"{value:.3f}" for value in overlap["matrix"][index][:index])]
        for index, name in enumerate(overlap["names"])
    ]
    count = len(rows)
    return ["", *(f"{number}" for number in range(1, count))], [[*row, *[""] * (count - len(row))] for row in rows]


def notes(comparison: Comparison) -> list[str]:
    """Return sentences that explain the columns of the overview table."""
    sentences, counted = [], comparison["size_unit"]
    if comparison["pool"]["words_mean"] is not None:
        sentences.append(f"{_MEAN_WORDS.capitalize()} and {_MEDIAN_WORDS} are those of a response.")
    if counted:
        sentences.append(f"{counted['unit'].capitalize()} are those of whole rows ({counted['source']}).")
    if any(row["duplicates"] for row in [comparison["pool"], *comparison["selections"]]):
        sentences.append("Duplicates are rows with exactly the content of another row of the same selection.")
    measured = [near for selection in comparison["selections"] if (near := selection["near_duplicates"])]
    if measured:
        sampled = any(near["sampled"] for near in measured)
        sentences.append(
            "Near-duplicates are the share of rows with another row of the same selection at a cosine similarity "
            f"above {measured[0]['threshold']:g} in {measured[0]['column']}"
            f"{', where marked with ~ measured on a sample' if sampled else ''}."
        )
    coverage = comparison["pool"]["coverage"]
    if coverage:
        sentences.append(
            f"Clusters is the number of clusters of {coverage['column']} with at least one of the rows; effective is "
            "the number of clusters of equal size with the same diversity."
        )
    if any(selection["weight_mean"] is not None for selection in comparison["selections"]):
        sentences.append(
            "Mean weight is that of the rows whose losses training multiplies by weights; the overlap compares rows, "
            "not their weights."
        )
    if any(selection["seconds"] is not None for selection in comparison["selections"]):
        sentences.append("Seconds are the time of scoring and selecting.")
    return sentences


def chance_sentence(comparison: Comparison) -> str:
    """Return a sentence about the overlap of two random selections."""
    return f"Two random selections of these sizes would have {format_chance(comparison)}."


def page(comparison: Comparison, title: str, rows: Markdown | None = None) -> str:
    """Render the comparison as a Markdown page. Foreign text, such as names of columns, is escaped.

    Args:
        comparison: The comparison.
        title: Title of the page.
        rows: Rows to show.
    """
    dataset, count = comparison["dataset"], len(comparison["selections"])
    source = f" of {text(dataset['name'])}" if dataset.get("name") else ""
    parts: list[str] = [
        f"# {text(title)}",
        f"**{count} selection{'' if count == 1 else 's'} from the {dataset['rows']:,} rows{source}.**",
        "## Overview",
        *_overview(comparison),
        text(" ".join(notes(comparison)), limit=2_000),
    ]
    if comparison["failures"]:
        failed = [(failure["name"], text(failure["error"], limit=1_000)) for failure in comparison["failures"]]
        parts += ["## Failed methods", table(["method", "error"], failed)]
    parts += ["## Rows", rows] if rows else []
    for figure in _figures(comparison):
        image = picture(f"plots/{figure.name}", figure.heading)
        parts += [f"## {text(figure.heading)}", image, _details(figure.description)]
        if figure.name == "overlap" and count > 1:
            parts += [table(*overlap_table(comparison)), text(chance_sentence(comparison))]
    head = ["", "method", "settings", "seed", "requested rows"]
    parts += ["## Settings", table(head, _settings(comparison))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _overview(comparison: Comparison) -> list[str]:
    """Return the overview table, split into several if it is wider than the page."""
    head, rows = overview_table(comparison)
    widths = [max(map(_cell_width, column)) for column in zip(head, *rows, strict=True)]
    names = max(widths[0], min(max(len(row[0]) for row in rows), _NAME_WIDTH))
    limit = max(_PAGE_WIDTH - names, *widths[1:])
    fewest = len(_split_columns(widths[1:], limit))
    balanced = next(
        width for width in range(max(widths[1:]), limit + 1) if len(_split_columns(widths[1:], width)) == fewest
    )
    return [
        table([head[0], *head[columns]], [[row[0], *row[columns]] for row in rows])
        for columns in _split_columns(widths[1:], balanced)
    ]


def _split_columns(widths: Sequence[int], limit: int) -> list[slice]:
    """Split the columns after the names into as few parts as possible that are at most `limit` wide."""
    starts, used = [1], 0
    for column, width in enumerate(widths, 1):
        used += width
        if used > limit and column > 1:
            starts, used = [*starts, column], width
    return [slice(*bounds) for bounds in pairwise([*starts, len(widths) + 1])]


def _cell_width(cell: str) -> int:
    """Return the width of a cell, whose lines break between words, with the space next to it."""
    return max(map(len, cell.split()), default=0) + 2


def _settings(comparison: Comparison) -> Iterator[list[object]]:
    for selection in comparison["selections"]:
        changed = {key: value for key, value in compact(selection["selector"]).items() if key != "selector"}
        values = ", ".join(f"{code(key)}: {code(describe_setting(value))}" for key, value in changed.items())
        model = f", with {code(selection['model']['name'])}" if selection["model"] else ""
        yield [
            selection["name"],
            code(selection["selector"]["selector"]),
            Markdown(f"{values}{model}"),
            selection["seed"],
            selection["budget"],
        ]


def _details(description: str) -> str:
    if not description:
        return ""
    return f"<details><summary>Details</summary>\n\n{text(description, limit=20_000)}\n\n</details>"


# -- figures ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Figure:
    """A figure below its heading, with a description of its numbers."""

    name: str
    heading: str
    description: str
    draw: Callable[..., Figure]


def _figures(comparison: Comparison) -> Iterator[_Figure]:
    if len(comparison["selections"]) > 1:
        yield _Figure("overlap", "Overlap", "", partial(plots.draw_jaccard, comparison))
    if lengths := comparison["lengths"]:
        yield _Figure("lengths", "Response lengths", _describe(lengths), partial(plots.draw_compared, lengths))
    stems = {"overlap", "lengths", "clusters"}
    for scores in comparison["scores"]:
        stem = file_stem(f"score {scores['column']}", stems)
        stems.add(stem)
        heading = shortened(scores["column"], 60)
        yield _Figure(stem, heading, _describe(scores), partial(plots.draw_compared, scores))
    if comparison["pool"]["coverage"]:
        yield _Figure("clusters", "Coverage of clusters", "", partial(plots.draw_coverage, comparison))


def _describe(summary: Distribution) -> str:
    groups = [
        f"{shortened(group['name'], _NAME)} ({group['rows']:,} rows): {describe_spread(group)}"
        for group in summary["groups"]
    ]
    return f"{'; '.join(groups)}."


# -- cells -----------------------------------------------------------------------------------------------------------
def _near_duplicates(selection: SelectionFacts) -> str:
    near = selection["near_duplicates"]
    return "" if near is None else f"{'~' if near['sampled'] else ''}{near['share']:.1%}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "" if value is None else format_number(value)
