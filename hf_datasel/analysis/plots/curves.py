"""Plot of the loss over the steps of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis.plots.theme import add_legend, canvas

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
    """Draw training loss as a line and evaluation loss as dots; values that are not finite are skipped.

    Lines are interrupted where training restarted from the base model.

    Args:
        loss: Pairs of step and training loss, as logged.
        eval_loss: Pairs of step and loss on the evaluation set, as logged.
        title: Title of the figure.
        dark: Whether to draw for a dark page.
        restarts: Steps after which training restarted.
        warm_up: Last step of the warm-up, if there was one.

    Raises:
        DataselError: If matplotlib is not installed.
    """
    with canvas("draw_loss", title, dark, height=2.8) as (figure, theme):
        ax = figure.subplots()
        for points, name, color, marker in (
            (loss, "training loss", theme.selected, ""),
            (eval_loss, "evaluation loss", theme.others[0], "o"),
        ):
            finite = [(step, value) for step, value in points if np.isfinite(value)]
            for index, part in enumerate(_split_at_restarts(finite, restarts)):
                steps, values = zip(*part, strict=True)
                dot = marker or ("" if len(part) > 1 else ".")  # a line with one point would be invisible
                label = "" if index else name
                ax.plot(steps, values, color=color, linewidth=1.6, marker=dot, markersize=5, label=label)
        if warm_up:
            ax.axvspan(0, warm_up, color=theme.pool, alpha=0.3, linewidth=0, label="warm-up")
        for index, step in enumerate(restarts):
            label = "" if index else "restart from the base model"
            ax.axvline(step, color=theme.ink, linewidth=0.9, linestyle=":", label=label)
        ax.set_xlabel("step")
        ax.locator_params("x", integer=True)
        add_legend(ax)
        ax.set_ylabel("loss")
    return figure


def _split_at_restarts(points: Sequence[tuple[int, float]], restarts: Sequence[int]) -> list[list[tuple[int, float]]]:
    """Split points at the restarts; a value logged at the step of a restart was measured before it."""
    parts: dict[int, list[tuple[int, float]]] = {}
    for step, value in points:
        parts.setdefault(sum(step > restart for restart in restarts), []).append((step, value))
    return list(parts.values())
