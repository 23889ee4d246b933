"""Cost of running models: tokens, FLOPs, time, device and memory, added up over the parts of a phase."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypedDict

from hf_datasel._lazy import torch

__all__ = [
    "Cost",
    "CostMeter",
    "Parameters",
    "device_name",
    "log_cost",
    "measure_cost",
    "peak_memory",
    "record_cost",
    "total_cost",
]

logger = logging.getLogger(__name__)

_ALL_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
_INACTIVE = "original_module"
"""Name of a module that PEFT keeps beside the copy of it that is trained and run (`modules_to_save`)."""


class Cost(TypedDict):
    """Cost of a phase, such as selecting, as plain values.

    Attributes:
        tokens_forward: Tokens without padding that a model processed.
        tokens_backward: Those of them for which gradients were computed.
        flops: Floating-point operations of the model, estimated from its parameters; see `Parameters`. 0 for tokens
            that an endpoint processed.
        wall_seconds: Seconds on the clock of the main process.
        device_seconds: Wall seconds times the number of processes, each of which has a device.
        device: Name of the device: `"NVIDIA H100 80GB HBM3"`, or `"cpu"` if no model ran elsewhere.
        peak_memory: Bytes: the most that tensors took on a CUDA device at any time until the phase ended, or, without
            one, the most resident memory of the process until then; of several processes, that of the largest. None
            if it is not known.
    """

    tokens_forward: int
    tokens_backward: int
    flops: float
    wall_seconds: float
    device_seconds: float
    device: str
    peak_memory: int | None


@dataclass(frozen=True)
class Parameters:
    """Parameters of a model that take part in processing one token.

    A forward pass takes 2 FLOPs per token for each of them, and a backward pass 2 more for each (gradients of the
    activations) and 2 for each trainable one (gradients of the weights): 6 N altogether for a model that is trained as
    a whole (Kaplan et al. 2020, 2001.08361, section 2.1). Attention over the context and the recomputation of gradient
    checkpointing are not included. The LM head counts for every token, also where a loss needs it for a part of them.

    Embeddings that are only looked up do not count; an LM head counts also if it shares its weights with them. Weights
    in 4 bits of bitsandbytes count by their number, not by the bytes that hold them. Of a mixture of experts the
    experts count that a token is routed to, if the config names their number; otherwise all of them. Weights that a
    quantization stores in buffers (GPTQ, AWQ) are no parameters and do not count.

    Args:
        active: Number of parameters.
        trainable: Number of those among them that are trained.
    """

    active: float
    trainable: float

    @classmethod
    def of(cls, model: Any) -> Parameters:
        """Count the parameters of a model, or of the part of it that runs.

        Args:
            model: A `torch.nn.Module`, with or without PEFT adapters.
        """
        share_of_experts = _share_of_experts(getattr(model, "config", None))
        active, trainable = 0.0, 0.0
        for name, module in model.named_modules():
            names = name.split(".")
            if isinstance(module, torch.nn.Embedding) or _INACTIVE in names:
                continue
            share = share_of_experts if "experts" in names else 1.0
            for parameter in module.parameters(recurse=False):
                count = share * _num_elements(parameter)
                active += count
                trainable += count if parameter.requires_grad else 0
        return cls(active, trainable)

    def flops(self, tokens_forward: int, tokens_backward: int = 0) -> float:
        """Return the FLOPs of processing tokens.

        Args:
            tokens_forward: Tokens without padding.
            tokens_backward: Those of them for which gradients are computed.
        """
        return 2.0 * self.active * tokens_forward + 2.0 * (self.active + self.trainable) * tokens_backward


def _share_of_experts(config: Any) -> float:
    """Return the share of a model's experts that a token is routed to; 1 if the config does not tell."""
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    per_token, experts = (
        next((number for name in names if isinstance(number := getattr(config, name, None), int)), 0)
        for names in (_EXPERTS_PER_TOKEN, _ALL_EXPERTS)
    )
    return per_token / experts if 0 < per_token <= experts else 1.0


def _num_elements(parameter: Any) -> int:
    """Return the number of elements of a parameter, as `PeftModel.get_nb_trainable_parameters` counts them."""
    count = int(parameter.numel()) or int(getattr(parameter, "ds_numel", 0))  # of DeepSpeed, which leaves it empty
    return count * 2 * int(parameter.element_size()) if type(parameter).__name__ == "Params4bit" else count


@dataclass
class CostMeter:
    """What models cost while it is in use; made by `measure_cost`.

    Attributes:
        tokens_forward: As in `Cost`.
        tokens_backward: As in `Cost`.
        flops: As in `Cost`.
        device: As in `Cost`.
        peak_memory: Largest peak of another process, in bytes.
    """

    tokens_forward: int = 0
    tokens_backward: int = 0
    flops: float = 0.0
    device: str = "cpu"
    peak_memory: int = 0
    _start: float = field(default_factory=time.perf_counter, init=False)
    _seconds: float | None = field(default=None, init=False)

    def add(self, cost: CostMeter) -> None:
        """Add what was measured within this measurement, apart from its time."""
        self.tokens_forward += cost.tokens_forward
        self.tokens_backward += cost.tokens_backward
        self.flops += cost.flops
        self.device = self.device if cost.device == "cpu" else cost.device
        self.peak_memory = max(self.peak_memory, cost.peak_memory)

    def stop(self) -> None:
        """End the measurement of time."""
        self._seconds = time.perf_counter() - self._start

    @property
    def cost(self) -> Cost:
        """The cost until now, or until the measurement ended."""
        seconds = time.perf_counter() - self._start if self._seconds is None else self._seconds
        return {
            "tokens_forward": self.tokens_forward,
            "tokens_backward": self.tokens_backward,
            "flops": self.flops,
            "wall_seconds": seconds,
            "device_seconds": seconds * _num_processes(),
            "device": self.device,
            "peak_memory": max(self.peak_memory, peak_memory() or 0) or None,
        }


_METER: ContextVar[CostMeter | None] = ContextVar("hf_datasel_cost_meter", default=None)


@contextmanager
def measure_cost(device: str = "cpu") -> Iterator[CostMeter]:
    """Measure what running models in the context costs. Measurements may be nested: the outer one includes the inner.

    In a distributed run every process has the tokens and FLOPs of all of them.

    Args:
        device: Name of the device, if it is occupied although no model may run.

    Yields:
        The meter, whose `cost` is complete once the context has ended.

    >>> with measure_cost() as meter:
    ...     pass  # hf_datasel.score(dataset, ...)
    >>> meter.cost["tokens_forward"]
    0
    """
    outer, meter = _METER.get(), CostMeter(device=device)
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)
        meter.stop()
        if outer is not None:
            outer.add(meter)


def record_cost(cost: CostMeter) -> None:
    """Add what a model has cost to the measurement in progress, if there is one."""
    if (meter := _METER.get()) is not None:
        meter.add(cost)


def total_cost(costs: Iterable[Cost]) -> Cost:
    """Add up costs of parts that ran one after the other; the peak of memory is the highest one.

    Args:
        costs: The costs; without any, everything is 0.
    """
    parts = list(costs)
    devices = dict.fromkeys(name for part in parts for name in part["device"].split(", ") if name != "cpu")
    return {
        "tokens_forward": sum(part["tokens_forward"] for part in parts),
        "tokens_backward": sum(part["tokens_backward"] for part in parts),
        "flops": float(sum(part["flops"] for part in parts)),
        "wall_seconds": float(sum(part["wall_seconds"] for part in parts)),
        "device_seconds": float(sum(part["device_seconds"] for part in parts)),
        "device": ", ".join(devices) or "cpu",
        "peak_memory": max((part["peak_memory"] or 0 for part in parts), default=0) or None,
    }


def log_cost(subject: str, cost: Cost) -> None:
    """Log one line about a cost, at the level INFO.

    Args:
        subject: What had the cost, such as `"Scoring 100 rows"`.
        cost: The cost.
    """
    line = "%s took %.1f s on %s: models processed %s tokens, with about %.3g FLOPs."
    logger.info(line, subject, cost["wall_seconds"], cost["device"], f"{cost['tokens_forward']:,}", cost["flops"])


def device_name(device: torch.device) -> str:
    """Return the name of a device for people: that of its product for a CUDA device, else its type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory() -> int | None:
    """Return the peak of the memory of this process in bytes, on the CUDA device if it uses one; None if unknown."""
    if "torch" in sys.modules and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _num_processes() -> int:
    """Return the number of processes, without starting to communicate with them."""
    if "torch" in sys.modules and torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_world_size())
    return int(os.environ.get("WORLD_SIZE", "1"))
