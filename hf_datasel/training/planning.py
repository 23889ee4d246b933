"""The rounds of a run, as the selector plans them and the config changes them."""

from __future__ import annotations

import math
from dataclasses import replace

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.context import RoundPlan
from hf_datasel.rounds.selector import Selector
from hf_datasel.selection import wanted_rows
from hf_datasel.training.config import SelectiveSFTConfig

__all__ = ["asked_for", "planned_rounds", "rows_per_round"]


def rows_per_round(config: SelectiveSFTConfig, pool_size: int) -> int:
    """Rows that the user asked for, per round."""
    if config.selection_schedule is not None:
        return config.selection_schedule[0]
    names = ("selection_size", "selection_ratio")
    return wanted_rows(pool_size, config.selection_size, config.selection_ratio, names)


def asked_for(config: SelectiveSFTConfig, rows: int, pool_size: int) -> str:
    """The setting that asks for so many rows in a round, for a message."""
    if config.selection_schedule is not None:
        return f"selection_schedule={config.selection_schedule} ({rows:,} rows in this round)"
    if rows != rows_per_round(config, pool_size):
        return f"A round of {rows:,} rows"
    if config.selection_size is not None:
        return f"selection_size={config.selection_size}"
    return f"selection_ratio={config.selection_ratio or 0.05:g} ({rows:,} rows)"


def planned_rounds(
    selector: Selector, config: SelectiveSFTConfig, budget: int, num_epochs: float, eligible: int
) -> tuple[RoundPlan, ...]:
    """The selector's rounds, as the config changes them.

    Args:
        budget: rows that the user asked for, per round.
        eligible: rows that can be trained on.

    Raises:
        ConfigError: a schedule of another length, or rounds that cannot be trained.
    """
    name = type(selector).__name__
    if num_epochs <= 0 and config.max_steps <= 0:
        raise ConfigError(f"num_train_epochs={num_epochs:g} has to be above 0.")
    num_epochs = num_epochs if num_epochs > 0 else 1.0  # max_steps says how long
    plan = selector.plan(budget, num_epochs, eligible)
    if not selector.reselects and (len(plan) > 1 or config.reselection_strategy == "steps"):
        _check_own_rounds(name, len(plan), config)
    if config.reselection_strategy != "epoch" and selector.reselects:
        plan = (RoundPlan(plan[0].budget, num_epochs),)
    sizes = config.selection_schedule
    if sizes is not None:
        if len(sizes) != len(plan):
            raise ConfigError(
                f"selection_schedule has {len(sizes)} rounds, and {name} makes {len(plan)} in num_train_epochs="
                f"{config.num_train_epochs:g}. Make them equal."
            )
        plan = tuple(replace(each, budget=size) for size, each in zip(sizes, plan, strict=True))
    if not plan or any(each.budget < 1 or each.epochs <= 0 for each in plan):
        raise ConfigError(f"{name}.plan returned {plan}: rounds need rows and epochs.")
    if any(each.checkpoints for each in plan):
        _check_checkpoints(name, plan, config)
    if config.dataloader_drop_last and not config.packing:
        _check_batches(plan, config)
    selector.check_training(config)
    return plan


def _check_batches(plan: tuple[RoundPlan, ...], config: SelectiveSFTConfig) -> None:
    batch = config.train_batch_size * config.world_size
    for index, each in enumerate(plan):
        if each.budget < batch:
            raise ConfigError(
                f"Round {index} has {each.budget:,} rows, fewer than the {batch:,} of one batch on all processes, and "
                "dataloader_drop_last drops them: leave it out, or make batches smaller."
            )


def _check_own_rounds(name: str, rounds: int, config: SelectiveSFTConfig) -> None:
    if config.reselection_strategy != "epoch":
        how = "chooses once" if rounds == 1 else f"has {rounds} rounds of its own"
        raise ConfigError(
            f"reselection_strategy={config.reselection_strategy!r} is for selectors that choose anew with the current "
            f"model at any time, and {name} {how}. Leave it out."
        )
    if config.max_steps > 0:
        raise ConfigError(
            f"{name} has {rounds} rounds of its own, which are counted in epochs: say num_train_epochs, and leave "
            "max_steps out."
        )


def _check_checkpoints(name: str, plan: tuple[RoundPlan, ...], config: SelectiveSFTConfig) -> None:
    """Refuse settings under which a checkpoint that a round asks for is not saved, or not kept."""
    wanted = sum(math.ceil(each.epochs) for each in plan if each.checkpoints)
    strategy = str(getattr(config.save_strategy, "value", config.save_strategy))
    if strategy == "best":
        raise ConfigError(
            f"{name} needs a checkpoint after each epoch of some rounds, and save_strategy='best' leaves some of them "
            "out. Use 'no', 'epoch' or 'steps'."
        )
    if config.save_total_limit is None:
        return
    if strategy == "steps":
        raise ConfigError(
            f"{name} needs {wanted} checkpoints at once, and with save_strategy='steps' those in between let "
            f"save_total_limit={config.save_total_limit} delete some of them: use save_strategy='epoch', or leave "
            "save_total_limit out."
        )
    if config.save_total_limit <= wanted:
        raise ConfigError(
            f"{name} needs {wanted} checkpoints at once, and save_total_limit={config.save_total_limit} would delete "
            f"some of them: leave it out, or make it at least {wanted + 1}."
        )
