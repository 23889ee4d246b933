"""Progress of scoring and selecting: bars on terminals and in notebooks, elsewhere one line a minute."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar

from hf_datasel.errors import reason_counts

__all__ = ["Progress", "map_progress_disabled", "only_drawn_bars", "progress_bar", "progress_part", "quiet"]

LINE_SECONDS = 60.0
"""Seconds between two lines where no bar is drawn, and before the first."""

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"


@dataclass(frozen=True)
class _Part:
    """Part of the rows that is computed.

    Args:
        name: Its name.
        done: Share of all rows that was computed before it, from 0 to 1.
        seconds: Time that these took.
        start: Time of its start.
    """

    name: str
    done: float
    seconds: float
    start: float

    def seconds_left(self) -> float | None:
        """Return the remaining time for this part and those after it; None before any is complete."""
        if not self.done:
            return None
        return max(self.seconds / self.done * (1 - self.done) - (time.monotonic() - self.start), 0.0)


_PART: ContextVar[_Part | None] = ContextVar("hf_datasel_progress_part", default=None)
_QUIET: ContextVar[bool] = ContextVar("hf_datasel_progress_quiet", default=False)


@contextmanager
def progress_part(part: str, done: float = 0.0, start: float | None = None) -> Iterator[None]:
    """Show in the bars of the context which part of the rows they are for, and clear each once it is complete.

    Args:
        part: Name of the part, such as `"rows 1-8 of 24"`.
        done: Share of all rows that was computed before it; with it, bars also show the time left for all rows.
        start: Time at which the first part began, by `time.monotonic`.
    """
    now = time.monotonic()
    token = _PART.set(_Part(part, done, now - (now if start is None else start), now))
    try:
        yield
    finally:
        _PART.reset(token)


@contextmanager
def quiet() -> Iterator[None]:
    """Show no progress in the context, neither bars nor lines."""
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


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


@contextmanager
def only_drawn_bars() -> Iterator[None]:
    """Disable the progress bars of datasets and, if it is loaded, transformers in the context, where none is drawn."""
    with ExitStack() as stack:
        if not _bars_are_drawn():
            stack.enter_context(map_progress_disabled())
            if "transformers" in sys.modules:
                stack.enter_context(_loading_bars_disabled())
        yield


@contextmanager
def _loading_bars_disabled() -> Iterator[None]:
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _bars_are_drawn() -> bool:
    """Return whether bars can be drawn: stderr is a terminal, or this is a notebook with widgets."""
    if _QUIET.get():
        return False
    if sys.stderr.isatty():
        return True
    if "ipykernel" not in sys.modules:
        return False
    from tqdm.auto import tqdm
    from tqdm.notebook import tqdm_notebook

    return issubclass(tqdm, tqdm_notebook)


def progress_bar(total: int, desc: str, unit: str = "it", *, shown: bool = True, delay: float = 0, **more: Any) -> Any:
    """Return a `tqdm` bar, or an object like it that prints one line a minute where no bar can be drawn.

    Args:
        total: Number of steps.
        desc: Name of what is computed.
        unit: Name of a step, in the singular.
        shown: Whether progress is shown at all.
        delay: Seconds before the bar appears.
        **more: Further arguments of `tqdm`.
    """
    if shown and not _QUIET.get() and not _bars_are_drawn():
        return _Lines(total, desc, unit)
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=desc, unit=unit, delay=delay, disable=not shown or _QUIET.get(), **more)


class _Lines:
    """Progress that is printed to stderr as one line a minute, with the methods of `tqdm` that are used here."""

    disable = False
    _active: ClassVar[float] = -math.inf
    """Time of the last step of any of these."""
    _printed: ClassVar[float] = -math.inf
    """Time of the last line of any of these, since short passes follow each other."""

    def __init__(self, total: int, desc: str, unit: str):
        self.total, self.desc, self.unit = total, desc, unit
        self.n, self.postfix, self.start = 0, "", time.monotonic()
        if self.start - _Lines._active >= LINE_SECONDS:  # what came before is another task
            _Lines._printed = self.start
        _Lines._active = self.start

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def format_dict(self) -> dict[str, float]:
        """The elapsed time in seconds, as `tqdm` has it."""
        return {"elapsed": time.monotonic() - self.start}

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Set the end of the next line."""
        self.postfix = text

    def update(self, steps: int) -> None:
        """Count steps, and print a line if the last one was printed a minute ago."""
        self.n += steps
        now = _Lines._active = time.monotonic()
        if now - _Lines._printed < LINE_SECONDS or not self.n or self.n >= self.total:
            return
        _Lines._printed = now
        elapsed = now - self.start
        left = elapsed / self.n * (self.total - self.n)
        text = self.postfix or f"{self.n:,}/{self.total:,} {self.unit}s"
        print(
            f"{self.desc}: {self.n / self.total:.0%} after {_duration(elapsed)}, {_duration(left)} left, {text}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Do nothing: there is no bar to clear."""


def _duration(seconds: float) -> str:
    from tqdm import tqdm

    return str(tqdm.format_interval(seconds))


class Progress:
    """Progress bar with rows and tokens per second, the remaining time, and the counts of null rows by reason.

    The remaining time is estimated from tokens, because long rows come first. Where no bar can be drawn, one line a
    minute is printed.

    Args:
        label: Name of what is computed.
        rows: Number of rows.
        tokens: Number of tokens in these rows.
        nulls: Number of null rows by reason. It is read at each step, so it may be updated.
        shown: Whether progress is shown at all.
        unit: Name of a row in the bar.
    """

    def __init__(self, label: str, rows: int, tokens: int, nulls: Counter[str], shown: bool = True, unit: str = "row"):
        self.rows, self.done, self.unit, self.nulls, self._part = rows, 0, unit, nulls, _PART.get()
        label = label if self._part is None else f"{label}, {self._part.name}"
        self._bar = progress_bar(tokens, label, shown=shown, bar_format=_FORMAT, leave=self._part is None)

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
        if self._part is not None and (left := self._part.seconds_left()) is not None:
            line += f", all rows: {_duration(left)} left"
        return f"{line}, null: {reason_counts(self.nulls)}" if self.nulls else line
