"""Tokens of pool rows, exactly as `SFTTrainer` makes them: the only tokenising code in the package."""

from hf_datasel.tokens.rows import TokenRows, Tokens
from hf_datasel.tokens.sequences import Sequences
from hf_datasel.tokens.training import Prepared, TokenSettings, prepare

__all__ = ["Prepared", "Sequences", "TokenRows", "TokenSettings", "Tokens", "prepare"]
