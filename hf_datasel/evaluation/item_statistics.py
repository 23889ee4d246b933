"""Statistics of single questions: where the noise is, and comparisons that resample runs and questions.

Results are arrays of runs x items, where an item is a question of a task, or a held-out row. All arrays of a
comparison have the same items in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import ConfigError, EvaluationError
from hf_datasel.evaluation._checks import Floats, check_array, check_groups, check_share, is_constant

__all__ = [
    "BootstrapDifference",
    "TwoModels",
    "TwoModelsTest",
    "VarianceComponents",
    "bootstrap_two_models",
    "crossed_bootstrap",
    "mcnemar_two_models",
    "variance_components",
]

_RUN_ITEM = ("run", "item")
_NUMBERS_PER_BLOCK = 1 << 22


class BootstrapDifference(TypedDict):
    """Difference between a method and the control, for other runs and other items.

    Attributes:
        difference: Mean of the method minus mean of the control.
        se: Standard error of the difference.
        low: Lower end of the interval of this difference alone.
        high: Upper end of the interval of this difference alone.
        runs: Number of the method's runs.
        control_runs: Number of the control's runs.
        items: Number of items.
    """

    difference: float
    se: float
    low: float
    high: float
    runs: int
    control_runs: int
    items: int


class VarianceComponents(TypedDict):
    """Standard deviations of the parts that a single result is the sum of.

    Attributes:
        run: Between runs: some models are better on all items. More runs help.
        item: Between items: some are easier for all models. It cancels where methods are compared on the same items.
        run_x_item: The rest: which items a model solves differs from run to run. More runs or more items help.
        se: Standard error of the mean over all runs and items, for other runs and other items.
    """

    run: float
    item: float
    run_x_item: float
    se: float


class TwoModels(TypedDict):
    """Difference between two given models, on items like these. It says nothing about methods.

    Attributes:
        difference: Mean of the first model minus mean of the second.
        low: Lower end of the interval of the difference for other items.
        high: Upper end of the interval of the difference for other items.
        items: Number of items.
        about: What the interval is about, in words.
    """

    difference: float
    low: float
    high: float
    items: int
    about: str


class TwoModelsTest(TypedDict):
    """McNemar's test of two given models, on items like these. It says nothing about methods.

    Attributes:
        only_first: Number of items that only the first model solves.
        only_second: Number of items that only the second model solves.
        p: Two-sided exact p value.
        items: Number of items.
        about: What the p value is about, in words.
    """

    only_first: int
    only_second: int
    p: float
    items: int
    about: str


_ABOUT = (
    "these two models on questions like these, not the methods that selected their rows: another run of either"
    " method gives another model"
)


def crossed_bootstrap(
    methods: Mapping[str, npt.ArrayLike],
    control: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, BootstrapDifference]:
    """Estimate the difference to Random for other runs and for other questions of the same kind.

    `compare_with_control` is about other runs on the same questions. Here runs and items are both resampled: runs of
    each method by themselves, items for all at once, since all models answer the same ones. One run fewer than there
    are is drawn each time, which makes the part of the runs in the standard error right for few runs. The interval is
    the difference plus and minus the standard error times Student's quantile with (all runs of both minus 2) degrees
    of freedom. It is for one method at a time, not simultaneous, and errs on the wide side: up to 1.7 times where
    which items a model solves changes much from run to run (`variance_components`).

    Args:
        methods: Runs x items for each method, at least 2 x 2.
        control: Runs x items of the control, at least 2 x 2, with the same items.
        confidence: Confidence level of the intervals.
        resamples: Number of resamples, at least 100.
        seed: Random seed.

    Returns:
        The difference to the control of each method.

    Raises:
        EvaluationError: The numbers of items differ, there is one run or item only, values are not finite, or all
            are equal.
        ConfigError: A setting is out of its range.

    Reference: A. B. Owen 2007, "The pigeonhole bootstrap"; P. J. McCarthy and C. B. Snowden 1985, "The bootstrap and
    finite population sampling", for the one run fewer.
    """
    from scipy.stats import t

    caller = "crossed_bootstrap"
    confidence = check_share(caller, "confidence", confidence)
    groups = check_groups(caller, methods, _RUN_ITEM)
    reference = check_array(caller, "control", control, _RUN_ITEM, least=2)
    _check_resamples(caller, resamples)
    drawn_control = _resampled_means(reference, resamples, seed, stream=0)
    differences = {}
    for stream, (name, values) in enumerate(groups.items(), start=1):
        _check_items(caller, name, values, "the control", reference)
        difference = float(values.mean() - reference.mean())
        se = float((_resampled_means(values, resamples, seed, stream) - drawn_control).std(ddof=1))
        if se <= 1e-12 * max(np.abs(values).max(), np.abs(reference).max()):
            raise _constant(caller, f"{name!r} and the control differ by the same amount in all runs and items")
        half_width = float(t.isf((1 - confidence) / 2, len(values) + len(reference) - 2)) * se
        differences[name] = BootstrapDifference(
            difference=difference,
            se=se,
            low=difference - half_width,
            high=difference + half_width,
            runs=len(values),
            control_runs=len(reference),
            items=values.shape[1],
        )
    return differences


def _resampled_means(values: Floats, resamples: int, seed: int, stream: int) -> Floats:
    """Return means over resampled runs and items. The items of a resample are the same for every `stream`."""
    runs, items = values.shape
    of_items, of_runs = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1, stream])
    block = max(1, _NUMBERS_PER_BLOCK // items)
    means = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        item_counts = of_items.multinomial(items, np.full(items, 1 / items), size=size)
        run_counts = of_runs.multinomial(max(1, runs - 1), np.full(runs, 1 / runs), size=size)
        means.append(((run_counts @ values) * item_counts).sum(axis=1) / (max(1, runs - 1) * items))
    return np.concatenate(means)


def variance_components(values: npt.ArrayLike) -> VarianceComponents:
    """Estimate where the noise of one method's results is: between runs, between items, or in both together.

    Args:
        values: Runs x items of one method, at least 2 x 2.

    Returns:
        Standard deviations, in the unit of the values. A part whose estimated variance is negative is 0.

    Raises:
        EvaluationError: There is one run or item only, values are not finite, or all are equal.

    Reference: S. R. Searle, G. Casella and C. E. McCulloch 1992, "Variance Components", section 4.7 (two-way crossed
    classification, analysis of variance).
    """
    caller = "variance_components"
    array = check_array(caller, "values", values, _RUN_ITEM, least=2)
    if is_constant(array):
        raise _constant(caller, "all values are equal")
    runs, items = array.shape
    of_run, of_item = array.mean(axis=1, keepdims=True), array.mean(axis=0, keepdims=True)
    residual = float(((array - of_run - of_item + array.mean()) ** 2).sum() / ((runs - 1) * (items - 1)))
    run = max(0.0, float(of_run.var(ddof=1)) - residual / items)
    item = max(0.0, float(of_item.var(ddof=1)) - residual / runs)
    return VarianceComponents(
        run=math.sqrt(run),
        item=math.sqrt(item),
        run_x_item=math.sqrt(residual),
        se=math.sqrt(run / runs + item / items + residual / (runs * items)),
    )


def bootstrap_two_models(
    first: npt.ArrayLike, second: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> TwoModels:
    """Compare two given models on the same items.

    The interval covers other questions of the same kind, not other runs: where runs differ by some points, two runs of
    the same method often have an interval that leaves 0. To compare methods, train each several times and use
    `compare_with_control`.

    Args:
        first: One number per item of the first model, such as 1 for a right answer.
        second: One number per item of the second model, in the same order.
        confidence: Confidence level of the interval.
        resamples: Number of resamples, at least 100.
        seed: Random seed.

    Returns:
        The difference and the percentile interval of its paired bootstrap.

    Raises:
        EvaluationError: The numbers of items differ, there is one item only, values are not finite, or all differences
            are equal.
        ConfigError: A setting is out of its range.

    Reference: B. Efron and R. J. Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    caller = "bootstrap_two_models"
    confidence = check_share(caller, "confidence", confidence)
    _check_resamples(caller, resamples)
    differences = np.subtract(*_two_models(caller, first, second))
    if is_constant(differences):
        raise _constant(caller, "the models differ by the same amount on all items")
    means = _resampled_means(differences[None, :], resamples, seed, stream=0)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return TwoModels(
        difference=float(differences.mean()), low=float(low), high=float(high), items=len(differences), about=_ABOUT
    )


def mcnemar_two_models(first: npt.ArrayLike, second: npt.ArrayLike) -> TwoModelsTest:
    """Test whether one of two given models solves more of the same items, exactly.

    Like `bootstrap_two_models`, it says nothing about methods. Only the items that one of the two models solves count.

    Args:
        first: 1 or 0 (or booleans) for each item: whether the first model solves it.
        second: The same for the second model, in the same order.

    Returns:
        The counts and the p value; p is 1 if the models solve the same items.

    Raises:
        EvaluationError: The numbers of items differ, there is one item only, or values are not 0 and 1.

    Reference: Q. McNemar 1947, "Note on the sampling error of the difference between correlated proportions".

    >>> test = mcnemar_two_models([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0])
    >>> test["only_first"], test["only_second"], test["p"]
    (5, 0, 0.0625)
    """
    from scipy.stats import binomtest

    caller = "mcnemar_two_models"
    both = _two_models(caller, first, second)
    for name, values in zip(("first", "second"), both, strict=True):
        if not np.isin(values, (0, 1)).all():
            raise EvaluationError(
                f"{caller}: {name!r} has values other than 0 and 1.", "For other values, use bootstrap_two_models."
            )
    only_first, only_second = int((both[0] > both[1]).sum()), int((both[0] < both[1]).sum())
    unequal = only_first + only_second
    p = float(binomtest(only_first, unequal).pvalue) if unequal else 1.0
    return TwoModelsTest(only_first=only_first, only_second=only_second, p=p, items=len(both[0]), about=_ABOUT)


def _two_models(caller: str, first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[Floats, Floats]:
    arrays = [
        check_array(caller, name, values, ("item",), 2) for name, values in (("first", first), ("second", second))
    ]
    _check_items(caller, "first", arrays[0], "'second'", arrays[1])
    return arrays[0], arrays[1]


def _check_items(caller: str, name: str, values: Floats, other_name: str, other: Floats) -> None:
    if values.shape[-1] != other.shape[-1]:
        raise EvaluationError(
            f"{caller}: {name!r} has {values.shape[-1]} items, and {other_name} {other.shape[-1]}.",
            "Pass the results on the same items, in the same order.",
        )


def _check_resamples(caller: str, resamples: int) -> None:
    if resamples < 100 or resamples != int(resamples):
        raise ConfigError(f"{caller}: resamples={resamples!r} must be a whole number, 100 or more.")


def _constant(caller: str, what: str) -> EvaluationError:
    return EvaluationError(
        f"{caller}: {what}, so that there is no spread.",
        "Check the metric: the task may be at its lowest or highest value, or the results may be of the same model.",
    )
