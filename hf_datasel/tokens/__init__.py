"""Tokens of pool rows, exactly as `SFTTrainer` makes them: the only tokenising code in the package."""

from hf_datasel.tokens.rows import TokenRows, Tokens, pool_rows
from hf_datasel.tokens.sequences import Sequences
from hf_datasel.tokens.training import TokenSettings, prepare

__all__ = ["Sequences", "TokenRows", "TokenSettings", "Tokens", "pool_rows", "prepare"]
