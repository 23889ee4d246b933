"""Run ways to do the same thing, each case in a process of its own, and show what they took and whether they agree.

What `strategies.py` measures with; nothing happens when this is run.
"""

import ctypes
import json
import multiprocessing
import os
import platform
import shlex
import sys
import time
from argparse import Namespace as Args
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from hf_datasel.strategies.zip import zlib_build

OURS, WELL, PLAIN, LAZY = "hf_datasel", "done well", "plain", "done well, lazy"
COLUMNS = ("strategy", "rows", "chosen", "way", "CPU s", "s", "MB", "MB in all", "times", "rows chosen")
WARM = 500
Ids = np.ndarray
_NOTHING: Mapping[str, int] = MappingProxyType({})


class Strategy(NamedTuple):
    """What is timed.

    Attributes:
        title: for the plot.
        size: rows in the default run.
        choose: rows to choose of so many.
        make: makes the data of a size.
        ways: by name, the package first; each takes the data and how many to choose. A number may come with the rows.
        parts: of ways whose choices all cost the same: how many of them are made.
        million: rows to choose of a million, and of the ways run with so many how many choices are made.
        value: of what is chosen, to be compared.
        seeded: run twice, to see that nothing but the seed decides.
    """

    title: str
    size: int
    choose: Callable[[int], int]
    make: Callable[[int, Args], tuple[Any, ...]]
    ways: dict[str, Callable[..., Ids | tuple[Ids, float]]]
    parts: Mapping[str, int] = _NOTHING
    million: tuple[int, Mapping[str, int]] = (0, _NOTHING)
    value: Callable[..., float] | None = None
    seeded: bool = False


class Case(NamedTuple):
    """One way at one size: to choose so many rows, of which the first `part` are chosen and timed."""

    name: str
    way: str
    n: int
    chosen: int
    part: int


class Result(NamedTuple):
    """What a case took: seconds for all choices, extrapolated or not, and MB before and at the peak."""

    case: Case
    cpu: float
    seconds: float
    before: float
    peak: float
    ids: Ids
    value: float | None
    runs: int
    steady: bool
    seeded: bool


# -- measuring -------------------------------------------------------------------------------------------------------
def resident(entry: str) -> float:
    """MB of this process now (VmRSS), or at most so far (VmHWM)."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split(f"{entry}:")[1].split()[0]) / 1024


def in_new_process(find: Callable[[str], Strategy], case: Case, args: Args) -> Result:
    """Run a case, until it has taken two seconds, or three times. For a process of its own.

    Of a case in part, one choice is made first: what the others take is what the part takes beyond that.
    """
    strategy = find(case.name)
    way = strategy.ways[case.way]
    warm = strategy.make(WARM, args)
    way(*warm, min(strategy.choose(WARM), case.part))
    del warm
    data = strategy.make(case.n, args)
    ctypes.CDLL(None).malloc_trim(0)  # else a choice gets memory that making the data has left, and seems to need none
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts again from here
    one, *_ = timed(way, data, 1) if case.part < case.chosen else (np.zeros(2),)
    spent, ids, value = timed(way, data, case.part)
    peak, runs, steady = resident("VmHWM"), 1, True
    if case.part < case.chosen:
        spent = one + (spent - one) * (case.chosen - 1) / (len(ids) - 1)
    total = spent[1]
    while case.part == case.chosen and ((total < 2 and runs < 3) or (strategy.seeded and runs < 2)):
        more, others, _ = timed(way, data, case.part)
        steady &= np.array_equal(ids, others)
        spent, total, runs = np.minimum(spent, more), total + more[1], runs + 1
    if strategy.value is not None:
        value = strategy.value(*data, ids)
    cpu, seconds = spent.tolist()
    return Result(case, cpu, seconds, before, peak, ids, value, runs, steady, strategy.seeded)


def timed(
    way: Callable[..., Ids | tuple[Ids, float]], data: tuple[Any, ...], chosen: int
) -> tuple[np.ndarray, Ids, float | None]:
    """CPU seconds and seconds of a call, and what it gives."""
    cpu, start = time.process_time(), time.perf_counter()
    found = way(*data, chosen)
    spent = np.array([time.process_time() - cpu, time.perf_counter() - start])
    return (spent, *found) if isinstance(found, tuple) else (spent, found, None)


def measured(find: Callable[[str], Strategy], case: Case, args: Args) -> Result:
    """Run a case, of a strategy that `find` gives the other process too, which is why it has to be in a module."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(in_new_process, find, case, args).result()


# -- showing ---------------------------------------------------------------------------------------------------------
def cells(result: Result, ours: Result) -> list[str]:
    """A line of the table."""
    case, partly = result.case, len(result.ids) < result.case.chosen
    about = "~" if partly else ""
    times = "" if result is ours else f"{about}{digits(result.cpu / ours.cpu)}"
    spent = [f"{about}{digits(each)}" for each in (result.cpu, result.seconds)]
    memory = [f"{result.peak - result.before:,.0f}", f"{result.peak:,.0f}"]
    return [case.name, f"{case.n:,}", f"{case.chosen:,}", case.way, *spent, *memory, times, said(result, ours)]


def said(result: Result, ours: Result) -> str:
    """Whether a way chose what the package did."""
    compared = len(result.ids)
    if not result.steady:
        return "other ones on each run"
    if result is ours:
        return f"the same on {result.runs} runs" if result.seeded else ""
    if result.seeded:
        note = ""
    elif np.array_equal(result.ids, ours.ids[:compared]):
        note = "the same" if compared == len(ours.ids) else f"the same ({compared:,} compared)"
    else:
        first = int(np.flatnonzero(result.ids != ours.ids[:compared])[0])
        note = f"others from choice {first + 1:,} on, {np.isin(result.ids, ours.ids).mean():.2%} shared"
    if result.value is None or ours.value is None:
        return note
    what = "mean squared distance" if result.seeded else "objective"
    share = result.value / ours.value - 1
    change = "equal" if abs(share) < 1e-9 else f"{share:+.2%}"
    return ", ".join(part for part in (note, f"{what} {change}") if part)


def digits(value: float) -> str:
    """A number with three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"


def line(parts: list[str], markdown: bool) -> str:
    if markdown:
        return f"| {' | '.join(parts)} |"
    widths = (12, 10, 8, 16, 9, 9, 8, 10, 8, 0)
    return " ".join(
        part.ljust(width) if at in (0, 3, 9) else part.rjust(width)
        for at, (part, width) in enumerate(zip(parts, widths, strict=True))
    ).rstrip()


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    models = [each.split(":")[1].strip() for each in info.splitlines() if each.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "zlib": zlib_build(),
        **{name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
    }


def draw(results: list[Result], titles: Mapping[str, str], folder: Path) -> None:
    """Draw CPU seconds against rows, a small plot for each strategy, on logarithmic axes."""
    from matplotlib.lines import Line2D

    from hf_datasel.analysis.plots.lines import line_style
    from hf_datasel.analysis.plots.theme import canvas, log_axis

    ways = [OURS, WELL, PLAIN, LAZY]
    shown = list(dict.fromkeys(each.case.name for each in results if each.case.way != OURS))
    rows = len(shown) // 3 + 1  # one more, for the key
    title, height = "CPU seconds against the size of the pool", 0.5 + 2.1 * rows
    with canvas("strategies.py", title, False, height) as (figure, theme):
        places = figure.subplots(rows, 3, squeeze=False).ravel().tolist()
        for ax, name in zip(places, shown, strict=False):
            mine = [each for each in results if each.case.name == name]
            unit, label = (1e6, "MB chosen before") if name == "zip_step" else (1, "rows")
            for way in dict.fromkeys(each.case.way for each in mine):
                points = sorted((each.case.n / unit, each.cpu) for each in mine if each.case.way == way)
                ax.plot(*zip(*points, strict=True), **line_style(ways.index(way), theme))
            sizes, spent = [each.case.n / unit for each in mine], [each.cpu for each in mine]
            log_axis(ax, ax.xaxis, min(sizes), max(sizes))
            log_axis(ax, ax.yaxis, min(spent), max(spent))
            ax.set_title(titles[name], loc="left", fontsize=9.5)
            ax.set_xlabel(label, fontsize=8)
            ax.tick_params(labelsize=8)
        for ax in places[len(shown) :]:
            ax.set_axis_off()
        used = [way for way in ways if any(each.case.way == way for each in results)]
        handles = [Line2D([], [], **line_style(ways.index(way), theme)) for way in used]
        places[len(shown)].legend(handles, used, loc="center left")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "strategies.png")
    print(f"\n{folder / 'strategies.png'}")


def save(results: list[Result], path: Path) -> None:
    kept = [
        {**each.case._asdict(), **{key: value for key, value in each._asdict().items() if key not in ("case", "ids")}}
        for each in results
    ]
    content = {"command": shlex.join(["python", *sys.argv]), "machine": machine(), "results": kept}
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
