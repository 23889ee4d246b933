"""Run variants of a strategy, each in a separate process, and report their cost and whether their results are equal.

Used by `strategies.py`; not a script.
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
COLUMNS = ("strategy", "rows", "selected", "way", "CPU s", "s", "MB", "MB in all", "times", "rows selected")
WARM = 500
Ids = np.ndarray
_NOTHING: Mapping[str, int] = MappingProxyType({})


class Strategy(NamedTuple):
    """A strategy to measure.

    Attributes:
        title: Title in the plot.
        size: Number of rows in the default run.
        select: Function from the number of rows to the number of rows to select.
        make: Function that creates the data of a size.
        ways: Variants by name, the package first; each takes the data and the number of rows to select, and returns
            the rows, optionally with a number.
        parts: For variants whose selections all cost the same, the number of selections to run.
        million: Number of rows to select of a million, and for each variant the number of selections to run.
        value: Function that computes the objective of the selected rows.
        seeded: Whether to run twice, to check that the result depends on the seed only.
    """

    title: str
    size: int
    select: Callable[[int], int]
    make: Callable[[int, Args], tuple[Any, ...]]
    ways: dict[str, Callable[..., Ids | tuple[Ids, float]]]
    parts: Mapping[str, int] = _NOTHING
    million: tuple[int, Mapping[str, int]] = (0, _NOTHING)
    value: Callable[..., float] | None = None
    seeded: bool = False


class Case(NamedTuple):
    """One variant at one size: select `selected` rows, of which the first `part` are run and timed."""

    name: str
    way: str
    n: int
    selected: int
    part: int


class Result(NamedTuple):
    """Cost of a case: seconds for all selections, extrapolated or not, and MB before and at the peak."""

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
    """Return the memory of this process in MB, now (VmRSS) or at its peak (VmHWM)."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split(f"{entry}:")[1].split()[0]) / 1024


def in_new_process(find: Callable[[str], Strategy], case: Case, args: Args) -> Result:
    """Run a case until it has taken two seconds, or three times. Called in a separate process.

    If a part is run, the first selection is timed separately, and the cost of the others is extrapolated.
    """
    strategy = find(case.name)
    way = strategy.ways[case.way]
    warm = strategy.make(WARM, args)
    way(*warm, min(strategy.select(WARM), case.part))
    del warm
    data = strategy.make(case.n, args)
    ctypes.CDLL(None).malloc_trim(
        0
    )  # else a selection gets memory that making the data has left, and seems to need none
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts again from here
    first, *_ = timed(way, data, 1) if case.part < case.selected else (np.zeros(2),)
    spent, ids, value = timed(way, data, case.part)
    peak, runs, steady = resident("VmHWM"), 1, True
    if case.part < case.selected:
        spent = first + (spent - first) * (case.selected - 1) / (len(ids) - 1)
    total = spent[1]
    while case.part == case.selected and ((total < 2 and runs < 3) or (strategy.seeded and runs < 2)):
        more, others, _ = timed(way, data, case.part)
        steady &= np.array_equal(ids, others)
        spent, total, runs = np.minimum(spent, more), total + more[1], runs + 1
    if strategy.value is not None:
        value = strategy.value(*data, ids)
    cpu, seconds = spent.tolist()
    return Result(case, cpu, seconds, before, peak, ids, value, runs, steady, strategy.seeded)


def timed(
    way: Callable[..., Ids | tuple[Ids, float]], data: tuple[Any, ...], selected: int
) -> tuple[np.ndarray, Ids, float | None]:
    """Return CPU seconds and seconds of a call, and its result."""
    cpu, start = time.process_time(), time.perf_counter()
    rows_found = way(*data, selected)
    spent = np.array([time.process_time() - cpu, time.perf_counter() - start])
    return (spent, *rows_found) if isinstance(rows_found, tuple) else (spent, rows_found, None)


def measured(find: Callable[[str], Strategy], case: Case, args: Args) -> Result:
    """Run a case in a new process, which imports `find`, a function of a module, to get the strategy."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(in_new_process, find, case, args).result()


# -- showing ---------------------------------------------------------------------------------------------------------
def cells(result: Result, reference: Result) -> list[str]:
    """Return a line of the table."""
    case, is_partial = result.case, len(result.ids) < result.case.selected
    about = "~" if is_partial else ""
    times = "" if result is reference else f"{about}{digits(result.cpu / reference.cpu)}"
    spent = [f"{about}{digits(value)}" for value in (result.cpu, result.seconds)]
    memory = [f"{result.peak - result.before:,.0f}", f"{result.peak:,.0f}"]
    return [
        case.name,
        f"{case.n:,}",
        f"{case.selected:,}",
        case.way,
        *spent,
        *memory,
        times,
        describe_rows(result, reference),
    ]


def describe_rows(result: Result, reference: Result) -> str:
    """Describe whether a variant selected the same rows as the package."""
    compared = len(result.ids)
    if not result.steady:
        return "other ones on each run"
    if result is reference:
        return f"the same on {result.runs} runs" if result.seeded else ""
    if result.seeded:
        note = ""
    elif np.array_equal(result.ids, reference.ids[:compared]):
        note = "the same" if compared == len(reference.ids) else f"the same ({compared:,} compared)"
    else:
        first = int(np.flatnonzero(result.ids != reference.ids[:compared])[0])
        note = f"others from selection {first + 1:,} on, {np.isin(result.ids, reference.ids).mean():.2%} shared"
    if result.value is None or reference.value is None:
        return note
    what = "mean squared distance" if result.seeded else "objective"
    share = result.value / reference.value - 1
    change = "equal" if abs(share) < 1e-9 else f"{share:+.2%}"
    return ", ".join(part for part in (note, f"{what} {change}") if part)


def digits(value: float) -> str:
    """Format a number with three digits, or with all digits before the decimal point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"


def line(parts: list[str], markdown: bool) -> str:
    if markdown:
        return f"| {' | '.join(parts)} |"
    widths = (12, 10, 8, 16, 9, 9, 8, 10, 8, 0)
    return " ".join(
        part.ljust(width) if column in (0, 3, 9) else part.rjust(width)
        for column, (part, width) in enumerate(zip(parts, widths, strict=True))
    ).rstrip()


def machine() -> dict[str, Any]:
    """Return the machine and the versions on which the figures depend."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    models = [entry.split(":")[1].strip() for entry in info.splitlines() if entry.startswith("model name")]
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
    shown = list(dict.fromkeys(result.case.name for result in results if result.case.way != OURS))
    rows = len(shown) // 3 + 1  # one more, for the key
    title, height = "CPU seconds against the size of the pool", 0.5 + 2.1 * rows
    with canvas("strategies.py", title, False, height) as (figure, theme):
        axes_list = figure.subplots(rows, 3, squeeze=False).ravel().tolist()
        for ax, name in zip(axes_list, shown, strict=False):
            own_results = [result for result in results if result.case.name == name]
            unit, label = (1e6, "MB selected before") if name == "zip_step" else (1, "rows")
            for way in dict.fromkeys(result.case.way for result in own_results):
                points = sorted((result.case.n / unit, result.cpu) for result in own_results if result.case.way == way)
                ax.plot(*zip(*points, strict=True), **line_style(ways.index(way), theme))
            sizes, spent = [result.case.n / unit for result in own_results], [result.cpu for result in own_results]
            log_axis(ax, ax.xaxis, min(sizes), max(sizes))
            log_axis(ax, ax.yaxis, min(spent), max(spent))
            ax.set_title(titles[name], loc="left", fontsize=9.5)
            ax.set_xlabel(label, fontsize=8)
            ax.tick_params(labelsize=8)
        for ax in axes_list[len(shown) :]:
            ax.set_axis_off()
        used = [way for way in ways if any(result.case.way == way for result in results)]
        handles = [Line2D([], [], **line_style(ways.index(way), theme)) for way in used]
        axes_list[len(shown)].legend(handles, used, loc="center left")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "strategies.png")
    print(f"\n{folder / 'strategies.png'}")


def save(results: list[Result], path: Path) -> None:
    entries = []
    for result in results:
        figures = {key: value for key, value in result._asdict().items() if key not in ("case", "ids")}
        entries.append({**result.case._asdict(), **figures})
    content = {"command": shlex.join(["python", *sys.argv]), "machine": machine(), "results": entries}
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
