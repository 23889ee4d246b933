"""The state of the selection in checkpoints, and the saved selections."""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers
from transformers import TrainerCallback

from hf_datasel import __version__
from hf_datasel.atomic import write_file
from hf_datasel.errors import ConfigError, DataselError, ResumeError
from hf_datasel.scoring.cost import Cost
from hf_datasel.selection import Selection
from hf_datasel.selection.result import selection_table
from hf_datasel.spec import upgraded
from hf_datasel.training.checkpoint_files import STATE_ARRAYS, STATE_JSON, read_json
from hf_datasel.training.order import RoundOrder
from hf_datasel.training.run_identity import check_columns, check_identity
from hf_datasel.training.schedule import StartedRound

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from hf_datasel.formats import Pool

__all__ = [
    "CarriedState",
    "CheckpointCallback",
    "SelectionState",
    "check_resume_supported",
    "load_selections",
    "restore_dtypes",
    "save_selection",
]

logger = logging.getLogger(__name__)

_VERSION, _OLDEST_VERSION = 5, 3
_RENAMED_IN = 4
"""Version from which on the state of selectors has the names of this release."""
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
"""Errors of reading arrays, and rounds that fit them, from a damaged file."""


@dataclass
class CarriedState:
    """State that rounds leave for later rounds.

    Attributes:
        arrays: State of the selector.
        checkpoints: Folders of the checkpoints that the plan requested, in order.
        columns: Digest of each column of the pool that a selection relied on, by name.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)

    def check_checkpoints(self) -> None:
        """Raise if a requested checkpoint no longer exists.

        Raises:
            ResumeError: Names the folder.
        """
        for path in self.checkpoints:
            if not Path(path).is_dir():
                raise ResumeError(
                    f"{path!r} no longer exists, but a later round reads it. Restore it, or start without "
                    "resume_from_checkpoint."
                )


@dataclass
class SelectionState:
    """What training needs in a checkpoint to resume the selection exactly.

    Attributes:
        identity: Settings and digests that have to be equal in the run that resumes.
        records: Rounds that have begun.
        carried: State for later rounds.
        losses: Losses of rows from their training steps, where they are reused.
        pass_ended: Whether a callback had ended the pass over the rows early at this step.
        base: Digest of the base weights, where later rounds restart from them.
        plan: Planned rounds, as plain values.
        selections: Provenance of the selection of each round.
        costs: Cost of the run until now by phase; None in checkpoints of earlier releases.
        initial_losses: Losses of rows before training, where a step filter reads them.
    """

    identity: dict[str, Any]
    records: list[StartedRound]
    carried: CarriedState
    losses: dict[str, np.ndarray] = field(default_factory=dict)
    pass_ended: bool = False
    base: str | None = None
    plan: list[dict[str, Any]] = field(default_factory=list)
    selections: list[dict[str, Any]] = field(default_factory=list)
    costs: dict[str, Cost] | None = None
    initial_losses: np.ndarray | None = None

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the state beside the weights of a checkpoint. Row numbers are stored as differences, to compress.

        Raises:
            DataselError: A file cannot be written, as on a full disk.
        """
        path = Path(directory)
        arrays: dict[str, Any] = {f"state/{name}": values for name, values in self.carried.arrays.items()}
        arrays |= {f"losses/{name}": values for name, values in self.losses.items()}
        for index, record in enumerate(self.records):
            arrays[f"rows/{index}"] = np.diff(record.rows, prepend=0)
            if record.order is not None:
                arrays[f"order/{index}"] = np.diff(record.order.rows, prepend=0)
                arrays |= {} if record.order.segments is None else {f"segments/{index}": record.order.segments}
            if record.weights is not None:
                arrays[f"weights/{index}"] = record.weights
        if self.initial_losses is not None:
            arrays["initial_losses"] = self.initial_losses
        write_file(path / STATE_ARRAYS, partial(_write_arrays, arrays))
        rounds = [
            {name: value for name, value in vars(record).items() if name not in ("rows", "order", "weights")}
            for record in self.records
        ]
        content = {
            "version": _VERSION,
            "hf_datasel": __version__,
            "identity": self.identity,
            "rounds": rounds,
            "checkpoints": [os.path.relpath(folder, path.parent) for folder in self.carried.checkpoints],
            "columns": self.carried.columns,
            "pass_ended": self.pass_ended,
            "base": self.base,
            "plan": self.plan,
            "selections": self.selections,
            "costs": self.costs,
        }
        write_file(path / STATE_JSON, json.dumps(content, indent=2, default=str) + "\n")

    @classmethod
    def load(cls, directory: str | os.PathLike[str], identity: dict[str, Any], pool: Dataset) -> SelectionState:
        """Read the state of a checkpoint of the same run.

        Args:
            directory: Folder of the checkpoint.
            identity: Identity of this run.
            pool: Its rows.

        Raises:
            ResumeError: There is no state, or it is of another pool, selector or version, or a column that a selection
                relied on has other values now. The message names what differs.
        """
        path = Path(directory)
        if not (path / STATE_JSON).is_file() or not (path / STATE_ARRAYS).is_file():
            raise ResumeError(
                f"{str(path)!r} has no {STATE_JSON}: it was not written by SelectiveSFTTrainer. Start without "
                "resume_from_checkpoint, or pass the folder of the checkpoint as the model."
            )
        content = read_json(path / STATE_JSON)
        # releases that did not record themselves are 0.1.0 and earlier
        writer, version = f"hf_datasel {content.get('hf_datasel', '0.1.0 or earlier')}", content.get("version")
        if not (isinstance(version, int) and _OLDEST_VERSION <= version <= _VERSION):
            raise ResumeError(
                f"{str(path)!r} was written by {writer} with version {version} of the state, but hf_datasel "
                f"{__version__} reads versions {_OLDEST_VERSION} to {_VERSION}.",
                "Resume with the release that wrote it, or start without resume_from_checkpoint.",
            )
        is_current = writer == f"hf_datasel {__version__}"
        wrote = "" if is_current else f" It was written by {writer}; this is {__version__}."
        check_identity(path, content.get("identity", {}), identity, wrote)
        check_columns(path, content.get("columns", {}), pool)
        try:
            return cls._of(content, path)
        except _DAMAGED as error:
            raise ResumeError(
                f"{str(path / STATE_ARRAYS)!r} or {STATE_JSON} is damaged: {error}. Resume from another checkpoint."
            ) from error

    @classmethod
    def _of(cls, content: dict[str, Any], path: Path) -> SelectionState:
        with (path / STATE_ARRAYS).open("rb") as file, np.load(file) as stored:
            rounds = [_read_round(stored, index, values) for index, values in enumerate(content["rounds"])]
            initial_losses = stored.get("initial_losses")
            arrays, losses = (
                {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}
                for prefix in ("state/", "losses/")
            )
        arrays = _upgrade_arrays(arrays) if content["version"] < _RENAMED_IN else arrays
        return cls(
            content["identity"],
            rounds,
            CarriedState(
                arrays,
                [os.path.normpath(path.parent / folder) for folder in content["checkpoints"]],
                content["columns"],
            ),
            losses,
            content["pass_ended"],
            content["base"],
            content.get("plan", []),
            content.get("selections", []),
            content.get("costs"),
            initial_losses,
        )


def _read_round(arrays: Mapping[str, np.ndarray], index: int, values: dict[str, Any]) -> StartedRound:
    order = None
    if f"order/{index}" in arrays:
        order = RoundOrder(np.cumsum(arrays[f"order/{index}"]), arrays.get(f"segments/{index}"))
    weights = arrays.get(f"weights/{index}")
    return StartedRound(np.cumsum(arrays[f"rows/{index}"]), **values, order=order, weights=weights)


def _write_arrays(arrays: Mapping[str, Any], draft: Path) -> None:
    with draft.open("wb") as file:  # a path without the ending would get it
        np.savez_compressed(file, **arrays)


def _upgrade_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the state of selectors in version 3 with the names of version 4, in which only JSON texts differ."""
    current = {}
    for name, values in arrays.items():
        key = name.rpartition("/")[2]
        if key == "record" and values.dtype.kind == "U":  # of `Chain`
            record = json.loads(str(values[0]))
            record["score_specs"] = upgraded(record.pop("specs"))
            record["columns_verified"] = record.pop("columns_known")
            values = np.array([json.dumps(record)])
        elif key == "specs" and values.dtype.kind == "U":  # of `first_round_values`
            values = np.array(json.dumps(upgraded(json.loads(str(values)))))
        current[name] = values
    return current


# -- saved selections -------------------------------------------------------------------------------------------------
def save_selection(selection: Selection, output_dir: str, index: int) -> None:
    """Save the selection of a round, and remove those of later rounds, which an earlier run left in this folder."""
    selection.save(_selection_folder(output_dir, index))
    while (later := _selection_folder(output_dir, index := index + 1)).joinpath("selection.json").is_file():
        shutil.rmtree(later)


def load_selections(
    output_dir: str, checkpoint: str, saved: SelectionState, pool: Pool, should_save: bool
) -> list[Selection]:
    """Return the selections of the rounds of a checkpoint, and save those that the output folder lacks.

    They are read from the output folder, or from the one that the checkpoint is in. Where neither has one, the
    selection is made of the row numbers in the checkpoint, without scores, and a warning is logged.

    Args:
        output_dir: Output folder of the run that resumes.
        checkpoint: Folder of the checkpoint.
        saved: Its state.
        pool: The rows.
        should_save: Whether this process writes files.
    """
    provenances = {provenance["round"]: provenance for provenance in saved.selections}
    selections = []
    for index, record in enumerate(saved.records):
        folder = _selection_folder(output_dir, index)
        selection = _matching_selection(folder, record)
        is_saved = selection is not None
        if not is_saved:
            selection = _matching_selection(_selection_folder(Path(checkpoint).parent, index), record)
        if selection is None and index in provenances:
            logger.warning(
                "%s is missing or of another run: the selection of round %d has the row numbers of the checkpoint, "
                "but no scores.", folder, index,
            )  # fmt: skip
            selection = Selection(record.rows, provenances[index], selection_table(pool, record.rows, record.weights))
        if selection is None:
            logger.warning("%s is missing or of another run: trainer.selections lacks round %d.", folder, index)
            continue
        if should_save and not is_saved:
            selection.save(folder)
        selection.dataset = pool.dataset
        selections.append(selection)
    return selections


def _matching_selection(folder: Path, record: StartedRound) -> Selection | None:
    """Return the selection in a folder if it is that of a round."""
    if not (folder / "selection.json").is_file():
        return None
    try:
        selection = Selection.load(folder)
    except (DataselError, *_DAMAGED) as error:
        logger.warning("%s", error)
        return None
    if not np.array_equal(selection.indices, record.rows):
        return None
    no_weights = np.ones(len(record.rows))
    saved, expected = (no_weights if each is None else each for each in (selection.weights, record.weights))
    return selection if np.array_equal(saved, expected) else None


def _selection_folder(output_dir: str | os.PathLike[str], index: int) -> Path:
    return Path(output_dir) / "selections" / f"round-{index}"


# -- checkpoints ------------------------------------------------------------------------------------------------------
class CheckpointCallback(TrainerCallback):
    """Callback that saves a checkpoint at the end of each epoch of a round that needs them.

    Args:
        is_needed: Returns whether the current round needs a checkpoint after each epoch.

    Attributes:
        requested: Whether the checkpoint being saved is one that a round needs.
    """

    def __init__(self, is_needed: Callable[[], bool]):
        self._is_needed = is_needed
        self.requested = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Request a checkpoint if the round needs one."""
        self.requested = self._is_needed()
        control.should_save = control.should_save or self.requested


def check_resume_supported(num_processes: int, device: torch.device) -> None:
    """Raise if the installed transformers cannot load an optimizer in several processes on CPUs.

    Before version 5.18 it maps the optimizer to "cpu:0", a device that `torch.load` does not accept.

    Args:
        num_processes: Number of processes of the run.
        device: Device of this process.

    Raises:
        ConfigError: Says which version is needed.
    """
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if num_processes > 1 and device.type == "cpu" and version < (5, 18):
        raise ConfigError(
            f"transformers {transformers.__version__} cannot resume {num_processes} processes on CPUs: it cannot load "
            "the optimizer there. Use transformers 5.18 or newer, or GPUs."
        )


def restore_dtypes(model: torch.nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Cast the trainable weights back to the dtypes that they had before a checkpoint was loaded.

    PEFT loads an adapter in float32, also where TRL trains it in bfloat16, so that later updates would be rounded
    differently.

    Args:
        model: Model that the checkpoint was loaded into.
        dtypes: Dtype of each weight by name.
    """
    for name, weight in model.named_parameters():
        if weight.requires_grad and name in dtypes and weight.dtype != dtypes[name]:
            weight.data = weight.data.to(dtypes[name])
