"""Progress bar of a scoring run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from hf_datasel.errors import reason_counts

__all__ = ["Progress", "map_progress_disabled", "progress_part"]

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"

_PART: ContextVar[str] = ContextVar("hf_datasel_progress_part", default="")


@contextmanager
def progress_part(part: str) -> Iterator[None]:
    """Show in the bars of the context which part of the rows they are for, and clear each once it is complete.

    Args:
        part: Name of the part, such as `"rows 1-8 of 24"`.
    """
    token = _PART.set(part)
    try:
        yield
    finally:
        _PART.reset(token)


@contextmanager
def map_progress_disabled() -> Iterator[None]:
    """Disable the progress bars of `Dataset.map` in the context."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    was_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not was_disabled:
            enable_progress_bars()


class Progress:
    """Progress bar with rows and tokens per second, the remaining time, and the counts of null rows by reason.

    The remaining time is estimated from tokens, because long rows come first. Nothing is shown where stderr is not a
    terminal.

    Args:
        label: Name of what is computed.
        rows: Number of rows.
        tokens: Number of tokens in these rows.
        nulls: Number of null rows by reason. It is read at each step, so it may be updated.
        shown: Whether the bar is shown at all.
        unit: Name of a row in the bar.
    """

    def __init__(self, label: str, rows: int, tokens: int, nulls: Counter[str], shown: bool = True, unit: str = "row"):
        from tqdm.auto import tqdm

        self.rows, self.done, self.unit, self.nulls = rows, 0, unit, nulls
        disable = None if shown else True  # None: disabled where stderr is not a terminal
        part = _PART.get()
        label = f"{label}, {part}" if part else label
        self._bar: Any = tqdm(total=tokens, desc=label, bar_format=_FORMAT, disable=disable, leave=not part)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, rows: int, tokens: int) -> None:
        """Advance the bar.

        Args:
            rows: Number of rows computed since the last call.
            tokens: Number of tokens in them.
        """
        self.done += rows
        if not self._bar.disable:
            self._bar.set_postfix_str(self._line(tokens), refresh=False)
        self._bar.update(tokens)

    def _line(self, tokens: int) -> str:
        seconds = max(self._bar.format_dict["elapsed"], 1e-9)
        rate = self.done / seconds, (self._bar.n + tokens) / seconds
        line = f"{self.done:,}/{self.rows:,} {self.unit}s, {rate[0]:,.1f} {self.unit}s/s, {rate[1]:,.0f} tokens/s"
        return f"{line}, null: {reason_counts(self.nulls)}" if self.nulls else line
