"""The training run that selected the rows: steps, epochs and losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_datasel.analysis import plots
from hf_datasel.analysis.plots.theme import format_number
from hf_datasel.cards.round_wording import counted, is_growing, restart_steps, warm_up_end, warm_up_rounds
from hf_datasel.cards.section import FigureInfo, Section
from hf_datasel.hub.markdown import code
from hf_datasel.selection.display import describe_setting

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts, TrainingRun

__all__ = [
    "SECTION",
    "describe_logged_loss",
    "describe_order",
    "describe_step_filter",
    "step_filter_citation",
    "training_facts",
]

_MAX_LISTED = 6  # restarts that the alternative text lists
_CITATIONS = {
    "tail_sft": (
        "@article{malladi2026tailsft, title={TailSFT: Filtered Fine-Tuning Improves Post-Training Performance}, "
        "author={Malladi, Sadhika and Jelassi, Samy and Foster, Dylan and Ash, Jordan T. and Krishnamurthy, Akshay}, "
        "journal={arXiv preprint arXiv:2608.25756}, year={2026}}"
    ),
    "top_loss": (
        "@inproceedings{kawaguchi2020ordered, title={Ordered SGD: A New Stochastic Optimization Framework for "
        "Empirical Risk Minimization}, author={Kawaguchi, Kenji and Lu, Haihao}, booktitle={AISTATS}, year={2020}}"
    ),
}
"""BibTeX entries of the filters within steps."""


# -- facts -----------------------------------------------------------------------------------------------------------
def training_facts(log_history: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> TrainingRun:
    """Return the facts of a training run that has selected rows.

    Args:
        log_history: `log_history` of the trainer, or of the `trainer_state.json` that it saved.
        provenance: Provenance of a selection of the run.
    """
    run = provenance.get("training") or {}
    model = run.get("model") or (provenance.get("model") or {}).get("name") or "a model"
    return {
        "model": str(model),
        "settings": dict(run.get("settings") or {}),
        "steps": max((int(entry.get("step", 0)) for entry in log_history), default=0),
        "epochs": round(max((float(entry.get("epoch") or 0) for entry in log_history), default=0.0), 4),
        "loss": _series(log_history, "loss"),
        "eval_loss": _series(log_history, "eval_loss"),
        "selection_time_share": _selection_time_share(log_history),
    }


def _series(log_history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """Return (step, value) as logged; of two values at one step, the later one."""
    values = {int(entry["step"]): float(entry[key]) for entry in log_history if key in entry and "step" in entry}
    return sorted(values.items())


def _selection_time_share(log_history: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the share of the wall time that the run logged at its end; of a resumed run, since it was resumed."""
    shares = [
        entry["selection_time_share"]
        for entry in log_history
        if {"train_runtime", "selection_time_share"} <= set(entry)
    ]
    return float(shares[-1]) if shares else None


# -- text ------------------------------------------------------------------------------------------------------------
def _text(facts: Facts, own: None) -> str:
    run = facts["training"]
    if run is None:
        return ""
    model, restart = code(run["model"]), max(restart_steps(facts["rounds"]), default=0)
    length = f"{counted(run['steps'], 'step')} over {counted(run['epochs'], 'epoch')}"
    losses = _last_losses(run, restart)
    settings = run["settings"]
    step_filter = settings.get("step_filter")
    logged = describe_logged_loss(bool(facts["rounds"][-1].get("weights")), step_filter) if run["loss"] else ""
    how = [describe_order(settings.get("selection_order")), describe_step_filter(step_filter), logged]
    order = " ".join(filter(None, how))
    if not restart:
        return f"{model} was trained for {length}{_which_rows(facts)}.{losses} {order}".rstrip()
    earlier = "the warm-up" if warm_up_rounds(facts["rounds"]) else "earlier rounds"
    steps = run["steps"] - restart
    if steps <= 0:
        return f"{model} was trained for {length}, all of them in {earlier}, and not yet on these rows."
    return (
        f"{model} was trained on these rows for {counted(steps, 'step')}, starting again from the base model.{losses} "
        f"The whole run took {length}, including {earlier}. {order}".rstrip()
    )


def describe_order(setting: Any) -> str:
    """Return a sentence on the order in which rows were trained on, or "" if it was random.

    Args:
        setting: `selection_order` of the run, in plain values.

    >>> print(describe_order("reversed"))
    In every epoch, the rows were trained on in the order of the selection, best last.
    """
    if setting in (None, "random"):
        return ""
    order: Mapping[str, Any] = {"descending": setting == "reversed"} if isinstance(setting, str) else setting
    by, descending, segments = order.get("by"), order.get("descending", False), order.get("segments")
    name = "the selection" if by is None else code(describe_setting(by))
    best = f"best {'last' if descending else 'first'}"
    first = best if by is None else f"{'highest' if descending else 'lowest'} first and rows without a value last"
    within = "rows of equal value" if segments is None else counted(segments, "segment")
    pattern = {
        "folded": f", dealt into {counted(order.get('folds', 1), 'fold')} that follow one another",
        "segmented": f", shuffled within {within}",
    }.get(order.get("pattern", ""), "")
    return f"In every epoch, the rows were trained on in the order of {name}, {first}{pattern}."


def describe_step_filter(setting: Any) -> str:
    """Return a sentence on the rows that each step dropped by their losses, or "" if it dropped none.

    Args:
        setting: `step_filter` of the run, in plain values.

    >>> print(describe_step_filter({"top_loss": {"ratio": 0.25}}))
    Of the rows of each batch, the 25% with the highest losses were trained on.
    """
    if setting is None:
        return ""
    name, settings = (setting, {}) if isinstance(setting, str) else next(iter(setting.items()))
    if name == "tail_sft":
        share = f"{(settings or {}).get('fraction', 0.5):.0%}"
        is_static = (settings or {}).get("schedule") == "static"
        dropped = f"the {share}" if is_static else f"a share rising from none to {share} over the run,"
        return (
            f"Of the rows of each batch, {dropped} whose loss had fallen furthest below that of the model before "
            f"training were dropped from the loss ([TailSFT](https://arxiv.org/abs/2608.25756))."
        )
    where = {"top_loss": "the highest losses", "bottom_loss": "the lowest losses"}.get(name, "losses in the middle")
    share = f"{(settings or {}).get('ratio', 0.5):.0%}"
    return f"Of the rows of each batch, the {share} with {where} were trained on."


def describe_logged_loss(has_weights: bool, step_filter: Any) -> str:
    """Return a sentence on what a logged training loss is the mean of, or "" if it is that of all rows alike.

    Args:
        has_weights: Whether the rows have weights.
        step_filter: `step_filter` of the run, in plain values.

    >>> print(describe_logged_loss(True, "top_loss"))
    The logged training loss is that of the rows that were kept, times their weights.
    """
    if not has_weights and step_filter is None:
        return ""
    rows = "the rows" if step_filter is None else "the rows that were kept"
    return f"The logged training loss is that of {rows}{', times their weights' if has_weights else ''}."


def step_filter_citation(setting: Any) -> str:
    """Return the BibTeX entry of a filter within steps, or "" if it has none.

    Args:
        setting: `step_filter` of the run, in plain values.
    """
    name = setting if isinstance(setting, str) else next(iter(setting or ()), "")
    return _CITATIONS.get(name, "")


def _last_losses(run: TrainingRun, restart: int) -> str:
    """Return the last losses of the final model.

    Args:
        run: Facts of the run.
        restart: Step after which training started again from the base model. A training loss is a mean since the one
            logged before, so it may include another model's.
    """
    losses, evaluations = run["loss"], [(step, loss) for step, loss in run["eval_loss"] if step > restart]
    previous_step = losses[-2][0] if len(losses) > 1 else 0
    parts = [f"training loss was {losses[-1][1]:.4g}"] if losses and previous_step >= restart else []
    parts += [f"evaluation loss was {evaluations[-1][1]:.4g}"] if evaluations else []
    return f" The last {' and the last '.join(parts)}." if parts else ""


def _which_rows(facts: Facts) -> str:
    if warm_up_rounds(facts["rounds"]):
        return ", including the warm-up"
    return " of the rows of all its rounds" if is_growing(facts["rounds"]) else " of these rows"


# -- figure ----------------------------------------------------------------------------------------------------------
def _figures(facts: Facts, own: None) -> list[FigureInfo]:
    run = facts["training"]
    if run is None or max(len(_finite(run["loss"])), len(_finite(run["eval_loss"]))) < 2:
        return []
    restarts, warm_up = restart_steps(facts["rounds"]), warm_up_end(facts["rounds"])
    draw = partial(plots.draw_loss, run["loss"], run["eval_loss"], restarts=restarts, warm_up=warm_up)
    return [FigureInfo("training", "Loss during training", _alt(run, restarts, warm_up), draw)]


def _alt(run: TrainingRun, restarts: Sequence[int], warm_up: int | None) -> str:
    parts = []
    for name, points in (("Training loss", _finite(run["loss"])), ("evaluation loss", _finite(run["eval_loss"]))):
        if points:
            (first, start), (last, end) = points[0], points[-1]
            parts.append(f"{name}: {format_number(start)} at step {first:,}, {format_number(end)} at step {last:,}")
    alt = f"Line chart of loss by step. {'; '.join(parts)}."
    if warm_up:
        alt += f" The warm-up ends at step {warm_up:,}."
    if restarts:
        listed = ", ".join(f"{step:,}" for step in restarts[:_MAX_LISTED])
        more = " ..." if len(restarts) > _MAX_LISTED else ""
        alt += (
            f" Training started again from the base model after step {listed}{more}, where the lines are interrupted."
        )
    return alt


def _finite(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]


SECTION = Section("training", "Training", _text, _figures)
