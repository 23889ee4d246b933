"""Access to the Hugging Face Hub: repositories, commits, retries, permissions and card metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.hub.repository import Hub as Hub, Snapshot as Snapshot

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
