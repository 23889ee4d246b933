"""Selectors and filters: published methods, one per module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_datasel._lazy import lazy_imports
from hf_datasel.rounds.selector import RowFilter, Selector
from hf_datasel.spec import build, list_classes

if TYPE_CHECKING:
    from hf_datasel.rounds.context import RoundContext as RoundContext
    from hf_datasel.rounds.plan import RoundPlan as RoundPlan
    from hf_datasel.rounds.ranked_selector import RankedSelector as RankedSelector
    from hf_datasel.selectors.all import All as All
    from hf_datasel.selectors.bm25 import BM25 as BM25
    from hf_datasel.selectors.chain import Chain as Chain
    from hf_datasel.selectors.cherry import Cherry as Cherry
    from hf_datasel.selectors.closest import Closest as Closest
    from hf_datasel.selectors.cross_entropy import CrossEntropy as CrossEntropy
    from hf_datasel.selectors.decontaminate import Decontaminate as Decontaminate
    from hf_datasel.selectors.deita import Deita as Deita
    from hf_datasel.selectors.diverse_evol import DiverseEvol as DiverseEvol
    from hf_datasel.selectors.dq import DQ as DQ
    from hf_datasel.selectors.graphfilter import GraphFilter as GraphFilter
    from hf_datasel.selectors.in_language import InLanguage as InLanguage
    from hf_datasel.selectors.in_range import InRange as InRange
    from hf_datasel.selectors.instag_diverse import InsTagDiverse as InsTagDiverse
    from hf_datasel.selectors.iterative_kmq import IterativeKMQ as IterativeKMQ
    from hf_datasel.selectors.iterit import IterIT as IterIT
    from hf_datasel.selectors.k_center import KCenter as KCenter
    from hf_datasel.selectors.km_closest import KMClosest as KMClosest
    from hf_datasel.selectors.km_random import KMRandom as KMRandom
    from hf_datasel.selectors.kmq import KMQ as KMQ
    from hf_datasel.selectors.length_km import LengthKM as LengthKM
    from hf_datasel.selectors.less import LESS as LESS
    from hf_datasel.selectors.less_top import LESSTop as LESSTop
    from hf_datasel.selectors.longest import Longest as Longest
    from hf_datasel.selectors.mig import MIG as MIG
    from hf_datasel.selectors.most_similar import MostSimilar as MostSimilar
    from hf_datasel.selectors.no_near_duplicates import NoNearDuplicates as NoNearDuplicates
    from hf_datasel.selectors.no_text_duplicates import NoTextDuplicates as NoTextDuplicates
    from hf_datasel.selectors.nuggets_top import NuggetsTop as NuggetsTop
    from hf_datasel.selectors.qdit import QDIT as QDIT
    from hf_datasel.selectors.random import Random as Random
    from hf_datasel.selectors.rds_plus import RDSPlus as RDSPlus
    from hf_datasel.selectors.selectit_top import SelectITTop as SelectITTop
    from hf_datasel.selectors.superfiltering import Superfiltering as Superfiltering
    from hf_datasel.selectors.top import Top as Top
    from hf_datasel.selectors.top_share import TopShare as TopShare
    from hf_datasel.selectors.weighted import Weighted as Weighted
    from hf_datasel.selectors.within import (
        Within as Within,
        per_source as per_source,
        within_clusters as within_clusters,
    )
    from hf_datasel.selectors.zip import ZIP as ZIP

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
__all__ += ["RowFilter", "Selector", "get_filter", "get_selector", "list_filters", "list_selectors"]


def list_selectors() -> dict[str, type[Selector]]:
    """Return the selectors of this package: module name -> class."""
    return list_classes("selector")


def list_filters() -> dict[str, type[RowFilter]]:
    """Return the filters of this package, which are steps of `Chain`: module name -> class."""
    return list_classes("filter")


def get_selector(name: str, settings: Mapping[str, Any] | None = None, allow_imports: bool = False) -> Selector:
    """Return a selector from its name and settings, as recipes and the command line write them.

    Args:
        name: A module of this package (`"iterit"`), or another class (`"my_lab.selectors:Mine"`).
        settings: Its fields. A score as a setting is written as its name and settings, `{"score": "ifd", "model":
            ...}`; a selector as `{"selector": "top", "by": ...}`; a filter as `{"filter": "in_range", "by": ...}`.
        allow_imports: Whether classes outside this package may be imported, which runs the code that is named.

    Raises:
        ConfigError: There is no such selector or setting, a setting is missing or has a value it cannot have, or an
            import is not permitted.
    """
    selector: Selector = build("selector", name, settings, allow_imports)
    return selector


def get_filter(name: str, settings: Mapping[str, Any] | None = None, allow_imports: bool = False) -> RowFilter:
    """Return a filter of a `Chain` from its name and settings, as `get_selector` does.

    Args:
        name: A module of this package (`"in_range"`), or another class (`"my_lab.filters:Mine"`).
        settings: Its fields, as in `get_selector`.
        allow_imports: Whether classes outside this package may be imported.

    Raises:
        ConfigError: As `get_selector` does.
    """
    row_filter: RowFilter = build("filter", name, settings, allow_imports)
    return row_filter
