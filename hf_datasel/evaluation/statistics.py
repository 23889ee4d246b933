"""Comparisons of training runs: intervals, p values, and what an experiment can see.

Every function takes one number per run, such as the average accuracy in points of each of five models that were
trained with different seeds. All results are in the unit of these numbers. An interval of 95 % means: of 100
experiments of this kind, about 95 give intervals that hold the true difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypedDict

import numpy.typing as npt

from hf_datasel.errors import ConfigError, EvaluationError
from hf_datasel.evaluation._checks import (
    Floats,
    check_array,
    check_groups,
    check_positive,
    check_share,
    constant_error,
    is_constant,
)
from hf_datasel.evaluation.dunnett import critical_value, p_value

__all__ = [
    "Difference",
    "NonInferiority",
    "TaskDifference",
    "compare_tasks",
    "compare_with_control",
    "minimum_detectable_effect",
    "non_inferiority",
    "pooled_sd",
]


class Difference(TypedDict):
    """Difference between a method and the control, such as Random.

    Attributes:
        mean: Mean of the method's runs.
        sd: Standard deviation of the method's runs.
        runs: Number of the method's runs.
        control_runs: Number of the control's runs.
        difference: Mean of the method's runs minus mean of the control's.
        low: Lower end of the simultaneous interval of the difference.
        high: Upper end of the simultaneous interval of the difference.
        p: Two-sided p value, adjusted for the number of methods.
    """

    mean: float
    sd: float
    runs: int
    control_runs: int
    difference: float
    low: float
    high: float
    p: float


class TaskDifference(Difference):
    """Difference on one task, for exploration: a small p suggests what to test next, with new runs.

    Attributes:
        p_adjusted: p value adjusted for the number of tasks too. Of the tasks with a value of at most 0.05, at most
            5 % are expected to be false.
    """

    p_adjusted: float


class NonInferiority(Difference):
    """Whether a method is at most `margin` worse than the control.

    Attributes:
        margin: Loss that is accepted, named before the experiment.
        non_inferior: Whether the interval lies above -margin. False means "not shown", not "worse".
    """

    margin: float
    non_inferior: bool


def compare_with_control(
    methods: Mapping[str, npt.ArrayLike],
    control: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    equal_variances: bool = True,
) -> dict[str, Difference]:
    """Compare the mean of each method's runs with that of Random's, or of another control.

    With several methods one of them looks good by chance more often than one alone. The intervals are simultaneous:
    with a probability of 95 % all of them hold their true differences at once. Runs are taken as independent and about
    normally distributed.

    Args:
        methods: One number per run of each method, at least two. The numbers of runs may differ.
        control: One number per run of the control, at least two.
        confidence: Confidence level of the intervals.
        equal_variances: If True, Dunnett's test: one sd, pooled over all methods and the control. If False, for
            methods whose runs spread much more or less than Random's: Welch's tests, whose p values are adjusted by
            Holm's method and whose intervals by Bonferroni's. They are wider with few runs, and the interval may hold
            0 where p is just below 1 - confidence.

    Returns:
        The difference to the control of each method, in the order of `methods`.

    Raises:
        EvaluationError: A method has one run or values that are not finite, or no run differs from the others of its
            method.
        ConfigError: `confidence` does not lie between 0 and 1.

    Reference: C. W. Dunnett 1955, "A multiple comparison procedure for comparing several treatments with a control";
    B. L. Welch 1947, "The generalization of 'Student's' problem"; S. Holm 1979, "A simple sequentially rejective
    multiple test procedure".

    >>> differences = compare_with_control({"iterit": [31.0, 33.0, 32.0]}, [26.0, 28.0, 27.0])
    >>> [round(differences["iterit"][key], 2) for key in ("difference", "low", "high", "p")]
    [5.0, 2.73, 7.27, 0.0]
    """
    return _compare("compare_with_control", methods, control, confidence, equal_variances)


def _compare(
    caller: str,
    methods: Mapping[str, npt.ArrayLike],
    control: npt.ArrayLike,
    confidence: float,
    equal_variances: bool = True,
) -> dict[str, Difference]:
    confidence = check_share(caller, "confidence", confidence)
    groups = check_groups(caller, methods)
    reference = check_array(caller, "control", control, ("run",), least=2)
    differences = {name: float(values.mean() - reference.mean()) for name, values in groups.items()}
    intervals = _dunnett if equal_variances else _welch
    half_widths, p = intervals(caller, groups, reference, confidence)
    return {
        name: Difference(
            mean=float(values.mean()),
            sd=float(values.std(ddof=1)),
            runs=len(values),
            control_runs=len(reference),
            difference=differences[name],
            low=differences[name] - half_widths[name],
            high=differences[name] + half_widths[name],
            p=p[name],
        )
        for name, values in groups.items()
    }


def _dunnett(
    caller: str, groups: Mapping[str, Floats], control: Floats, confidence: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Return half widths of the intervals, and p values, by Dunnett's test."""
    if all(is_constant(values) for values in (*groups.values(), control)):
        raise constant_error(caller, "every method")
    sd = _pooled_sd([*groups.values(), control])
    runs = tuple(len(values) for values in groups.values())
    df = sum(runs) + len(control) - len(groups) - 1
    errors = {name: sd * math.sqrt(1 / len(values) + 1 / len(control)) for name, values in groups.items()}
    critical = critical_value(confidence, runs, len(control), df)
    p = {
        name: p_value(float(values.mean() - control.mean()) / errors[name], runs, len(control), df)
        for name, values in groups.items()
    }
    return {name: critical * error for name, error in errors.items()}, p


def _welch(
    caller: str, groups: Mapping[str, Floats], control: Floats, confidence: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Return half widths of Bonferroni's intervals, and Holm's p values, by Welch's tests."""
    from scipy.stats import t

    half_widths, p = {}, {}
    for name, values in groups.items():
        if is_constant(values) and is_constant(control):
            raise constant_error(caller, f"{name!r} and of the control")
        variances = [float(runs.var(ddof=1)) / len(runs) for runs in (values, control)]
        df = sum(variances) ** 2 / ((variances[0] ** 2) / (len(values) - 1) + (variances[1] ** 2) / (len(control) - 1))
        error = math.sqrt(sum(variances))
        half_widths[name] = float(t.isf((1 - confidence) / len(groups) / 2, df)) * error
        p[name] = 2 * float(t.sf(abs(values.mean() - control.mean()) / error, df))
    adjusted = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        adjusted = p[name] = max(adjusted, min(1.0, p[name] * (len(p) - rank)))
    return half_widths, p


def _pooled_sd(groups: list[Floats]) -> float:
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in groups)
    return math.sqrt(squares / sum(len(values) - 1 for values in groups))


def pooled_sd(groups: Mapping[str, npt.ArrayLike]) -> float:
    """Compute the standard deviation between runs of the same method, over several methods.

    Args:
        groups: One number per run of each method and of the control, at least two of each.

    Returns:
        The square root of: squared deviations from each method's mean, divided by the number of all runs minus that
        of methods.

    Raises:
        EvaluationError: A method has one run, or values that are not finite.

    >>> pooled_sd({"random": [26.0, 28.0, 27.0], "iterit": [30.0, 32.0, 31.0]})
    1.0
    """
    return _pooled_sd(list(check_groups("pooled_sd", groups).values()))


def compare_tasks(
    methods: Mapping[str, Mapping[str, npt.ArrayLike]],
    control: Mapping[str, npt.ArrayLike],
    *,
    confidence: float = 0.95,
) -> dict[str, dict[str, TaskDifference]]:
    """Compare methods with the control on every task, for exploration.

    Each task is compared as in `compare_with_control`. The intervals are simultaneous over the methods of one task,
    not over tasks: with many tasks some leave 0 by chance. `p_adjusted` accounts for the tasks.

    Args:
        methods: For each method, one number per run on each task.
        control: One number per run of the control on each task.
        confidence: Confidence level of the intervals.

    Returns:
        The difference to the control of each method on each task.

    Raises:
        EvaluationError: The tasks of a method are not those of the control, or a task cannot be compared. The message
            names the task.
        ConfigError: `confidence` does not lie between 0 and 1.

    Reference: Y. Benjamini and Y. Hochberg 1995, "Controlling the false discovery rate". It assumes that tasks are
    independent or positively dependent.
    """
    from scipy.stats import false_discovery_control

    caller = "compare_tasks"
    if not methods or not control:
        raise EvaluationError(f"{caller}: there is no {'task' if methods else 'method'}.")
    for name, tasks in methods.items():
        if set(tasks) != set(control):
            unequal = ", ".join(sorted(set(tasks) ^ set(control)))
            raise EvaluationError(
                f"{caller}: {name!r} and the control were not evaluated on the same tasks: {unequal}.",
                "Evaluate both on them, or leave these tasks out.",
            )
    by_task = {
        task: _compare(
            f"{caller}: {task!r}", {name: tasks[task] for name, tasks in methods.items()}, values, confidence
        )
        for task, values in control.items()
    }
    adjusted = {
        name: false_discovery_control([differences[name]["p"] for differences in by_task.values()]) for name in methods
    }
    return {
        name: {
            task: TaskDifference(**differences[name], p_adjusted=float(p))
            for (task, differences), p in zip(by_task.items(), adjusted[name], strict=True)
        }
        for name in methods
    }


def non_inferiority(
    methods: Mapping[str, npt.ArrayLike], whole_pool: npt.ArrayLike, *, margin: float, confidence: float = 0.95
) -> dict[str, NonInferiority]:
    """Test whether methods are as good as training on the whole pool, up to a margin.

    "No significant difference" does not show that two methods are equally good: a small experiment sees no difference
    whatever there is. This shows it: the method is non-inferior if the whole interval of (method - whole pool) lies
    above -margin.

    Args:
        methods: One number per run of each method, at least two. Higher is better: pass
            losses negated, for the whole pool too.
        whole_pool: One number per run that trained on all rows, at least two.
        margin: Largest loss that is accepted, in the unit of the results. Name it before the experiment.
        confidence: Confidence level of the two-sided simultaneous intervals of `compare_with_control`. With 0.95 a
            method that is worse than the margin is called non-inferior in at most 2.5 % of experiments.

    Returns:
        The difference to the whole pool, and whether the method is non-inferior.

    Raises:
        EvaluationError: As in `compare_with_control`.
        ConfigError: `margin` is not above 0, or `confidence` does not lie between 0 and 1.

    Reference: G. Piaggio et al. 2012, "Reporting of noninferiority and equivalence randomized trials".

    >>> differences = non_inferiority({"iterit": [31.0, 33.0, 32.0]}, [32.0, 33.0, 32.5], margin=3.0)
    >>> round(differences["iterit"]["low"], 2), differences["iterit"]["non_inferior"]
    (-2.29, True)
    """
    margin = check_positive("non_inferiority", "margin", margin)
    return {
        name: NonInferiority(**difference, margin=margin, non_inferior=difference["low"] > -margin)
        for name, difference in _compare("non_inferiority", methods, whole_pool, confidence).items()
    }


def minimum_detectable_effect(
    sd: float,
    runs: int,
    *,
    control_runs: int | None = None,
    methods: int = 1,
    confidence: float = 0.95,
    power: float = 0.8,
) -> float:
    """Compute the smallest true difference to Random that an experiment is likely to see.

    A method that is better than Random by this much has an interval above 0 in about 80 % of experiments. Smaller
    differences are seen less often: then "no difference was found" says little. The formula is

        (c + t) * sd * sqrt(1 / runs + 1 / control_runs)

    where t is the quantile of Student's distribution at `power`, and c that of the intervals of
    `compare_with_control`: Dunnett's critical value, which for one method is Student's quantile at
    1 - (1 - confidence) / 2. The degrees of freedom are all runs minus the number of groups.

    Args:
        sd: Standard deviation between runs of one method, from earlier runs (`pooled_sd`), in the unit of the results.
        runs: Number of runs of each method.
        control_runs: Number of runs of the control; `runs` by default.
        methods: Number of methods that are compared with the control at once.
        confidence: Confidence level of the intervals.
        power: Probability of seeing the difference.

    Returns:
        The difference, in the unit of `sd`.

    Raises:
        ConfigError: A setting is out of its range; there are at least two runs, and one method.

    >>> [round(minimum_detectable_effect(1.7, runs), 1) for runs in (3, 5, 10)]
    [5.2, 3.4, 2.3]
    >>> round(minimum_detectable_effect(1.7, 5, methods=4), 1)
    3.8
    """
    from scipy.stats import t

    caller = "minimum_detectable_effect"
    control_runs = runs if control_runs is None else control_runs
    for name, value, least in (("runs", runs, 2), ("control_runs", control_runs, 2), ("methods", methods, 1)):
        if value < least or value != int(value):
            raise ConfigError(f"{caller}: {name}={value!r} must be a whole number, {least} or more.")
    sd = check_positive(caller, "sd", sd)
    confidence, power = check_share(caller, "confidence", confidence), check_share(caller, "power", power)
    df = methods * (runs - 1) + control_runs - 1
    critical = critical_value(confidence, (runs,) * methods, control_runs, df)
    return float((critical + t.ppf(power, df)) * sd * math.sqrt(1 / runs + 1 / control_runs))
