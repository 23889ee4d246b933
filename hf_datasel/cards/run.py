"""A training run, from its log and its output folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_datasel.cards.facts import Training
from hf_datasel.errors import PublishError
from hf_datasel.selection import Selection

__all__ = ["read_run", "training_facts"]

_STATE = "trainer_state.json"


def training_facts(log_history: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> Training:
    """What a page says of the run that chose.

    Args:
        log_history: of the trainer, or of the `trainer_state.json` that it saved.
        provenance: of a selection that the run made.
    """
    about = provenance.get("training") or {}
    model = about.get("model") or (provenance.get("model") or {}).get("name") or "a model"
    return {
        "model": str(model),
        "settings": dict(about.get("settings") or {}),
        "steps": max((int(each.get("step", 0)) for each in log_history), default=0),
        "epochs": round(max((float(each.get("epoch") or 0) for each in log_history), default=0.0), 4),
        "loss": _series(log_history, "loss"),
        "eval_loss": _series(log_history, "eval_loss"),
        "selecting": _selecting(log_history),
    }


def read_run(folder: str | os.PathLike[str]) -> tuple[list[Selection], Training | None]:
    """The selections of a run in order, and the run itself as far as its log is there.

    Args:
        folder: `output_dir` of a run, whose log is in it or in its last checkpoint; or a single saved selection.

    Raises:
        PublishError: it is neither, or its log cannot be read.
        SelectionError: a selection in it cannot be read.
    """
    path = Path(folder)
    if (path / "selection.json").is_file():
        return [Selection.load(path)], None
    rounds = _numbered(path / "selections", "round")
    if not rounds:
        raise PublishError(
            f"{str(path)!r} holds no selection: there is neither a selection.json nor a folder selections/round-0. "
            "Pass the output_dir of `hf-datasel train` or `select`."
        )
    selections = [Selection.load(each) for each in rounds]
    states = [path / _STATE, *(each / _STATE for each in reversed(_numbered(path, "checkpoint")))]
    state = next((each for each in states if each.is_file()), None)
    if state is None:
        return selections, None
    try:
        content = json.loads(state.read_text(encoding="utf-8"))
        end = {"step": content["global_step"], "epoch": content["epoch"]}  # later than what was logged last
        return selections, training_facts([*content["log_history"], end], selections[-1].provenance)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PublishError(f"{str(state)!r} is not the log of a training run: {error!r}") from error


def _numbered(folder: Path, name: str) -> list[Path]:
    """Subfolders `name-0`, `name-1` ... in the order of their numbers."""
    found = [(re.fullmatch(rf"{name}-(\d+)", each.name), each) for each in folder.glob(f"{name}-*") if each.is_dir()]
    return [each for _, each in sorted((int(match[1]), each) for match, each in found if match)]


def _series(log_history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) as logged; of two values at one step, the later one."""
    found = {int(each["step"]): float(each[key]) for each in log_history if key in each and "step" in each}
    return sorted(found.items())


def _selecting(log_history: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of the wall time, as the run logged it at its end; of a run that was resumed, since then."""
    shares = [
        each["selection_time_share"] for each in log_history if {"train_runtime", "selection_time_share"} <= set(each)
    ]
    return float(shares[-1]) if shares else None
