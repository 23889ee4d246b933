"""Markdown table of an experiment: methods, their differences to Random, and what the experiment cannot see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import ConfigError, did_you_mean
from hf_datasel.evaluation._checks import check_array, is_constant
from hf_datasel.evaluation.statistics import (
    Difference,
    compare_with_control,
    minimum_detectable_effect,
    pooled_sd,
)
from hf_datasel.hub.markdown import Markdown, table, text

__all__ = ["MethodRuns", "results_table"]

_NONE = Markdown("–")


@dataclass(frozen=True)
class MethodRuns:
    """Results of the runs of one method.

    Args:
        average: The primary result of each finished run, such as the average accuracy in points.
        tasks: Results of the finished runs on each task.
        rows: Number of rows that a run trains on, or None.
        epochs: Number of epochs over these rows, or None.
        steps: Number of updates of a run, or None.
        planned: Number of runs that were planned, finished or not; the number of finished runs by default.
        selecting_seconds: Device seconds that scoring and selecting took per run, or None.
        training_seconds: Device seconds that training took per run, or None.
        flops: Floating-point operations of selecting and training per run, or None.
        is_untrained: Whether it is the model before training, which has no runs and is not compared.
    """

    average: Sequence[float] | npt.NDArray[np.floating]
    tasks: Mapping[str, Sequence[float] | npt.NDArray[np.floating]] = field(default_factory=dict)
    rows: int | None = None
    epochs: float | None = None
    steps: int | None = None
    planned: int | None = None
    selecting_seconds: float | None = None
    training_seconds: float | None = None
    flops: float | None = None
    is_untrained: bool = False

    @property
    def device_seconds(self) -> tuple[float | None, float | None]:
        """Device seconds of selecting and of training."""
        return self.selecting_seconds, self.training_seconds


def results_table(
    methods: Mapping[str, MethodRuns],
    *,
    items: int,
    control: str = "random",
    primary: str = "average",
    higher_is_better: bool = True,
    confidence: float = 0.95,
    decimals: int = 2,
) -> str:
    """Write the results of an experiment as a Markdown table.

    Above the table stands which differences are too small to be seen. Differences are bold only where their interval
    leaves 0. A method with fewer than two finished runs has a row too, without an interval, and a line below the table
    names every run that is missing.

    Args:
        methods: Results by name of the method, the control included, in the order of the rows.
        items: Number of questions or held-out rows that every run was evaluated on.
        control: Name of the method that the others are compared with.
        primary: What the primary result is, for the head of its column.
        higher_is_better: Whether higher primary results are better.
        confidence: Confidence level of the simultaneous intervals of `compare_with_control`.
        decimals: Number of decimals of results.

    Returns:
        Markdown: a paragraph, the table, and a list.

    Raises:
        EvaluationError: Results are not finite numbers.
        ConfigError: `control` is not one of the methods, or `confidence` does not lie between 0 and 1.
    """
    if control not in methods:
        raise ConfigError(
            f"results_table: control={control!r} is none of the methods: {', '.join(map(repr, methods))}."
            f"{did_you_mean(control, methods)}",
            "Pass control=NAME.",
        )
    averages = {
        name: check_array("results_table", name, runs.average, ("run",), least=0) for name, runs in methods.items()
    }
    compared = {
        name: values
        for name, values in averages.items()
        if name != control and not methods[name].is_untrained and min(len(values), len(averages[control])) >= 2
    }
    differences: dict[str, Difference] = {}
    if compared and not all(is_constant(values) for values in [*compared.values(), averages[control]]):
        differences = compare_with_control(compared, averages[control], confidence=confidence)
    tasks = list(dict.fromkeys(task for runs in methods.values() for task in runs.tasks))
    level = f"{100 * confidence:g} %"
    costs = _Costs(methods, control)
    head = [
        *("method", "rows x epochs", "steps", f"{primary} (sd, runs)"),
        Markdown(f"difference to {text(control)} [{level}]"),
        "p",
        *tasks,
        *costs.head,
    ]
    rows = [
        [
            name,
            _NONE if runs.rows is None or runs.epochs is None else f"{runs.rows:,} x {runs.epochs:g}",
            _NONE if runs.steps is None else f"{runs.steps:,}",
            _average(averages[name], decimals),
            _difference(differences[name], decimals) if name in differences else _NONE,
            _p(differences[name]["p"]) if name in differences else _NONE,
            *(_task(name, task, runs, decimals) for task in tasks),
            *costs.cells(runs),
        ]
        for name, runs in methods.items()
    ]
    above = _above(averages[control], control, compared, items, confidence, decimals)
    below = _below(methods, control, differences, bool(tasks), level, higher_is_better)
    below += _other_answers(compared, averages[control], differences, confidence)
    return "\n\n".join([above, table(head, rows), below]) + "\n"


class _Costs:
    """The columns of the cost: device time of selecting and training, and operations relative to the control's."""

    def __init__(self, methods: Mapping[str, MethodRuns], control: str):
        times = [entry for runs in methods.values() for entry in runs.device_seconds if entry]
        self._unit, self._divisor = ("hours", 3600) if max(times, default=0) >= 3600 else ("seconds", 1)
        self._control = methods[control].flops
        self.head = []
        if times:
            self.head = [f"selecting, device {self._unit}", f"training, device {self._unit}"]
            self.head.append(f"compute, times {control}")

    def cells(self, runs: MethodRuns) -> list[str]:
        if not self.head:
            return []
        relative = runs.flops / self._control if runs.flops and self._control else None
        return [
            *(_NONE if value is None else f"{value / self._divisor:.3g}" for value in runs.device_seconds),
            _NONE if relative is None else f"{relative:.2f}",
        ]


def _average(values: npt.NDArray[np.float64], decimals: int) -> Markdown:
    if not len(values):
        return Markdown("no run")
    sd = f"sd {values.std(ddof=1):.{decimals}f}, " if len(values) > 1 else ""
    return Markdown(f"{values.mean():.{decimals}f} ({sd}{_count(len(values), 'run')})")


def _difference(difference: Difference, decimals: int) -> Markdown:
    low, high = difference["low"], difference["high"]
    cell = f"{difference['difference']:+.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"
    return Markdown(f"**{cell}**" if low > 0 or high < 0 else cell)


def _p(p: float) -> str:
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def _task(name: str, task: str, runs: MethodRuns, decimals: int) -> str:
    if task not in runs.tasks or not len(runs.tasks[task]):
        return "missing"
    values = check_array("results_table", f"{name}: {task}", runs.tasks[task], ("run",))
    share = f" ({len(values)} of {_count(len(runs.average), 'run')})" if len(values) < len(runs.average) else ""
    return f"{values.mean():.{decimals}f}{share}"


def _above(
    control_runs: npt.NDArray[np.float64],
    control: str,
    compared: Mapping[str, npt.NDArray[np.float64]],
    items: int,
    confidence: float,
    decimals: int,
) -> str:
    """Return what the experiment cannot see, in words."""
    facts = f"{text(control)}: {_count(len(control_runs), 'run')}. {_count(items, 'question')}."
    if not compared:
        return (
            f"{facts} Nothing can be compared: {text(control)} and another method need at least 2 finished runs each."
        )
    if all(is_constant(runs) for runs in [*compared.values(), control_runs]):
        return (
            f"{facts} Nothing can be compared: all runs of a method have the same result. The task is at its lowest "
            "or highest value, or the runs do not differ in their seeds."
        )
    sd = pooled_sd({**compared, control: control_runs})
    fewest = min(len(values) for values in compared.values())
    effect = minimum_detectable_effect(
        sd, fewest, control_runs=len(control_runs), methods=len(compared), confidence=confidence
    )
    return (
        f"{facts} Runs of the same method have a standard deviation of {sd:.{decimals}f}. With {fewest} runs and"
        f" {_count(len(compared), 'method')} compared at once, a true difference of about {effect:.{decimals}f} is"
        " seen in 80 % of such experiments, smaller ones less often."
    )


def _below(
    methods: Mapping[str, MethodRuns],
    control: str,
    differences: Mapping[str, Difference],
    has_tasks: bool,
    level: str,
    higher_is_better: bool,
) -> str:
    """Return how to read the table, and what is missing, as a list."""
    lines = []
    if differences:
        count = len(differences)
        whose = f"intervals hold for all {count} methods at once" if count > 1 else "interval holds"
        lines.append(
            f"Differences are means of runs minus those of {text(control)}. The {whose} with {level} (Dunnett's test),"
            " for other runs on the same questions. Bold: the interval leaves 0. Methods are not compared with each"
            " other." + ("" if higher_is_better else " Lower is better: a negative difference is a gain.")
        )
    if has_tasks:
        lines.append("Tasks: means of runs, for exploration.")
    for name, runs in methods.items():
        if runs.is_untrained:
            continue
        finished, planned = len(runs.average), runs.planned
        missing = [] if planned is None or finished >= planned else [f"{finished} of {planned} planned runs finished"]
        if finished < 2:
            missing.append("an interval needs at least 2")
        if missing:
            lines.append(f"{text(name)}: {'; '.join(missing)}.")
    return "\n".join(f"- {line}" for line in lines)


def _other_answers(
    compared: Mapping[str, npt.NDArray[np.float64]],
    control_runs: npt.NDArray[np.float64],
    differences: Mapping[str, Difference],
    confidence: float,
) -> str:
    """Return the methods that are bold, or are not, only since all have the same standard deviation in the test."""
    spread = {
        name: values
        for name, values in compared.items()
        if name in differences and not (is_constant(values) and is_constant(control_runs))
    }
    if not spread:
        return ""
    separate = compare_with_control(spread, control_runs, confidence=confidence, equal_variances=False)
    answers = [
        f"{text(name)} {_p(entry['p'])}"
        for name, entry in separate.items()
        if (entry["p"] < 1 - confidence) != (differences[name]["p"] < 1 - confidence)
    ]
    if not answers:
        return ""
    return (
        "\n- The test takes the runs of all methods to spread equally. With a standard deviation for each method,"
        " which sees less with few runs, the answer differs (p of Welch's tests, adjusted by Holm's method):"
        f" {', '.join(answers)}."
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
