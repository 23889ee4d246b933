"""The score store: results of scoring on disk, indexed by content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.scoring.store.store import ScoreStore as ScoreStore
    from hf_datasel.scoring.store.table import StoreTable as StoreTable

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
