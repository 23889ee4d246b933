"""A folder that says how selections differ: as a table, as JSON, as a page, and as plots."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from hf_datasel.analysis import plots
from hf_datasel.analysis.comparison import Comparison, RowFacts, SelectionFacts
from hf_datasel.analysis.plots.comparison import chance_in_words
from hf_datasel.analysis.plots.theme import plain_number, shortened
from hf_datasel.analysis.summaries import Distribution
from hf_datasel.cards.figures import png_of
from hf_datasel.cards.report import html_page, json_text, write_files
from hf_datasel.hub.markdown import Markdown, code, table, text
from hf_datasel.selection.display import compact, in_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

__all__ = ["chance_said", "matrix", "notes", "overview", "page", "write_comparison"]

_MEDIANS = 3  # scores whose medians are in the table
_NAME = 120
_MEAN_WORDS, _MEDIAN_WORDS = "mean words", "median words"
_WIDE = 80  # letters beside each other on the page
_NAMES_WIDE = 18  # of them for a name, which goes on in the next line


def write_comparison(comparison: Comparison, folder: str | os.PathLike[str], title: str) -> list[Path]:
    """Write `compare.html` (all in one file), `compare.md`, `compare.json` and `plots/*.png`; returns their paths.

    Raises:
        DataselError: matplotlib is not installed.
        PublishError: the folder cannot be written.
    """
    content = page(comparison, title)
    images = {
        f"plots/{name}-{'dark' if dark else 'light'}.png": png_of(draw(dark=dark), dark)
        for name, _, _, draw in _figures(comparison)
        for dark in (False, True)
    }
    files: dict[str, str | bytes] = {"compare.html": html_page(title, content, images), "compare.md": content}
    return write_files(Path(folder), {**files, **images, "compare.json": json_text(comparison)})


def overview(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a table: the pool, and each selection; only columns in which something is known."""
    rows: list[RowFacts] = [comparison["pool"], *comparison["selections"]]
    names = ["pool", *(each["name"] for each in comparison["selections"])]
    counted = comparison["counted"]
    columns: dict[str, list[str]] = {
        "rows": [f"{each['rows']:,}" for each in rows],
        counted["unit"] if counted else "size": [_count(each["size"]) for each in rows],
        _MEAN_WORDS: [_number(each["words_mean"]) for each in rows],
        _MEDIAN_WORDS: [_number(each["words_median"]) for each in rows],
        "duplicates": [f"{each['duplicates']:,}" for each in rows],
        "near copies": ["", *(_near(each) for each in comparison["selections"])],
        "clusters": [f"{each['coverage']['covered']:,}" if each["coverage"] else "" for each in rows],
        "effective": [plain_number(each["coverage"]["effective"]) if each["coverage"] else "" for each in rows],
    }
    for scores in comparison["scores"][:_MEDIANS]:
        medians = {group["name"]: plain_number(group["quantiles"][2]) for group in scores["groups"]}
        columns[f"median {shortened(scores['column'], 24)}"] = [medians.get(name, "") for name in names]
    columns["rows scored"] = ["", *(f"{each['rows_scored']:,}" for each in comparison["selections"])]
    columns["seconds"] = ["", *(_number(each["seconds"]) for each in comparison["selections"])]
    shown = {head: cells for head, cells in columns.items() if any(cells)}
    return ["", *shown], [[name, *cells] for name, *cells in zip(names, *shown.values(), strict=True)]


def matrix(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the Jaccard matrix, its lower half, with numbers for the names along the top."""
    overlap = comparison["overlap"]
    rows = [
        [f"{at + 1} {name}", *(f"{value:.3f}" for value in overlap["matrix"][at][:at])]
        for at, name in enumerate(overlap["names"])
    ]
    count = len(rows)
    return ["", *(f"{at + 1}" for at in range(count - 1))], [[*row, *[""] * (count - len(row))] for row in rows]


def notes(comparison: Comparison) -> list[str]:
    """What the columns of the table mean, a sentence each."""
    said, counted = [], comparison["counted"]
    if comparison["pool"]["words_mean"] is not None:
        said.append(f"{_MEAN_WORDS.capitalize()} and {_MEDIAN_WORDS} are those of a response.")
    if counted:
        said.append(f"{counted['unit'].capitalize()} are those of whole rows ({counted['source']}).")
    if any(each["duplicates"] for each in [comparison["pool"], *comparison["selections"]]):
        said.append("Duplicates are rows with exactly the content of another row of the same selection.")
    near = [each["near_copies"] for each in comparison["selections"] if each["near_copies"]]
    if near:
        said.append(
            "Near copies are the share of rows that have another row of the same selection at a cosine above "
            f"{near[0]['threshold']:g} in {near[0]['column']}"
            + (", where marked with ~ by rows picked evenly." if any(each["sampled"] for each in near) else ".")
        )
    coverage = comparison["pool"]["coverage"]
    if coverage:
        said.append(
            f"Clusters are those of {coverage['column']} with at least one of the rows; their effective number is as "
            "many of equal size are as varied."
        )
    if any(each["seconds"] is not None for each in comparison["selections"]):
        said.append("Seconds are those of scoring and choosing.")
    return said


def chance_said(comparison: Comparison) -> str:
    """What two random choices share, as a sentence."""
    return f"Two random choices of these sizes would have {chance_in_words(comparison)}."


def page(comparison: Comparison, title: str) -> str:
    """The page that says everything, in Markdown. Words that come from elsewhere are shown and never obeyed."""
    dataset, several = comparison["dataset"], len(comparison["selections"]) > 1
    name = f" of {text(dataset['name'])}" if dataset.get("name") else ""
    parts: list[str] = [
        f"# {text(title)}",
        f"**{_selections(comparison)} from the {dataset['rows']:,} rows{name}.**",
        "## Side by side",
        *_side_by_side(comparison),
        text(" ".join(notes(comparison)), limit=2_000),
    ]
    if comparison["failed"]:
        failed = [(each["name"], text(each["error"], limit=1_000)) for each in comparison["failed"]]
        parts += ["## What made no selection", table(["method", "why"], failed)]
    for figure, heading, said, _ in _figures(comparison):
        parts += [f"## {text(heading)}", _picture(figure, heading), _in_numbers(said)]
        if figure == "overlap" and several:
            parts += [table(*matrix(comparison)), text(chance_said(comparison))]
    parts += ["## How each was made", table(["", "method", "settings", "seed", "rows asked for"], _made(comparison))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _side_by_side(comparison: Comparison) -> list[str]:
    """The table of the overview; in several where it is wider than the page, so that nothing is out of sight."""
    head, rows = overview(comparison)
    widths = [max(map(_room, column)) for column in zip(head, *rows, strict=True)]
    names = max(widths[0], min(max(len(row[0]) for row in rows), _NAMES_WIDE))
    most = max(_WIDE - names, *widths[1:])
    fewest = len(_filled(widths[1:], most))
    even = next(each for each in range(max(widths[1:]), most + 1) if len(_filled(widths[1:], each)) == fewest)
    return [
        table([head[0], *head[part]], [[row[0], *row[part]] for row in rows]) for part in _filled(widths[1:], even)
    ]


def _filled(widths: Sequence[int], most: int) -> list[slice]:
    """Columns behind that of the names in as few parts as are each at most so wide."""
    starts, used = [1], 0
    for at, width in enumerate(widths, 1):
        used += width
        if used > most and at > 1:
            starts, used = [*starts, at], width
    return [slice(*each) for each in pairwise([*starts, len(widths) + 1])]


def _room(cell: str) -> int:
    """Letters that a cell takes, the space beside it included: it is broken between words."""
    return max(map(len, cell.split()), default=0) + 2


def _selections(comparison: Comparison) -> str:
    count = len(comparison["selections"])
    return f"{count} selection{'' if count == 1 else 's'}"


def _made(comparison: Comparison) -> Iterator[list[object]]:
    for each in comparison["selections"]:
        settings = {key: value for key, value in compact(each["selector"]).items() if key != "selector"}
        said = Markdown(", ".join(f"{code(key)}: {code(in_words(value))}" for key, value in settings.items()))
        model = Markdown(f", with {code(each['model']['name'])}") if each["model"] else ""
        yield [
            each["name"],
            code(each["selector"]["selector"]),
            Markdown(f"{said}{model}"),
            each["seed"],
            each["budget"],
        ]


def _picture(name: str, title: str) -> str:
    alt = html.escape(f"{title} (in numbers below)", quote=True)
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="plots/{name}-dark.png">\n'
        f'  <img src="plots/{name}-light.png" alt="{alt}" width="720">\n</picture>'
    )


def _in_numbers(said: str) -> str:
    return f"<details><summary>In numbers</summary>\n\n{text(said, limit=20_000)}\n\n</details>" if said else ""


# -- figures ---------------------------------------------------------------------------------------------------------
def _figures(comparison: Comparison) -> Iterator[tuple[str, str, str, Callable[..., Figure]]]:
    """Stem of the files, heading, what it shows in words, and drawing function of each figure.

    A figure stands below its heading, and does not say it again.
    """
    if len(comparison["selections"]) > 1:
        yield "overlap", "What they share", "", partial(plots.draw_jaccard, comparison)
    if lengths := comparison["lengths"]:
        yield "lengths", "How long the responses are", _spreads(lengths), partial(plots.draw_compared, lengths)
    taken = {"overlap", "lengths", "clusters"}
    for scores in comparison["scores"]:
        title, stem = shortened(scores["column"], 60), _stem(scores["column"], taken)
        taken.add(stem)
        yield stem, title, _spreads(scores), partial(plots.draw_compared, scores)
    if comparison["pool"]["coverage"]:
        yield "clusters", "How many clusters they reach", "", partial(plots.draw_coverage, comparison)


def _stem(label: str, taken: set[str]) -> str:
    """A file name of a-z, 0-9 and hyphens that is not taken yet."""
    stem = re.sub(r"[^a-z0-9]+", "-", f"score {label}".lower())[:48].strip("-")
    name, at = stem, 2
    while name in taken:
        name, at = f"{stem}-{at}", at + 1
    return name


def _spreads(summary: Distribution) -> str:
    said = []
    for group in summary["groups"]:
        low, lower, middle, upper, high = (plain_number(each) for each in group["quantiles"])
        spread = f"median {middle}, middle half from {lower} to {upper}, all from {low} to {high}"
        said.append(f"{shortened(group['name'], _NAME)} ({group['rows']:,} rows): {spread}")
    return f"{'; '.join(said)}."


# -- cells -----------------------------------------------------------------------------------------------------------
def _near(facts: SelectionFacts) -> str:
    near = facts["near_copies"]
    return "" if near is None else f"{'~' if near['sampled'] else ''}{near['share']:.1%}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "" if value is None else plain_number(value)
