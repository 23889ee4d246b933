"""Results of training runs by method, as the plots of an experiment read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import ConfigError, did_you_mean

__all__ = ["PlottedMethod", "check_methods", "finite"]

Runs = Sequence[float] | npt.NDArray[np.floating]


@dataclass(frozen=True)
class PlottedMethod:
    """Results of the runs of one method.

    Args:
        values: Primary result of each finished run, such as the average accuracy in points; empty if there is none.
        tasks: Results of the finished runs on each task.
        interval: Interval of the difference of `values` to the control, (low, high), or None.
        task_intervals: The same by task; tasks without an interval are missing.
        costs: Floating-point operations of each run, in the order of `values`; empty if they are not recorded.
    """

    values: Runs = ()
    tasks: Mapping[str, Runs] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    task_intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    costs: Runs = ()


def check_methods(function: str, methods: Mapping[str, PlottedMethod], *names: str) -> None:
    """Raise if methods that an argument names are missing.

    Args:
        function: Name of the function that draws, for the message.
        methods: Results by name of the method.
        *names: Names that have to be among them.

    Raises:
        ConfigError: One is missing.
    """
    for name in names:
        if name not in methods:
            raise ConfigError(
                f"{function}: {name!r} is none of the methods {', '.join(map(repr, methods))}."
                f"{did_you_mean(name, methods)}"
            )


def finite(values: Runs) -> npt.NDArray[np.float64]:
    """Return the results that are finite numbers, float64 of shape (runs,)."""
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]
