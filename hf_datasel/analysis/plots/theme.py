"""Style sheet of all plots: colours, figure, axes, legends and text."""

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
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = [
    "LINE_CHARACTERS",
    "Theme",
    "add_caption",
    "add_legend",
    "canvas",
    "color_gradient",
    "drawable",
    "format_count",
    "format_jaccard",
    "format_number",
    "hide_axes",
    "label_ticks",
    "legend_label",
    "log_axis",
    "log_ticks",
    "percent_axis",
    "readable_on",
    "require_matplotlib",
    "shortened",
    "theme_of",
    "theme_settings",
]

LINE_CHARACTERS = 84  # characters that fit on a line as wide as the figure
_WIDTH = 7.2  # inches; at 100 pixels per inch the width of a page of the Hub
_MARGIN = 0.1  # inches on the left
_DPI = 160
_FONT = "DejaVu Sans"  # distributed with matplotlib


@dataclass(frozen=True)
class Theme:
    """Colours on a light or a dark background, distinguishable in greyscale and with colour blindness.

    Args:
        background: Background of the whole image, opaque, so that it is readable on pages of either theme.
        ink: Text and medians.
        muted: Axis labels and captions.
        faint: Guide lines.
        pool: Areas of the pool.
        selected: Selected rows.
        others: What selected rows are compared with, in this order.
        ramp: Ends of the gradient from low to high values.
        density: Ends of the gradient for the density of the pool, drawn behind `selected`.
    """

    background: str
    ink: str
    muted: str
    faint: str
    pool: str
    selected: str
    others: tuple[str, ...]
    ramp: tuple[str, str]
    density: tuple[str, str]


_LIGHT = Theme(
    background="#ffffff",
    ink="#1f2937",
    muted="#5b6472",
    faint="#dfe3e8",
    pool="#c3c9d0",
    selected="#20639b",
    others=("#b4530a", "#0f7b62", "#8a3f8f", "#6b5f10"),
    ramp=("#f3f6f9", "#20639b"),
    density=("#eceff2", "#a3acb8"),
)
_DARK = Theme(
    background="#0b0f19",
    ink="#f3f4f6",
    muted="#a3adbb",
    faint="#2b3344",
    pool="#4d5769",
    selected="#63b3f4",
    others=("#f0a35e", "#4cc9a4", "#d99be0", "#d6c65a"),
    ramp=("#151c2b", "#63b3f4"),
    density=("#171e2d", "#525d71"),
)


def theme_of(dark: bool) -> Theme:
    """Return the theme for a dark or a light page."""
    return _DARK if dark else _LIGHT


def theme_settings(theme: Theme) -> Any:
    """Return a context manager that sets matplotlib's rcParams to those of the theme."""
    import matplotlib.style

    settings = {
        "font.family": _FONT,
        "font.size": 10,
        "text.parse_math": False,
        "text.color": theme.ink,
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.muted,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "legend.frameon": False,
        "legend.borderpad": 0,
        "legend.columnspacing": 1.6,
        "legend.handletextpad": 0.5,
    }
    return matplotlib.style.context(settings, after_reset=True)


def require_matplotlib(function: str) -> None:
    """Raise `DataselError` if matplotlib is not installed.

    Args:
        function: Name of the function that draws, for the message.
    """
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise DataselError(
            f"{function} draws with matplotlib, which is not installed: pip install 'hf-datasel[plot]'."
        ) from error


@contextmanager
def canvas(function: str, title: str, dark: bool, height: float = 3.4) -> Iterator[tuple[Figure, Theme]]:
    """Give a figure to draw on inside the `with` block, at whose end its layout is computed.

    The user's rcParams are neither used nor changed, and pyplot is not imported.

    Args:
        function: Name of the function that draws, for the message if matplotlib is not installed.
        title: Title of the figure; may be empty.
        dark: Whether the figure is for a dark page.
        height: Height in inches.

    Yields:
        The figure and its theme.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    require_matplotlib(function)
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    theme = theme_of(dark)
    with theme_settings(theme):
        figure = Figure((_WIDTH, height), dpi=_DPI, layout=ConstrainedLayoutEngine(w_pad=_MARGIN, h_pad=0.08))
        if title:
            figure.suptitle(drawable(title, 66), x=_MARGIN / _WIDTH, ha="left", fontsize=12)
        yield figure, theme
        figure.draw_without_rendering()  # ticks are created while drawing, and need these settings
        figure.set_layout_engine("none")  # saving the figure need not compute the layout again


def add_caption(figure: Figure, text: str, theme: Theme) -> None:
    """Write a left-aligned text below the axes of a figure."""
    figure.supxlabel(text, x=_MARGIN / _WIDTH, ha="left", fontsize="medium", color=theme.muted)


def add_legend(ax: Axes) -> None:
    """Add a legend above the axes, in as many columns as fit."""
    widths = [len(label) + 6 for label in ax.get_legend_handles_labels()[1]]
    columns = len(widths) if sum(widths) <= LINE_CHARACTERS else max(LINE_CHARACTERS // max(widths), 1)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.005, 1.0), ncols=columns, borderaxespad=0.3, handlelength=1.6)


def legend_label(text: str) -> str:
    """Return a label that matplotlib shows in a legend even if it begins with an underscore."""
    return f" {text}" if text.startswith("_") else text


def label_ticks(axis: Axis, ticks: Sequence[float] = (), labels: Sequence[str] = (), color: str | None = None) -> None:
    """Set the ticks of an axis and their labels, without tick marks.

    Args:
        axis: The axis.
        ticks: Positions; none by default.
        labels: Label of each tick.
        color: Colour of the labels; by default the theme's muted colour.
    """
    axis.set_ticks(ticks, labels=labels)
    axis.set_ticks([], minor=True)
    axis.set_tick_params(length=0)
    if color is not None:
        for label in axis.get_ticklabels():
            label.set_color(color)


def hide_axes(ax: Axes) -> None:
    """Hide ticks and spines; labels and the background stay."""
    label_ticks(ax.xaxis)
    label_ticks(ax.yaxis)
    ax.spines[:].set_visible(False)


def percent_axis(axis: Axis) -> None:
    """Show the shares on an axis, 0 to 1, in percent."""
    axis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%")


def log_axis(ax: Axes, axis: Axis, low: float, high: float) -> None:
    """Make an axis logarithmic, with a few ticks labelled with plain numbers."""
    (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
    ticks = log_ticks(low, high)
    axis.set_ticks(ticks, labels=[f"{tick:,g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two positive ones, three to eight of them if possible.

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
    return [float(f"{tick:.3g}") for tick in ticks[:: -(-len(ticks) // 8)]] if len(ticks) > 1 else [low, high]


def color_gradient(ends: tuple[str, str]) -> Colormap:
    """Return the colormap that interpolates between two colours."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ramp", ends)


def readable_on(color: tuple[float, ...]) -> str:
    """Return black or white, whichever has the higher contrast on a colour."""
    luminance = np.dot(np.asarray(color[:3]) ** 2.2, [0.2126, 0.7152, 0.0722])
    return "#0b0f19" if luminance > 0.18 else "#ffffff"


def format_count(rows: int) -> str:
    """Return a number of rows as text.

    >>> format_count(1), format_count(1200)
    ('1 row', '1,200 rows')
    """
    return f"{rows:,} row{'' if rows == 1 else 's'}"


def format_number(value: float) -> str:
    """Return a number with three significant digits, or with all digits before the decimal point.

    Numbers that are not 1 get more digits rather than be rounded to 1, since ratios are compared with 1.

    >>> format_number(0.98765), format_number(12345.6), format_number(1.003), format_number(0.99996)
    ('0.988', '12,346', '1.003', '0.99996')
    """
    if 1e3 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    texts = (f"{value:.{digits}g}" for digits in range(3, 7))
    return next((text for text in texts if text not in ("1", "-1")), f"{value:.6g}")


def format_jaccard(value: float) -> str:
    """Return a Jaccard similarity with two decimals, or two significant digits if it is small.

    >>> format_jaccard(0.2), format_jaccard(0.0256)
    ('0.20', '0.026')
    """
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def shortened(text: str, limit: int = 28) -> str:
    r"""Return text as one line of at most `limit` characters, without control characters.

    >>> shortened("one two three", limit=8)
    'one two…'
    """
    printable_text = (" " if unicodedata.category(character)[0] in "CZ" else character for character in text)
    line = " ".join("".join(printable_text).split())
    return line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"


def drawable(text: str, limit: int = 28) -> str:
    """Return text as one line as wide as at most `limit` letters, with a box for characters missing in the font."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family=_FONT)))
    characters = shortened(text, 200)
    line = "".join(
        character if font.get_char_index(ord(character)) else "\N{WHITE SQUARE}" for character in characters
    )
    font.set_size(1, 72 * 64)  # an em is 64 pixels
    widths = [font.load_char(ord(character)).linearHoriAdvance / (0.6 * 64 * 65536) for character in line]
    ends = np.cumsum(widths)
    if not line or ends[-1] <= limit:
        return line
    return f"{line[: int(np.searchsorted(ends, limit - 1))].rstrip()}…"
