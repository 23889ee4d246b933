"""Rounds of selection: the base classes of selectors, their context and their record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.rounds.cache import RoundCache as RoundCache, as_numpy as as_numpy
    from hf_datasel.rounds.context import RoundContext as RoundContext
    from hf_datasel.rounds.plan import RoundPlan as RoundPlan
    from hf_datasel.rounds.record import RoundRecord as RoundRecord
    from hf_datasel.rounds.run import (
        check_budget as check_budget,
        run_round as run_round,
        run_selector as run_selector,
    )
    from hf_datasel.rounds.selector import RowFilter as RowFilter, Selector as Selector, round_epochs as round_epochs

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
