"""What other libraries say at every start, and nobody can do anything about, is left out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_bars", "without_clutter"]

_CLUTTER = {
    # on import it misses 4-bit kernels for a CPU, which hardly any command uses
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community",
    # rows are cut where they are too long, and counted before they are
    "transformers.tokenization_utils_base": "Token indices sequence length is longer than the specified maximum",
}
"""Logger -> beginning of the one message of it that is left out."""


class _Without(logging.Filter):
    """Lets all messages pass but those that begin in one way."""

    def __init__(self, beginning: str):
        super().__init__()
        self.beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.beginning)


@contextmanager
def without_clutter() -> Iterator[None]:
    """Leave out a few known messages; every other one comes through."""
    filters = [(logging.getLogger(name), _Without(beginning)) for name, beginning in _CLUTTER.items()]
    for logger, each in filters:
        logger.addFilter(each)
    try:
        with warnings.catch_warnings():
            # TRL sets it itself, by the name that every version of transformers knows and later ones warn about
            warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        for logger, each in filters:
            logger.removeFilter(each)


@contextmanager
def no_bars() -> Iterator[None]:
    """No progress bars of datasets, for what is written in a moment."""
    import datasets

    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()
