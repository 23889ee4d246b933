"""Validation of the arrays and settings that the statistics share."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import ConfigError, EvaluationError

Floats = npt.NDArray[np.float64]


def check_array(caller: str, name: str, values: npt.ArrayLike, axes: tuple[str, ...], least: int = 1) -> Floats:
    """Return results as an array of float64.

    Args:
        caller: Name of the function, for the error message.
        name: Name of the method or model, for the error message.
        values: Numbers, with one axis for each of `axes`.
        axes: What each axis counts, such as ("run", "item").
        least: Smallest length of each axis.

    Raises:
        EvaluationError: There are other axes, too few values, or values that are not finite numbers.

    >>> check_array("compare_with_control", "iterit", [61.5], ("run",), least=2)
    Traceback (most recent call last):
    hf_datasel.errors.EvaluationError: compare_with_control: 'iterit' has 1 run. At least 2 are needed, since the \
spread between runs is unknown without them.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EvaluationError(
            f"{caller}: {name!r} has values that are not numbers, or lists of unequal length."
        ) from error
    if array.ndim != len(axes):
        expected = " x ".join(f"{axis}s" for axis in axes)
        raise EvaluationError(f"{caller}: {name!r} has the shape {array.shape}.", f"Pass an array of {expected}.")
    for axis, length in zip(axes, array.shape, strict=True):
        if length < least:
            reason = f", since the spread between {axis}s is unknown without them" if least > 1 else ""
            raise EvaluationError(
                f"{caller}: {name!r} has {length} {axis}{'' if length == 1 else 's'}.",
                f"At least {least} {'is' if least == 1 else 'are'} needed{reason}.",
            )
    missing = np.argwhere(~np.isfinite(array))
    if len(missing):
        where = ", ".join(f"{axis} {index}" for axis, index in zip(axes, missing[0], strict=True))
        raise EvaluationError(
            f"{caller}: {len(missing)} of the values of {name!r} are not finite; the first: {where} (from 0).",
            "Evaluate again, or leave out the run and report it as failed.",
        )
    return array


def check_groups(
    caller: str, groups: Mapping[str, npt.ArrayLike], axes: tuple[str, ...] = ("run",), least: int = 2
) -> dict[str, Floats]:
    """Return `check_array` of every method.

    Raises:
        EvaluationError: There is no method, or the results of one are not valid.
    """
    if not groups:
        raise EvaluationError(f"{caller}: there is no method.", 'Pass methods={"name": results of its runs}.')
    return {name: check_array(caller, name, values, axes, least) for name, values in groups.items()}


def is_constant(values: Floats) -> bool:
    """Whether all values are equal up to rounding."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def constant_error(caller: str, whose: str) -> EvaluationError:
    """Return the error of runs without any spread."""
    return EvaluationError(
        f"{caller}: all runs of {whose} have the same result, so that the spread between runs is unknown.",
        "Check that the runs differ in their seeds and that the task is not at its lowest or highest value.",
    )


def check_share(caller: str, name: str, value: float) -> float:
    """Return a setting that lies between 0 and 1.

    Raises:
        ConfigError: It does not.
    """
    if not 0 < value < 1:
        raise ConfigError(f"{caller}: {name}={value!r} must lie between 0 and 1.", f"For 95 %, pass {name}=0.95.")
    return float(value)


def check_positive(caller: str, name: str, value: float) -> float:
    """Return a setting that is a finite number above 0.

    Raises:
        ConfigError: It is not.
    """
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{caller}: {name}={value!r} must be a finite number above 0.")
    return float(value)
