"""What an experiment would do, cost and see, before anything is done."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.evaluation.methods import CONTROL, UNTRAINED, Method, planned_steps, training_config
from hf_datasel.evaluation.statistics import minimum_detectable_effect
from hf_datasel.hub.markdown import table
from hf_datasel.scoring.cost import Parameters
from hf_datasel.scoring.models import Loading, load_config, load_tokenizer
from hf_datasel.tokens import TokenRows, TokenSettings
from hf_datasel.training.schedule import rows_per_round

if TYPE_CHECKING:
    from hf_datasel.evaluation.prepared import Prepared

__all__ = ["Plan", "PlannedMethod", "make_plan"]

_SAMPLE = 500
"""Number of rows of the pool whose tokens are counted."""
_FLOPS_PER_SECOND = 400e12
"""Operations per second that hours of a GPU are given for: 40 % of what an H100 can do in bf16."""


@dataclass(frozen=True)
class PlannedMethod:
    """The runs of one method.

    Args:
        name: Name of the method.
        runs: Number of runs.
        rows: Number of rows of a round.
        steps: Number of updates of a run; None if only training tells it.
        tokens: Estimated number of tokens that a run trains on; None if the steps are not known.
        rows_at_most: Whether `rows` is an upper bound, because the method keeps all rows that pass its filters.
        steps_at_most: Whether `steps` and `tokens` are upper bounds.
    """

    name: str
    runs: int
    rows: int
    steps: int | None
    tokens: int | None
    rows_at_most: bool = False
    steps_at_most: bool = False


@dataclass(frozen=True)
class Plan:
    """What an experiment would do.

    Args:
        methods: The methods that are trained.
        cells: State of each run, by the name of its folder.
        pool_rows: Number of rows of the pool.
        pool: What is excluded from it, in words.
        tokens_per_row: Mean number of tokens of a row.
        parameters: Number of parameters of the model that process a token.
        flops_per_parameter: Operations per parameter and token: 6, or 4 for adapters, whose base weights are frozen.
        tasks: Number of items of each task, None if it is not known before.
        detectable: Smallest difference to Random that such an experiment is likely to see, in standard deviations
            between runs; None without two runs each.
        sd: Standard deviation between runs that is expected, or None.
    """

    methods: tuple[PlannedMethod, ...]
    cells: Mapping[str, str]
    pool_rows: int
    pool: str
    tokens_per_row: float
    parameters: int
    flops_per_parameter: int
    tasks: Mapping[str, int | None]
    detectable: float | None
    sd: float | None

    @property
    def training_flops(self) -> float:
        """Operations of training all runs whose steps are known, or the upper bound."""
        return sum(
            float(self.flops_per_parameter) * self.parameters * (entry.tokens or 0) * entry.runs
            for entry in self.methods
        )

    def to_text(self) -> str:
        """Return the plan as text."""
        head = ["method", "runs", "rows", "steps", "tokens a run"]
        rows = [
            [
                entry.name,
                str(entry.runs),
                _number(entry.rows, entry.rows_at_most),
                *(_number(count, entry.steps_at_most) for count in (entry.steps, entry.tokens)),
            ]
            for entry in self.methods
        ]
        states = list(self.cells.values())
        finished = f" {states.count('finished')} have finished." if "finished" in states else ""
        at_most = "at most " if any(entry.steps_at_most for entry in self.methods) else ""
        hours = self.training_flops / _FLOPS_PER_SECOND / 3600
        tasks = ", ".join(
            f"{name}{'' if count is None else f' ({count:,} items)'}" for name, count in self.tasks.items()
        )
        lines = [
            table(head, rows),
            *self._unknown(),
            f"{len(states)} runs, each evaluated on: {tasks}.{finished}",
            f"Pool: {self.pool_rows:,} rows of {self.tokens_per_row:.0f} tokens on average. {self.pool}".strip(),
            f"Training takes {at_most}{self.training_flops:.2g} floating-point operations ({self.flops_per_parameter} "
            f"x {self.parameters:,} parameters x tokens): {hours:.2g} hours of a GPU that does "
            f"{_FLOPS_PER_SECOND / 1e12:.0f} teraflops. Scoring, selecting and evaluating are not included; their "
            "cost is measured.",
            self._effect(),
        ]
        return "\n\n".join(lines)

    def _unknown(self) -> list[str]:
        """Return sentences on what only the runs tell."""
        bounded = ", ".join(entry.name for entry in self.methods if entry.rows_at_most)
        uncounted = ", ".join(entry.name for entry in self.methods if entry.tokens is None)
        sentences = {
            f"≤: an upper bound. How many rows the filters keep is known when they have run ({bounded}).": bounded,
            f"–: known when it is trained. The operations below are without {uncounted}.": uncounted,
        }
        return [sentence for sentence, names in sentences.items() if names]

    def _effect(self) -> str:
        if self.detectable is None:
            return "Nothing can be compared: Random and another method need at least 2 runs each."
        sd = (
            f", {self.detectable * self.sd:.3g} with a standard deviation of {self.sd:g} as expected"
            if self.sd
            else ""
        )
        return (
            "What it can see: a true difference to Random is seen in 80 % of such experiments if it is at least "
            f"{self.detectable:.2f} standard deviations between runs of one method{sd}. Smaller ones are seen "
            "less often."
        )


def _number(count: int | None, at_most: bool) -> str:
    return "–" if count is None else f"{'≤ ' * at_most}{count:,}"


def make_plan(prepared: Prepared) -> Plan:
    """Return the plan of an experiment.

    Args:
        prepared: The experiment, whose pool is loaded.
    """
    experiment, pool = prepared.experiment, prepared.pools[None]
    cells = prepared.cells()
    tokens_per_row = _tokens_per_row(prepared)
    methods = [prepared.with_equal_steps(method) for method in prepared.methods if method.selector is not None]
    return Plan(
        tuple(_planned(prepared, method, tokens_per_row) for method in methods),
        {cell.folder.name: cell.state(prepared.identities) for cell in cells},
        len(pool.pool),
        (pool.record or {}).get("summary", ""),
        tokens_per_row,
        _parameters(experiment.model_name_or_path, experiment.model_revision, experiment.train),
        4 if experiment.train.get("use_peft") else 6,
        {task.name: task.num_items() for task in prepared.tasks},
        _detectable(methods),
        experiment.sd,
    )


def _planned(prepared: Prepared, method: Method, tokens_per_row: float) -> PlannedMethod:
    assert method.selector is not None
    config, pool_rows = training_config(method.train), prepared.num_rows(method)
    processes = prepared.experiment.num_processes
    rows = pool_rows if method.selector.keeps_all else rows_per_round(config, pool_rows)
    steps = planned_steps(method, pool_rows, processes, at_most=True)
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * processes
    trained = None if steps is None else steps * min(batch, rows)
    tokens = None if trained is None else round(trained * tokens_per_row)
    steps_at_most = steps is not None and prepared.steps(method) is None
    return PlannedMethod(
        method.name, len(method.seeds), rows, steps, tokens, method.has_open_size, steps_at_most=steps_at_most
    )


def _tokens_per_row(prepared: Prepared) -> float:
    """Return the mean number of tokens of a sample of rows, cut at max_length."""
    experiment, pool = prepared.experiment, prepared.pools[None].pool
    usable = np.flatnonzero(pool.usable)
    sample = np.random.default_rng(0).permutation(usable)[:_SAMPLE]
    tokenizer = load_tokenizer(experiment.model_name_or_path, experiment.model_revision)
    config = training_config(experiment.train)
    if config.chat_template_path is not None:
        tokenizer = copy.copy(tokenizer)  # the cache keeps the original
        tokenizer.chat_template = _chat_template(Path(config.chat_template_path))
    rows = TokenRows(pool.subset(np.sort(sample)), tokenizer, TokenSettings(max_length=config.max_length))
    lengths = rows.training().conditional.lengths
    return float(lengths.mean()) if len(lengths) else 0.0


def _chat_template(path: Path) -> str:
    """Return the chat template that a run trains with: that of a file, or that of another tokenizer."""
    from transformers import AutoTokenizer

    if path.suffix in (".jinja", ".j2"):
        return path.read_text(encoding="utf-8")
    return str(AutoTokenizer.from_pretrained(str(path)).chat_template)


def _parameters(name: str, revision: str | None, train: Mapping[str, Any]) -> int:
    """Return the number of parameters that process a token, from the config alone."""
    import torch
    from transformers import AutoModelForCausalLM

    trust = {"trust_remote_code": bool(train.get("trust_remote_code"))}
    config = load_config(Loading(name, revision, init_kwargs=trust))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, **trust)
    return round(Parameters.of(model).active)


def _detectable(methods: Sequence[Method]) -> float | None:
    control = next((len(method.seeds) for method in methods if method.name == CONTROL), 0)
    runs = [len(method.seeds) for method in methods if method.name not in (CONTROL, UNTRAINED)]
    if control < 2 or not runs or min(runs) < 2:
        return None
    return minimum_detectable_effect(1.0, min(runs), control_runs=control, methods=len(runs))
