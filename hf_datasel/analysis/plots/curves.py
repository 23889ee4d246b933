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
) -> Figure:
    """Draw training loss as a line and evaluation loss as dots, leaving out what is not finite.

    Args:
        loss: (step, training loss), as logged.
        eval_loss: (step, loss on the evaluation set), as logged.
        title: above the axes.
        dark: for a dark page.

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
            if not kept:
                continue
            steps, values = zip(*kept, strict=True)
            ax.plot(steps, values, color=colour, linewidth=1.6, marker=marker, markersize=5, label=name)
        ax.set_xlabel("step")
        ax.locator_params("x", integer=True)
        legend_above(ax)
        ax.set_ylabel("loss")
    return figure
