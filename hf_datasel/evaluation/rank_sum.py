"""Exact rank test of training runs, with the smallest p value that it can give."""

from __future__ import annotations

import math
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import EvaluationError, check_option
from hf_datasel.evaluation._checks import check_array, constant_error, is_constant

__all__ = ["MannWhitney", "mann_whitney"]

_MAX_PARTITIONS = 200_000


class MannWhitney(TypedDict):
    """Exact Mann-Whitney test.

    Attributes:
        p: p value.
        floor: Smallest p value that these numbers of runs can give. If it is above 0.05, no result can be significant.
        runs: Number of the method's runs.
        control_runs: Number of the control's runs.
    """

    p: float
    floor: float
    runs: int
    control_runs: int


def mann_whitney(
    method: npt.ArrayLike,
    control: npt.ArrayLike,
    *,
    alternative: Literal["greater", "less", "two-sided"] = "greater",
) -> MannWhitney:
    """Test by ranks whether a method's results are higher than those of the control, exactly.

    The test assumes no distribution, and pays for it: one run against five has no p value below 1 / 6, whatever the
    results. Print `floor` beside p. There is no interval; `compare_with_control` gives one.

    Args:
        method: One number per run of the method.
        control: One number per run of the control.
        alternative: "greater" if the method is expected to have higher results, "less" for lower ones such as losses,
            "two-sided" for both.

    Returns:
        p and its floor. Where runs have equal results, p is that of all arrangements of their mean ranks.

    Raises:
        EvaluationError: Values are not finite, all are equal, or equal results among more runs than can be enumerated.
        ConfigError: `alternative` is unknown.

    Reference: H. B. Mann and D. R. Whitney 1947, "On a test of whether one of two random variables is stochastically
    larger than the other".

    >>> mann_whitney([99.0], [26.0, 28.0, 27.0, 25.0, 26.5])
    {'p': 0.16666666666666666, 'floor': 0.16666666666666666, 'runs': 1, 'control_runs': 5}
    """
    from scipy.stats import PermutationMethod, mannwhitneyu

    caller = "mann_whitney"
    check_option(f"{caller}: alternative={alternative!r}", alternative, ("greater", "less", "two-sided"))
    values, reference = (
        check_array(caller, "method", method, ("run",)),
        check_array(caller, "control", control, ("run",)),
    )
    pooled = np.concatenate([values, reference])
    if is_constant(pooled):
        raise constant_error(caller, "both methods")
    partitions = math.comb(len(pooled), len(values))
    exact = "exact"
    if len(np.unique(pooled)) < len(pooled):
        if partitions > _MAX_PARTITIONS:
            raise EvaluationError(
                f"{caller}: runs have equal results, and {len(values)} against {len(reference)} runs are too many for"
                " an exact p value.",
                "Use compare_with_control.",
            )
        exact = PermutationMethod(n_resamples=partitions)
    p = mannwhitneyu(values, reference, alternative=alternative, method=exact).pvalue
    floor = min(1.0, (2 if alternative == "two-sided" else 1) / partitions)
    return MannWhitney(p=float(p), floor=floor, runs=len(values), control_runs=len(reference))
