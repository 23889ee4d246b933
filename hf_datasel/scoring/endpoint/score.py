"""Base class of scores whose model runs here or behind an endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_datasel.scoring.base import ModelScore, Score
from hf_datasel.scoring.endpoint.client import Endpoint

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.scoring.runner import ModelRunner
    from hf_datasel.tokens import TokenRows

__all__ = ["EndpointScore"]


class EndpointScore(ModelScore):
    """A score whose model is behind an endpoint if `base_url` is set, and runs here otherwise.

    A subclass is a dataclass with the field `base_url`, and with those settings of `Endpoint` that it has.
    """

    base_url: str | None

    def _endpoint(self) -> Endpoint:
        return Endpoint.of(self)

    @property
    def needs_tokenizer(self) -> bool:
        """Whether the score needs tokenized rows."""
        return self.base_url is None

    def spec(self) -> dict[str, Any]:
        """Return the settings for the record; a model behind an endpoint is not resolved."""
        return super().spec() if self.base_url is None else {**Score.spec(self), "resolved_model": None}

    def _identity(self) -> str:
        return super()._identity() if self.base_url is None else Score._identity(self)

    def _rows_of(self, dataset: Dataset) -> tuple[TokenRows, ModelRunner]:
        return super()._rows_of(dataset) if self.base_url is None else Score._rows_of(self, dataset)
