"""Tokens of pool rows, exactly as `SFTTrainer` makes them: the only tokenising code in the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.tokens.rows import TokenRows as TokenRows, Tokens as Tokens
    from hf_datasel.tokens.sequences import Sequences as Sequences
    from hf_datasel.tokens.training import Prepared as Prepared, TokenSettings as TokenSettings, prepare as prepare

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
