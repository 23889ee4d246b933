"""What selectors build on: the base classes, the rounds of a run, and what a selector is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.rounds.cache import Material as Material, as_numpy as as_numpy
    from hf_datasel.rounds.context import Round as Round, RoundPlan as RoundPlan
    from hf_datasel.rounds.run import ask as ask, check_budget as check_budget, run_round as run_round
    from hf_datasel.rounds.selector import RowFilter as RowFilter, Selector as Selector, round_off as round_off

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
