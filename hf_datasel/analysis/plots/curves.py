"""Loss over the steps of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis.plots.theme import canvas, legend_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_loss"]


def draw_loss(
    loss: Sequence[tuple[int, float]],
    eval_loss: Sequence[tuple[int, float]] = (),
    title: str = "",
    dark: bool = False,
    restarts: Sequence[int] = (),
    warm_up: int | None = None,
) -> Figure:
    """Draw training loss as a line and evaluation loss as dots, leaving out what is not finite.

    Where training began again from the base model, lines break.

    Args:
        loss: (step, training loss), as logged.
        eval_loss: (step, loss on the evaluation set), as logged.
        title: above the axes.
        dark: for a dark page.
        restarts: steps after which training began again.
        warm_up: its last step, if there was one.

    Raises:
        DataselError: matplotlib is not installed.
    """
    with canvas("draw_loss", title, dark, height=2.8) as (figure, theme):
        ax = figure.subplots()
        for points, name, colour, marker in (
            (loss, "training loss", theme.chosen, ""),
            (eval_loss, "evaluation loss", theme.others[0], "o"),
        ):
            kept = [(step, value) for step, value in points if np.isfinite(value)]
            for at, part in enumerate(_parts(kept, restarts)):
                steps, values = zip(*part, strict=True)
                dot = marker or ("" if len(part) > 1 else ".")  # a line of one point cannot be seen
                named = "" if at else name
                ax.plot(steps, values, color=colour, linewidth=1.6, marker=dot, markersize=5, label=named)
        if warm_up:
            ax.axvspan(0, warm_up, color=theme.pool, alpha=0.3, linewidth=0, label="warm-up")
        for at, step in enumerate(restarts):
            named = "" if at else "from the base model again"
            ax.axvline(step, color=theme.ink, linewidth=0.9, linestyle=":", label=named)
        ax.set_xlabel("step")
        ax.locator_params("x", integer=True)
        legend_above(ax)
        ax.set_ylabel("loss")
    return figure


def _parts(points: Sequence[tuple[int, float]], restarts: Sequence[int]) -> list[list[tuple[int, float]]]:
    """The points in runs that no restart divides; what is logged at its step was measured before it."""
    found: dict[int, list[tuple[int, float]]] = {}
    for step, value in points:
        found.setdefault(sum(step > each for each in restarts), []).append((step, value))
    return list(found.values())
