"""Tokenization of rows, equal to that of `SFTTrainer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.tokens.responses import PreparedDataset as PreparedDataset
    from hf_datasel.tokens.rows import TokenRows as TokenRows, Tokens as Tokens
    from hf_datasel.tokens.sequences import Sequences as Sequences
    from hf_datasel.tokens.training import TokenSettings as TokenSettings, prepare_dataset as prepare_dataset

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
