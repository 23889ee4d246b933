"""Progress bar of a scoring run."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Any

from hf_datasel.errors import reason_counts

__all__ = ["Progress"]

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"


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
        self._bar: Any = tqdm(total=tokens, desc=label, bar_format=_FORMAT, disable=disable)

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
