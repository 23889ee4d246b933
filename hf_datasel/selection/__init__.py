"""The result of selecting, and how to get one without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.selection.budget import wanted_rows as wanted_rows
    from hf_datasel.selection.explanation import Explanation as Explanation, explain as explain
    from hf_datasel.selection.filters import Between as Between
    from hf_datasel.selection.result import Selection as Selection
    from hf_datasel.selection.select_rows import Selecting as Selecting, select as select
    from hf_datasel.selection.streaming import select_streaming as select_streaming

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
