"""Progress bars, and lines where no bar can be drawn."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter

import datasets
import pytest

from hf_datasel import score, select
from hf_datasel.scores import Loss
from hf_datasel.scoring import progress
from hf_datasel.scoring.progress import Progress
from hf_datasel.selectors import Longest


@pytest.fixture(autouse=True)
def no_earlier_task(monkeypatch):
    monkeypatch.setattr(progress._Lines, "_active", -math.inf)
    monkeypatch.setattr(progress._Lines, "_printed", -math.inf)


def test_progress_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "250")
    nulls = Counter({"empty_response": 2})
    with Progress("ifd", 50, 4_000, nulls) as bar:
        bar.advance(20, 3_000)
        nulls["prompt_fills_window"] += 3
        bar.advance(30, 1_000)
    line = capsys.readouterr().err.rsplit("\r", 1)[-1]
    assert line.startswith("ifd: 100%")
    assert "50/50 rows" in line
    assert "rows/s" in line
    assert "tokens/s" in line
    assert "null: 3 prompt_fills_window, 2 empty_response" in line


def test_lines_where_no_bar_can_be_drawn(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    nulls = Counter({"empty_response": 2})
    with Progress("ifd", 50, 4_000, nulls) as lines:
        lines.advance(20, 3_000)
        lines.advance(30, 1_000)  # complete: the summary follows
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"ifd: 75% after 00:00, 00:00 left, 20/50 rows, [\d,.]+ rows/s, [\d,]+ tokens/s, null: 2 empty_response", line
    )
    with progress.quiet(), Progress("ifd", 50, 4_000, nulls) as lines:
        lines.advance(20, 3_000)
    with Progress("ifd", 50, 4_000, nulls, shown=False) as lines:
        lines.advance(20, 3_000)
    assert capsys.readouterr().err == ""


def test_one_line_a_minute_over_short_passes(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for number in range(13):  # 260 seconds
        with Progress(f"pass {number}", 4, 4, Counter()) as lines:
            for _ in range(2):
                now[0] += 10
                lines.advance(1, 1)
    printed = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in printed] == ["pass 2", "pass 5", "pass 8", "pass 11"]


def test_time_left_for_all_rows(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    start = now[0]
    for done in (0.0, 0.25):
        with progress.progress_part("rows", done, start), Progress("loss", 8, 8, Counter()) as lines:
            now[0] += 60
            lines.advance(4, 4)
            now[0] += 60
            lines.advance(4, 4)
    first, second = capsys.readouterr().err.splitlines()
    assert "all rows" not in first
    assert "all rows: 05:00 left" in second  # a quarter took two minutes, and one minute of the other six has passed


def test_bars_of_datasets_only_where_they_can_be_drawn(monkeypatch, capfd, tiny_model_dir, pool_rows):
    rows = pool_rows.select(range(4))
    score(rows, [Loss()], model=tiny_model_dir)
    select(rows, Longest(), size=2)
    assert capfd.readouterr().err == ""
    assert not datasets.are_progress_bars_disabled()
    monkeypatch.setattr(progress, "_bars_are_drawn", lambda: True)
    score(pool_rows.select(range(4, 9)), [Loss()], model=tiny_model_dir)
    assert "Tokenizing" in capfd.readouterr().err
