"""Sentences about what selecting and training cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hf_datasel.analysis.plots.theme import format_number

if TYPE_CHECKING:
    from hf_datasel.scoring.cost import Cost

__all__ = ["compare_costs", "describe_cost", "describe_duration", "describe_flops"]

_FLOPS = ((1e18, "EFLOPs"), (1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"))
_COUNTS = ((1e9, " billion"), (1e6, " million"))


def describe_cost(cost: Cost) -> str:
    """Return tokens, FLOPs, device hours, device and memory: the end of a sentence that begins with what cost them.

    >>> describe_cost({"tokens_forward": 12_300_000, "tokens_backward": 0, "flops": 3.1e15, "wall_seconds": 3600.0,
    ...                "device_seconds": 7200.0, "device": "NVIDIA H100 80GB HBM3", "peak_memory": 35_200_000_000})
    '12.3 million tokens and about 3.1 PFLOPs, in 2.0 device hours on NVIDIA H100 80GB HBM3 (peak memory 35.2 GB)'
    """
    flops = f" and about {describe_flops(cost['flops'])}" if cost["flops"] else ""
    device = "a CPU" if cost["device"] == "cpu" else cost["device"]
    memory = f" (peak memory {cost['peak_memory'] / 1e9:.1f} GB)" if cost["peak_memory"] else ""
    seconds = cost["device_seconds"]
    time = f"{seconds / 3600:.1f} device hours" if seconds >= 7200 else f"{describe_duration(seconds)} of device time"
    return f"{_scaled(cost['tokens_forward'], _COUNTS)} tokens{flops}, in {time} on {device}{memory}"


def describe_flops(flops: float) -> str:
    """Return a number of floating-point operations in a readable unit.

    >>> describe_flops(3.14e15)
    '3.14 PFLOPs'
    """
    return f"{_scaled(flops, tuple((size, f' {unit}') for size, unit in _FLOPS))}{'' if flops >= 1e6 else ' FLOPs'}"


def describe_duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def compare_costs(costs: Mapping[str, Cost]) -> str:
    """Return sentences about the costs of a whole run, and how selecting compares with training; "" if not known.

    Args:
        costs: Phase -> cost, as in `cost.json` of a run.
    """
    training, selecting = costs.get("training"), costs.get("selecting")
    if training is None or not training["tokens_forward"]:
        return ""
    sentences = [f"Training took {describe_cost(training)}."]
    if selecting is not None and selecting["flops"] and training["flops"]:
        ratio = format_number(selecting["flops"] / training["flops"])
        sentences.append(f"Selecting took {ratio} times the FLOPs of training.")
    return " ".join(sentences)


def _scaled(number: float, units: tuple[tuple[float, str], ...]) -> str:
    for size, unit in units:
        if number >= size:
            return f"{float(f'{number / size:.3g}'):,g}{unit}"
    return f"{number:,.0f}"
