"""Selection of rows without training, and its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.selection.budget import resolve_size as resolve_size
    from hf_datasel.selection.explanation import Explanation as Explanation, explain as explain
    from hf_datasel.selection.filters import Between as Between
    from hf_datasel.selection.result import Selection as Selection
    from hf_datasel.selection.select_rows import SelectionSession as SelectionSession, select as select
    from hf_datasel.selection.streaming import select_streaming as select_streaming

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
