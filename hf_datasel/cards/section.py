"""What a section of a page is: its facts, its text and its figures, and what its facts are computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.formats import Pool
from hf_datasel.selection import Selection
from hf_datasel.selection.select_rows import select
from hf_datasel.selectors import Longest, Random

if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.figure import Figure

    from hf_datasel.cards.facts import Facts, Parent, Result, RoundFacts

__all__ = ["CardSource", "FigureInfo", "Section"]


@dataclass(frozen=True)
class CardSource:
    """What the facts of a section are computed from.

    Args:
        selections: One selection, or one for each round in order.
        dataset: The dataset that rows were selected from, or None.
        provenance: Provenance of the last selection, without local paths.
        parent: Facts of the dataset.
        rounds: Facts of the selections.
        results: Evaluation results.
        is_published: Whether the page is published, and may show text of selected rows alone.
    """

    selections: Sequence[Selection]
    dataset: Dataset | None
    provenance: Mapping[str, Any]
    parent: Parent
    rounds: Sequence[RoundFacts]
    results: Sequence[Result]
    is_published: bool = False

    @property
    def last(self) -> Selection:
        """The last selection."""
        return self.selections[-1]

    @cached_property
    def pool(self) -> Pool | None:
        """The dataset as a pool of rows, or None."""
        return None if self.dataset is None else self.last.pool(self.dataset)

    @cached_property
    def baselines(self) -> dict[str, np.ndarray]:
        """Row numbers of baselines by name: as many random rows and longest responses as the last selection has."""
        if self.pool is None:
            return {}
        size, seed = len(self.last.indices), self.provenance["seed"]
        baselines = {}
        for selector in (Random(), Longest()):
            is_own_method = selector.spec()["selector"] == self.provenance["selector"]["selector"]
            has_responses = self.pool.has_responses or isinstance(selector, Random)
            if not is_own_method and has_responses:
                selection = select(self.pool.dataset, selector, size=size, seed=seed, columns=self.pool.mapping)
                baselines[type(selector).__name__] = selection.indices
        return baselines


@dataclass(frozen=True)
class FigureInfo:
    """A figure of a page, before it is drawn.

    Args:
        name: What its files are named after; `cards.figures` turns it into a unique stem of a-z, 0-9 and hyphens.
        title: Short, plain text.
        alt: Alternative text with the numbers, plain text on one line. It contains foreign names: escape it for the
            page that it is put into.
        draw: Draws the figure with matplotlib; called with `title` and `dark`.
    """

    name: str
    title: str
    alt: str
    draw: Callable[..., Figure] = field(compare=False, repr=False)


def _no_figures(facts: Facts, own: Any) -> list[FigureInfo]:
    return []


@dataclass(frozen=True)
class Section:
    """A section of a page. All functions but `compute` depend on the facts only.

    Args:
        name: Key of its facts in `Facts["sections"]`, and name of its module.
        heading: Heading on the page; consecutive sections with the same heading share it, "" has none.
        text: Renders the facts of the page and its own facts as Markdown; "" for nothing.
        figures: Returns the figures that follow the text.
        compute: Computes its own facts, plain JSON values; None for a section without any.
        facts_type: Type of these facts, which facts.json is checked against.
    """

    name: str
    heading: str
    text: Callable[[Facts, Any], str]
    figures: Callable[[Facts, Any], list[FigureInfo]] = _no_figures
    compute: Callable[[CardSource], Any] | None = None
    facts_type: Any = None
