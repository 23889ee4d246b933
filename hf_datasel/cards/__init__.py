"""Dataset cards and reports of selections, and publishing selections on the Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Result as Result
    from hf_datasel.cards.pull import (
        PublishedEvaluation as PublishedEvaluation,
        pull_evaluation as pull_evaluation,
        pull_selection as pull_selection,
    )
    from hf_datasel.cards.push import push_selections as push_selections

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
