"""`SFTTrainer` that selects its training rows with the model being trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.training.config import SelectiveSFTConfig as SelectiveSFTConfig
    from hf_datasel.training.evaluation_metadata import (
        model_results as model_results,
        push_model_results as push_model_results,
    )
    from hf_datasel.training.trainer import SelectiveSFTTrainer as SelectiveSFTTrainer

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
