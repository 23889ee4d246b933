"""Evaluation of trained models: the loss of held-out rows, and exact match of generated answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.evaluation.heldout import HeldoutLoss as HeldoutLoss, heldout_loss as heldout_loss
    from hf_datasel.evaluation.heldout_rows import rows_in_pool as rows_in_pool

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
