"""Filters for log messages and progress bars of other libraries that users can do nothing about."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["filter_log_messages"]

# By logger, the beginning of the message that is dropped.
_DROPPED = {
    # rows are tokenized in full before they are truncated
    "transformers.tokenization_utils_base": "Token indices sequence length is longer than the specified maximum",
}


class _PrefixFilter(logging.Filter):
    """Logging filter that drops messages with a prefix."""

    def __init__(self, prefix: str):
        super().__init__()
        self.prefix = prefix

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.prefix)


@contextmanager
def filter_log_messages() -> Iterator[None]:
    """Drop a few known log messages and warnings of other libraries."""
    filters = [(logging.getLogger(name), _PrefixFilter(prefix)) for name, prefix in _DROPPED.items()]
    for logger, prefix_filter in filters:
        logger.addFilter(prefix_filter)
    try:
        with warnings.catch_warnings():
            # TRL sets it under the name that all versions of transformers accept and later ones warn about
            warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        for logger, prefix_filter in filters:
            logger.removeFilter(prefix_filter)
