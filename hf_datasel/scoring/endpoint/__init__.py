"""OpenAI-compatible endpoints: requests, their limits and errors, ratings, answers and embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.scoring.endpoint.client import Answer as Answer, Endpoint as Endpoint

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
