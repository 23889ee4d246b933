"""Training on rows that are chosen while the model trains."""

from hf_datasel.training.config import SelectiveSFTConfig
from hf_datasel.training.trainer import SelectiveSFTTrainer

__all__ = ["SelectiveSFTConfig", "SelectiveSFTTrainer"]
