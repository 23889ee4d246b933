"""What a long run shows while it is under way."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Any

from hf_datasel.errors import reason_counts

__all__ = ["Progress"]

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"


class Progress:
    """A line with the rows and tokens done per second, the time left, and the rows without a value so far, by reason.

    The time left follows tokens, since long rows come first. Nothing is shown where stderr is no terminal.

    Args:
        label: what is computed.
        rows: to be done.
        tokens: in them.
        nulls: rows without a value, by reason; read at each step, so that it may grow.
        shown: show it at all.
        unit: what a row is called.
    """

    def __init__(self, label: str, rows: int, tokens: int, nulls: Counter[str], shown: bool = True, unit: str = "row"):
        from tqdm.auto import tqdm

        self.rows, self.done, self.unit, self.nulls = rows, 0, unit, nulls
        hidden = None if shown else True  # None: off where stderr is no terminal
        self._bar: Any = tqdm(total=tokens, desc=label, bar_format=_FORMAT, disable=hidden)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, rows: int, tokens: int) -> None:
        """So many more are done."""
        self.done += rows
        if not self._bar.disable:
            self._bar.set_postfix_str(self._line(tokens), refresh=False)
        self._bar.update(tokens)

    def _line(self, tokens: int) -> str:
        seconds = max(self._bar.format_dict["elapsed"], 1e-9)
        rate = self.done / seconds, (self._bar.n + tokens) / seconds
        line = f"{self.done:,}/{self.rows:,} {self.unit}s, {rate[0]:,.1f} {self.unit}s/s, {rate[1]:,.0f} tokens/s"
        return f"{line}, null: {reason_counts(self.nulls)}" if self.nulls else line
