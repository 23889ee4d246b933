"""Distribution of the largest of several t statistics that share a control (Dunnett 1955).

`scipy.stats.dunnett` integrates it by random sampling: the ends of its intervals move by up to a few per cent from one
random state to the next, and now and then do not converge. The double integral of Dunnett's article is smooth, so a
grid gives it to about ten digits, the same every time.

Reference: C. W. Dunnett 1955, "A multiple comparison procedure for comparing several treatments with a control".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hf_datasel.evaluation._checks import Floats

__all__ = ["critical_value", "p_value"]


@lru_cache(maxsize=64)
def _grid(df: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Return points and weights of the sd (relative to its true value), and those of the control's mean."""
    from scipy.stats import chi2

    sd = np.sqrt(np.geomspace(chi2.ppf(1e-13, df), chi2.isf(1e-13, df), 161) / df)
    sd_weights = chi2.pdf(df * sd**2, df) * sd**2
    normal = np.linspace(-8.5, 8.5, 121)
    normal_weights = np.exp(-(normal**2) / 2)
    return sd, sd_weights / sd_weights.sum(), normal, normal_weights / normal_weights.sum()


def p_value(statistic: float, runs: Sequence[int], control_runs: int, df: int) -> float:
    """Compute the probability that the largest absolute t statistic reaches a value by chance.

    Args:
        statistic: Absolute difference of means in standard errors.
        runs: Number of runs of each method.
        control_runs: Number of runs of the control.
        df: Degrees of freedom of the pooled sd: all runs minus the number of groups.

    Returns:
        The two-sided p value, adjusted for all methods. Below about 1e-10 it is too small, down to 0.

    >>> round(p_value(2.086, [5], 5, df=20), 3)  # one method: Student's t
    0.05
    """
    from scipy.special import ndtr

    sd, sd_weights, normal, normal_weights = _grid(df)
    sizes, counts = np.unique(np.asarray(runs, dtype=np.float64), return_counts=True)
    shared = 1 / np.sqrt(control_runs / sizes + 1)  # correlation of a method's difference with the control's mean
    limit, shift = abs(statistic) * sd[:, None, None], shared * normal[None, :, None]
    scale = np.sqrt(1 - shared**2)
    outside = ndtr((shift - limit) / scale) + ndtr((-shift - limit) / scale)
    with np.errstate(divide="ignore"):
        inside = (np.log1p(-np.minimum(outside, 1)) * counts).sum(axis=-1)
    return float(np.clip(sd_weights @ -np.expm1(inside) @ normal_weights, 0, 1))


@lru_cache(maxsize=256)
def critical_value(confidence: float, runs: tuple[int, ...], control_runs: int, df: int) -> float:
    """Compute the half width of simultaneous intervals, in standard errors of each difference.

    Args:
        confidence: Probability that all intervals hold their true differences at once.
        runs: Number of runs of each method.
        control_runs: Number of runs of the control.
        df: Degrees of freedom of the pooled sd: all runs minus the number of groups.

    Returns:
        The value whose `p_value` is 1 - confidence.

    >>> round(critical_value(0.95, (5, 5, 5, 5), 5, df=20), 2)  # Dunnett's table
    2.65
    """
    from scipy.optimize import brentq
    from scipy.stats import t

    alpha = 1 - confidence
    low, high = t.isf(alpha / 2, df), t.isf(alpha / (2 * len(runs)), df)  # no correction; Bonferroni's
    return float(brentq(lambda c: p_value(c, runs, control_runs, df) - alpha, 0.99 * low, 1.01 * high, xtol=1e-9))
