"""The result of selecting, and how to get one without training."""

from hf_datasel.selection.budget import wanted_rows
from hf_datasel.selection.explaining import Explanation, explain
from hf_datasel.selection.filters import Between
from hf_datasel.selection.result import Selection
from hf_datasel.selection.selecting import Selecting, select
from hf_datasel.selection.streaming import select_streaming

__all__ = ["Between", "Explanation", "Selecting", "Selection", "explain", "select", "select_streaming", "wanted_rows"]
