"""What all plots share: two themes, a figure that looks the same everywhere, and text from other people's datasets."""

from __future__ import annotations

import importlib
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import DataselError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "Theme",
    "canvas",
    "chance_number",
    "legend_above",
    "log_axis",
    "log_ticks",
    "need_matplotlib",
    "plain_number",
    "printable",
    "quiet_axes",
    "readable_on",
    "settings",
    "shortened",
    "theme_of",
]

_WIDTH = 7.2  # inches, a hundred pixels of a Hub page each
_WIDE = 84  # letters beside each other
_DPI = 160
_FONT = "DejaVu Sans"  # matplotlib brings it along


@dataclass(frozen=True)
class Theme:
    """Colours on one ground, which stay apart in grey and for the colour-blind.

    Attributes:
        ground: of the whole image, opaque, so that it can be read on a page of the other theme.
        ink: text and medians.
        muted: text that explains.
        faint: lines that only guide.
        pool: areas of the rows to choose from.
        chosen: what was chosen.
        others: what it is held against, in turn.
        ramp: from nothing to much.
        density: from few rows of the pool to many, all of them behind `chosen`.
    """

    ground: str
    ink: str
    muted: str
    faint: str
    pool: str
    chosen: str
    others: tuple[str, ...]
    ramp: tuple[str, str]
    density: tuple[str, str]


_LIGHT = Theme(
    ground="#ffffff",
    ink="#1f2937",
    muted="#5b6472",
    faint="#dfe3e8",
    pool="#c3c9d0",
    chosen="#20639b",
    others=("#b4530a", "#0f7b62", "#8a3f8f", "#6b5f10"),
    ramp=("#f3f6f9", "#20639b"),
    density=("#eceff2", "#a3acb8"),
)
_DARK = Theme(
    ground="#0b0f19",
    ink="#f3f4f6",
    muted="#a3adbb",
    faint="#2b3344",
    pool="#4d5769",
    chosen="#63b3f4",
    others=("#f0a35e", "#4cc9a4", "#d99be0", "#d6c65a"),
    ramp=("#151c2b", "#63b3f4"),
    density=("#171e2d", "#525d71"),
)


def theme_of(dark: bool) -> Theme:
    """The theme for a dark page or for a light one."""
    return _DARK if dark else _LIGHT


def need_matplotlib(who: str) -> None:
    """Raise a DataselError that names the extra where matplotlib is not installed."""
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise DataselError(
            f"{who} draws with matplotlib, which is not installed: pip install 'hf-datasel[plot]'."
        ) from error


@contextmanager
def canvas(who: str, title: str, dark: bool, height: float = 3.4) -> Iterator[tuple[Figure, Theme]]:
    """A figure to draw on inside the `with` block; everything in it is laid out and final at its end.

    The user's own settings of matplotlib are left out and left alone, and so is pyplot.

    Raises:
        DataselError: matplotlib is not installed.
    """
    need_matplotlib(who)
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    theme = theme_of(dark)
    with settings(theme):
        figure = Figure((_WIDTH, height), dpi=_DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
        if title:
            figure.suptitle(printable(title, 66), x=0.1 / _WIDTH, ha="left", fontsize=12)
        yield figure, theme
        figure.draw_without_rendering()  # ticks are made while drawing, and have to be made with these settings
        figure.set_layout_engine("none")  # laid out: saving need not do it again


def settings(theme: Theme) -> Any:
    """The settings of matplotlib that hold for one figure, as a context."""
    import matplotlib.style

    ours = {
        "font.family": _FONT,
        "font.size": 10,
        "text.parse_math": False,
        "text.color": theme.ink,
        "figure.facecolor": theme.ground,
        "axes.facecolor": theme.ground,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.muted,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "legend.frameon": False,
    }
    return matplotlib.style.context(ours, after_reset=True)


def legend_above(ax: Axes) -> None:
    """Say above the axes, side by side where there is room, what is what."""
    widths = [len(each) + 6 for each in ax.get_legend_handles_labels()[1]]
    columns = len(widths) if sum(widths) <= _WIDE else max(_WIDE // max(widths), 1)
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(-0.005, 1.0),
        ncols=columns,
        borderpad=0,
        borderaxespad=0.3,
        handlelength=1.6,
        handletextpad=0.5,
        columnspacing=1.6,
    )


def quiet_axes(axis: Axis, ticks: Sequence[float] = (), labels: Sequence[str] = ()) -> None:
    """Show these ticks alone, without marks."""
    axis.set_ticks(ticks, labels=labels)
    axis.set_ticks([], minor=True)
    axis.set_tick_params(length=0)


def log_axis(ax: Axes, axis: Axis, low: float, high: float) -> None:
    """Make an axis logarithmic, with few ticks in plain numbers."""
    (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
    ticks = log_ticks(low, high)
    axis.set_ticks(ticks, labels=[f"{each:,g}" for each in ticks])
    axis.set_ticks([], minor=True)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones, three to eight of them if there are such.

    >>> log_ticks(0.5, 900)
    [1.0, 10.0, 100.0]
    >>> log_ticks(0.3, 1.9)
    [0.3, 0.5, 0.7, 1.0, 1.5]
    """
    decades = [10.0**power for power in range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)]
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, *np.arange(1.1, 10, 0.1).round(1).tolist())):
        ticks = [decade * step for decade in decades for step in steps if low <= decade * step <= high]
        if len(ticks) >= 3:
            break
    return [float(f"{each:.3g}") for each in ticks[:: -(-len(ticks) // 8)]] if len(ticks) > 1 else [low, high]


def plain_number(value: float) -> str:
    """A number as a reader wants it: three digits, or all of those before the point.

    What is not 1 is not written as 1, which many ratios are held against: it gets more digits.

    >>> plain_number(0.98765), plain_number(12345.6), plain_number(1.003), plain_number(0.99996)
    ('0.988', '12,346', '1.003', '0.99996')
    """
    if 1e3 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    said = (f"{value:.{digits}g}" for digits in range(3, 7))
    return next((each for each in said if each not in ("1", "-1")), f"{value:.6g}")


def chance_number(value: float) -> str:
    """The Jaccard similarity that chance gives: as many digits as those that it is held against, or two that count.

    >>> chance_number(0.2), chance_number(0.0256)
    ('0.20', '0.026')
    """
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def shortened(text: str, limit: int = 28) -> str:
    """One line of at most `limit` characters, nothing in it that could change how the rest is shown.

    >>> shortened("one\\ntwo three", limit=8)
    'one two…'
    """
    plain = " ".join("".join(" " if unicodedata.category(each)[0] in "CZ" else each for each in text).split())
    return plain if len(plain) <= limit else f"{plain[: limit - 1].rstrip()}…"


def printable(text: str, limit: int = 28) -> str:
    """`shortened` to the room that `limit` letters take, with a box for each character that the font does not have."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family=_FONT)))
    known = (each if font.get_char_index(ord(each)) else "\N{WHITE SQUARE}" for each in shortened(text, 200))
    line = "".join(known)
    font.set_size(1, 72 * 64)  # an em is 64 pixels
    ends = np.cumsum([font.load_char(ord(each)).linearHoriAdvance / (0.6 * 64 * 65536) for each in line])
    if not line or ends[-1] <= limit:
        return line
    return f"{line[: int(np.searchsorted(ends, limit - 1))].rstrip()}…"


def readable_on(colour: tuple[float, ...]) -> str:
    """Black or white, whichever is read more easily on a colour."""
    luminance = np.dot(np.asarray(colour[:3]) ** 2.2, [0.2126, 0.7152, 0.0722])
    return "#0b0f19" if luminance > 0.18 else "#ffffff"
