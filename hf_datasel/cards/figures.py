"""Which figures the facts of a selection give, what they say, and their images."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hf_datasel.analysis import plots
from hf_datasel.analysis.plots.grids import in_short
from hf_datasel.analysis.plots.spreads import few_whole
from hf_datasel.analysis.plots.theme import chance_number, plain_number, settings, shortened, theme_of
from hf_datasel.analysis.summaries import Distribution, EmbeddingMap, Overlaps, Spread
from hf_datasel.analysis.weights import ClusterWeights
from hf_datasel.cards.course import restarts, warm_up_end
from hf_datasel.cards.facts import Facts, Training
from hf_datasel.errors import DataselError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FigureInfo", "draw", "figures", "png", "png_of"]

_COLOURS = 64  # of an image: enough for smooth edges, and a third of the bytes
_NAMED = 6  # rounds that the alternative text goes through one by one


@dataclass(frozen=True)
class FigureInfo:
    """A figure, without its image.

    Attributes:
        name: stem of its files, of a-z, 0-9 and hyphens; no two figures of a page share it.
        title: short, plain text.
        alt: what the image shows, with the numbers, in plain text on one line. Names in it are other people's: escape
            it for where it goes.
    """

    name: str
    title: str
    alt: str


def figures(facts: Facts) -> list[FigureInfo]:
    """The figures that these facts give, in the order of a page. Needs no matplotlib."""
    return [info for info, _ in _plan(facts).values()]


def draw(facts: Facts, name: str, dark: bool) -> Figure:
    """Draw one of the figures, for a light page or for a dark one.

    Raises:
        DataselError: there is no such figure, or matplotlib is not installed.
    """
    plan = _plan(facts)
    if name not in plan:
        raise DataselError(f"These facts give no figure {name!r}, only {list(plan)}.{did_you_mean(name, plan)}")
    return plan[name][1](dark=dark)


def png(facts: Facts, name: str, dark: bool) -> bytes:
    """The image of a figure, 1,152 pixels wide; the same bytes every time with the same versions of packages.

    Raises:
        DataselError: there is no such figure, or matplotlib is not installed.
    """
    return png_of(draw(facts, name, dark), dark)


def png_of(figure: Figure, dark: bool) -> bytes:
    """The image of a figure that was drawn for a light page or for a dark one, in few colours."""
    from PIL import Image  # comes with matplotlib

    pixels, written = io.BytesIO(), io.BytesIO()
    with settings(theme_of(dark)):
        figure.savefig(pixels, format="rgba")
    image = Image.frombytes("RGBA", figure.canvas.get_width_height(), pixels.getvalue()).convert("RGB")
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(written, format="png", optimize=True)
    return written.getvalue()


# -- which figures ---------------------------------------------------------------------------------------------------
def _plan(facts: Facts) -> dict[str, tuple[FigureInfo, Callable[..., Figure]]]:
    plan: dict[str, tuple[FigureInfo, Callable[..., Figure]]] = {}
    for label, title, alt, drawn in _all(facts):
        stem = _stem(label, plan)
        plan[stem] = FigureInfo(stem, title, alt), partial(drawn, title=title)
    return plan


def _all(facts: Facts) -> Iterator[tuple[str, str, str, Callable[..., Figure]]]:
    """What the name is made of, title, alternative text and drawing function of each figure."""
    for scores in facts["distributions"]:
        title = f"{shortened(scores['column'], 24)} of scored and chosen rows"
        yield f"scores {scores['column']}", title, _of_scores(scores), partial(plots.draw_scores, scores)
    for rounds in facts["rounds"]:
        both = "all scored rows and of those chosen" if _is_fixed(rounds) else "scored and chosen rows"
        title = f"{shortened(rounds['column'], 24)} of {both}, round by round"
        yield f"rounds {rounds['column']}", title, _of_rounds(rounds), partial(plots.draw_rounds, rounds)
    if lengths := facts["lengths"]:
        yield "lengths", "How long the responses are", _of_lengths(lengths), partial(plots.draw_lengths, lengths)
    if (overlap := facts["overlap"]) and len(overlap["names"]) > 1:
        yield "overlap", "What the choices share", _of_overlaps(overlap), partial(plots.draw_overlaps, overlap)
    if weights := facts["weights"]:
        drawn = partial(plots.draw_cluster_weights, weights)
        yield "weights", "How much weight clusters have, round by round", _of_weights(weights), drawn
    if points := facts["map"]:
        yield "map", "Where the chosen rows lie in the pool", _of_map(points), partial(plots.draw_map, points)
    if (run := facts["training"]) and max(len(_finite(run["loss"])), len(_finite(run["eval_loss"]))) > 1:
        again, warm_up = restarts(facts["choices"]), warm_up_end(facts["choices"])
        drawn = partial(plots.draw_loss, run["loss"], run["eval_loss"], restarts=again, warm_up=warm_up)
        yield "training", "Loss while training", _of_training(run, again, warm_up), drawn


def _stem(label: str, taken: Container[str]) -> str:
    """A file name of a-z, 0-9 and hyphens that is not taken yet."""
    stem = re.sub(r"[^a-z0-9]+", "-", label.lower())[:48].strip("-")
    name, at = stem, 2
    while name in taken:
        name, at = f"{stem}-{at}", at + 1
    return name


# -- what they show, in words ----------------------------------------------------------------------------------------
def _of_scores(summary: Distribution) -> str:
    named = [f"{_name(group)}, {_rows(group)}: {_spread(group)}" for group in summary["groups"]]
    return f"Histograms of {shortened(summary['column'])}, each as shares of its own rows. {'; '.join(named)}."


def _of_lengths(summary: Distribution) -> str:
    named = [f"{_name(group)}, {_rows(group)}: {_spread(group)}" for group in summary["groups"]]
    scale = " on a logarithmic axis" if summary["log"] and not few_whole(summary) else ""
    return f"Histograms of {shortened(summary['column'])}{scale}, one below the other. {'; '.join(named)}."


def _of_rounds(summary: Distribution) -> str:
    groups = summary["groups"]
    pairs = list(zip(groups[::2], groups[1::2], strict=True))
    named = [_of_round(*pair) for pair in (pairs if len(pairs) <= _NAMED else [pairs[0], pairs[-1]])]
    some = "" if len(pairs) <= _NAMED else ", the first and the last"
    same = ", whose scores are the same in all rounds," if _is_fixed(summary) else ""
    return (
        f"Histograms of {shortened(summary['column'])} in {len(pairs)} rounds{some}, back to back: the rows scored"
        f"{same} on the left, those chosen on the right. {'; '.join(named)}."
    )


def _is_fixed(summary: Distribution) -> bool:
    """Whether the rows have the same scores in every round, as those have that were scored once."""
    first, *others = summary["groups"][::2]
    return bool(others) and all({**each, "name": ""} == {**first, "name": ""} for each in others)


def _of_round(scored: Spread, chosen: Spread) -> str:
    return (
        f"{shortened(scored['name'].rpartition(':')[0])}: median {plain_number(scored['quantiles'][2])} of "
        f"{_rows(scored)} scored, {plain_number(chosen['quantiles'][2])} of {_rows(chosen)} chosen"
    )


def _of_overlaps(summary: Overlaps) -> str:
    names, matrix = [shortened(name) for name in summary["names"]], summary["matrix"]
    pairs = [
        (matrix[row][column], f"{names[row]} and {names[column]} {matrix[row][column]:.2f}")
        for row in range(len(names))
        for column in range(row)
    ]
    if len(pairs) <= 2 * _NAMED:
        said = "; ".join(text for _, text in pairs)
    else:
        said = f"Lowest: {min(pairs)[1]}; highest: {max(pairs)[1]}"
    chance = f"Two random draws from the pool would have {chance_number(summary['chance'])}"
    if shortlist := summary["shortlist"]:
        whose = shortened(in_short(shortlist["names"]), 60)
        among = f"from the {shortlist['rows']:,} rows that {whose} are all from"
        chance += f"; {among}, {chance_number(shortlist['chance'])}"
    return (
        f"Matrix of the Jaccard similarity of {len(names)} choices, the rows in both over the rows in either. "
        f"{chance}. {said}."
    )


def _of_weights(summary: ClusterWeights) -> str:
    rounds, clusters = summary["rounds"], summary["clusters"]
    shown = range(len(rounds)) if len(rounds) <= _NAMED else (0, len(rounds) - 1)
    even = "; ".join(f"round {rounds[at]} {plain_number(summary['effective'][at])}" for at in shown)
    moved = "; ".join(
        f"cluster {each['cluster']:,} from {_percent(each['weights'][0])} to {_percent(each['weights'][-1])}"
        for each in summary["moved"]
    )
    return (
        f"Two line charts of the weights of {clusters:,} clusters in {len(rounds)} rounds. The share of the weight "
        "that the heaviest clusters have together; as evenly spread would be so many clusters of equal weight: "
        f"{even}. The weights of those that moved most: {moved}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _of_map(summary: EmbeddingMap) -> str:
    pool, chosen = ([count for row in cells for count in row] for cells in (summary["pool"], summary["chosen"]))
    return (
        f"Map of {shortened(summary['column'])} on two principal axes, which hold {summary['explained']:.0%} of the "
        f"variance: {sum(chosen):,} chosen rows as discs on the density of the pool's {sum(pool):,}. Chosen rows lie "
        f"in {sum(map(bool, chosen)):,} of the {sum(map(bool, pool)):,} cells of the grid that the pool fills."
    )


def _of_training(run: Training, again: Sequence[int], warm_up: int | None) -> str:
    said = []
    for name, points in (("Training loss", _finite(run["loss"])), ("evaluation loss", _finite(run["eval_loss"]))):
        if points:
            (first, start), (last, end) = points[0], points[-1]
            said.append(f"{name}: {plain_number(start)} at step {first:,}, {plain_number(end)} at step {last:,}")
    more = f" The warm-up ends at step {warm_up:,}." if warm_up else ""
    if again:
        shown = ", ".join(f"{step:,}" for step in again[:_NAMED]) + (" ..." if len(again) > _NAMED else "")
        more += f" Training began again from the base model after step {shown}, where the lines break."
    return f"Line chart of loss against step. {'; '.join(said)}.{more}"


def _spread(group: Spread) -> str:
    low, lower, middle, upper, high = (plain_number(each) for each in group["quantiles"])
    return f"median {middle}, middle half from {lower} to {upper}, all from {low} to {high}"


def _name(group: Spread) -> str:
    return shortened(group["name"])


def _rows(group: Spread) -> str:
    return f"{group['rows']:,} row{'' if group['rows'] == 1 else 's'}"


def _finite(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]
