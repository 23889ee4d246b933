"""Cost of a training run by phase, across its checkpoints."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from hf_datasel.atomic import write_file
from hf_datasel.scoring.cost import Cost, CostMeter, Parameters, device_name, measure_cost, peak_memory, total_cost
from hf_datasel.scoring.distributed import Processes

__all__ = ["COST_JSON", "RunCost"]

logger = logging.getLogger(__name__)

COST_JSON = "cost.json"
"""File in the output folder of a run: phase -> `Cost`."""


class RunCost:
    """Cost of selecting, training and evaluation in a training run.

    Selecting is the sum of the rounds. Evaluation is that of `evaluate` while the model trains. Training is everything
    else between its begin and its end: saving checkpoints is part of its time. Tokens of the batches are those without
    padding, with prompts, also where only responses have labels; that is `num_tokens` in the logs of TRL. In several
    processes they are added up when `gather` is called, so that counting does not wait for the device.

    Args:
        parameters: Parameters of the model, for its FLOPs.
        device: Device of this process.
        processes_per_batch: Number of processes that share each batch, as in tensor and context parallelism.
        earlier: Costs until the checkpoint that the run resumes from; None if they are not known.

    Attributes:
        is_complete: Whether `costs` are those of the run from its begin.
        costs: Phase -> cost, as of the last `gather` and the last selection.
    """

    def __init__(
        self,
        parameters: Parameters,
        device: torch.device,
        processes_per_batch: int = 1,
        earlier: Mapping[str, Cost] | None = None,
    ):
        self.parameters = parameters
        self.device = device_name(device)
        self.processes_per_batch = processes_per_batch
        self.is_complete = earlier is not None
        self.costs = dict(earlier or {})
        self._tokens: dict[str, Any] = {"training": 0, "evaluation": 0}  # tensors on the device
        self._seconds = {"selecting": 0.0, "training": 0.0, "evaluation": 0.0}
        self._phase, self._since = "training", time.perf_counter()

    def count(self, phase: Literal["training", "evaluation"], inputs: Mapping[str, Any]) -> None:
        """Count the tokens of a batch that the model processes.

        Args:
            phase: Phase that it belongs to.
            inputs: Arguments of the model. A batch without an attention mask per token has no padding.
        """
        mask = inputs.get("attention_mask")
        self._tokens[phase] += inputs["input_ids"].numel() if mask is None or mask.ndim != 2 else mask.sum()

    @contextmanager
    def selecting(self) -> Iterator[CostMeter]:
        """Measure the cost of a selection, and add it to the phase.

        Yields:
            The meter of the selection.
        """
        with self._timed("selecting"), measure_cost(self.device) as meter:
            yield meter
        self._add("selecting", meter.cost)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count the time in the context as evaluation.

        Yields:
            None.
        """
        with self._timed("evaluation"):
            yield

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        outer = self._switch(phase)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, phase: str) -> str:
        """Begin another phase, and return the one that ends."""
        now, outer = time.perf_counter(), self._phase
        self._seconds[outer] += now - self._since
        self._phase, self._since = phase, now
        return outer

    def gather(self) -> None:
        """Add what was counted since the last call, in all processes, to `costs`. Every process has to call it."""
        self._switch(self._phase)
        counted = {phase: int(tokens) for phase, tokens in self._tokens.items()}
        gathered = Processes.current().gather_object((counted, peak_memory() or 0))
        for phase, seconds in self._seconds.items():
            if phase in self._tokens and (seconds or phase == "training"):
                tokens = sum(each[phase] for each, _ in gathered) // self.processes_per_batch
                backward = tokens if phase == "training" else 0
                part: Cost = {
                    "tokens_forward": tokens,
                    "tokens_backward": backward,
                    "flops": self.parameters.flops(tokens, backward),
                    "wall_seconds": seconds,
                    "device_seconds": seconds * len(gathered),
                    "device": self.device,
                    "peak_memory": max(peak for _, peak in gathered) or None,
                }
                self._add(phase, part)
        self._tokens = dict.fromkeys(self._tokens, 0)
        self._seconds = dict.fromkeys(self._seconds, 0.0)

    @property
    def known_costs(self) -> dict[str, Cost] | None:
        """The costs for a checkpoint; None if those of an earlier part of the run are not known."""
        return self.costs if self.is_complete else None

    def finish(self, output_dir: str) -> dict[str, Cost]:
        """Gather the costs at the end of the run, and write them to its output folder. Every process has to call it.

        Args:
            output_dir: The folder.

        Returns:
            Phase -> cost; empty if those of an earlier part of the run are not known.
        """
        self.gather()
        if not self.is_complete:
            logger.warning(
                "%s is not written: the run was resumed from a checkpoint of an earlier release, which does not "
                "contain what the run had cost until then.",
                COST_JSON,
            )
            return {}
        if Processes.current().is_main_process:
            write_file(Path(output_dir) / COST_JSON, json.dumps(self.costs, indent=2) + "\n")
        return self.costs

    def _add(self, phase: str, cost: Cost) -> None:
        earlier = [self.costs[phase]] if phase in self.costs else []
        self.costs[phase] = total_cost([*earlier, cost])
