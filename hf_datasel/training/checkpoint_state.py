"""The state of the selection in checkpoints, the saved selections, and which checkpoint to resume from."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME

from hf_datasel import __version__
from hf_datasel.errors import ConfigError, ResumeError
from hf_datasel.formats.digest import column_digest
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import without_paths
from hf_datasel.spec import upgraded
from hf_datasel.training.config import SelectiveSFTConfig, data_seed, without_secrets
from hf_datasel.training.schedule import StartedRound

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from hf_datasel.formats import Pool
    from hf_datasel.rounds.selector import Selector

__all__ = [
    "CarriedState",
    "CheckpointCallback",
    "SelectionState",
    "check_resume_supported",
    "last_complete_checkpoint",
    "load_selections",
    "remove_stale_files",
    "restore_dtypes",
    "run_identity",
    "save_selection",
    "tokens_digest",
]

logger = logging.getLogger(__name__)

_VERSION, _OLDEST_VERSION = 4, 3
_JSON, _ARRAYS = "selection_state.json", "selection_state.npz"


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
    """

    identity: dict[str, Any]
    records: list[StartedRound]
    carried: CarriedState
    losses: dict[str, np.ndarray] = field(default_factory=dict)
    pass_ended: bool = False
    base: str | None = None

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the state beside the weights of a checkpoint. Row numbers are stored as differences, to compress."""
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {f"state/{name}": values for name, values in self.carried.arrays.items()}
        arrays |= {f"losses/{name}": values for name, values in self.losses.items()}
        for index, record in enumerate(self.records):
            arrays[f"rows/{index}"] = np.diff(record.rows, prepend=0)
        with (path / _ARRAYS).open("wb") as file:
            np.savez_compressed(file, **arrays)
        rounds = [{name: value for name, value in vars(record).items() if name != "rows"} for record in self.records]
        content = {
            "version": _VERSION,
            "hf_datasel": __version__,
            "identity": self.identity,
            "rounds": rounds,
            "checkpoints": [os.path.relpath(folder, path.parent) for folder in self.carried.checkpoints],
            "columns": self.carried.columns,
            "pass_ended": self.pass_ended,
            "base": self.base,
        }
        (path / _JSON).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")

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
        if not (path / _JSON).is_file() or not (path / _ARRAYS).is_file():
            raise ResumeError(
                f"{str(path)!r} has no {_JSON}: it was not written by SelectiveSFTTrainer. Start without "
                "resume_from_checkpoint, or pass the folder of the checkpoint as the model."
            )
        content = json.loads((path / _JSON).read_text(encoding="utf-8"))
        # releases that did not record themselves are 0.1.0 and earlier
        writer = f"hf_datasel {content.get('hf_datasel', '0.1.0 or earlier')}"
        if not _OLDEST_VERSION <= content["version"] <= _VERSION:
            raise ResumeError(
                f"{str(path)!r} was written by {writer} with version {content['version']} of the state, but "
                f"hf_datasel {__version__} reads versions {_OLDEST_VERSION} to {_VERSION}.",
                "Resume with the release that wrote it, or start without resume_from_checkpoint.",
            )
        _check_identity(path, content["identity"], identity, writer)
        _check_columns(path, content["columns"], pool)
        with np.load(path / _ARRAYS) as stored:
            rows = [np.cumsum(stored[f"rows/{index}"]) for index in range(len(content["rounds"]))]
            arrays, losses = (
                {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}
                for prefix in ("state/", "losses/")
            )
        arrays = _upgrade_arrays(arrays) if content["version"] < _VERSION else arrays
        records = [StartedRound(rows[index], **record) for index, record in enumerate(content["rounds"])]
        checkpoints = [os.path.normpath(path.parent / folder) for folder in content["checkpoints"]]
        carried = CarriedState(arrays, checkpoints, content["columns"])
        return cls(content["identity"], records, carried, losses, content["pass_ended"], content["base"])


def run_identity(
    args: SelectiveSFTConfig, pool: Pool, digest: str, selector: Selector, rows_per_round: int, rows_per_update: int
) -> dict[str, Any]:
    """Return everything that has to be equal in a run that resumes from a checkpoint of this one.

    Args:
        args: Config of the run.
        pool: The rows.
        digest: Digest of the tokens of the rows.
        selector: Selector of the run.
        rows_per_round: Number of rows per round, without a schedule.
        rows_per_update: Number of rows per optimizer update.
    """
    return {
        "pool": {"id": pool.id, "rows": len(pool)},
        "tokens": digest,
        "selector": without_paths(selector.spec()),  # checkpoints may be pushed with the model
        "places": _paths_digest(selector.spec()),
        "rows_per_round": args.selection_schedule or rows_per_round,
        "reselection": [args.reselection_strategy, args.reselection_steps],
        "packing": args.packing and args.packing_strategy,
        "rows_per_update": rows_per_update,
        "scoring": [args.scoring_dtype, args.scoring_tokens_per_batch],
        "reuse_training_loss": args.reuse_training_loss,
        "seed": [args.seed, data_seed(args)],
    }


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


def _check_identity(path: Path, saved: dict[str, Any], identity: dict[str, Any], writer: str) -> None:
    current = json.loads(json.dumps(identity, default=str))
    selector = saved.get("selector")
    saved = {**saved, "selector": upgraded(selector)}  # by the names of this version
    differs = [name for name in current if saved.get(name) != current[name]]
    if "places" in differs and ("selector" in differs or saved["selector"] != selector):
        differs.remove("places")  # a digest of the selector's names as well
    if differs:
        name = differs[0]
        difference = _describe_difference(name, saved.get(name), current[name])
        wrote = "" if writer == f"hf_datasel {__version__}" else f"It was written by {writer}; this is {__version__}."
        raise ResumeError(f"{str(path)!r} belongs to another run: {', '.join(differs)} differ ({difference}).", wrote)


def _check_columns(path: Path, columns: Mapping[str, str], pool: Dataset) -> None:
    for name, digest in columns.items():
        if name not in pool.column_names or column_digest(pool, name) != digest:
            now = "has other values now" if name in pool.column_names else "no longer exists"
            raise ResumeError(
                f"{str(path)!r} belongs to another run: its rows were selected by column {name!r}, which {now}."
            )


def _describe_difference(name: str, before: Any, now: Any) -> str:
    """Describe how one part of an identity differs between a checkpoint and this run."""
    if name == "tokens":
        return "the same rows have other tokens or labels in this run"
    if name == "places":
        return "a model or file of the selector is in another folder in this run"
    if not isinstance(before, dict) or not isinstance(now, dict):
        return f"{before} in the checkpoint, {now} in this run"
    if name == "pool":
        if before["rows"] == now["rows"]:
            return "other rows"
        return f"another dataset: {before['rows']:,} rows in the checkpoint, {now['rows']:,} in this run"
    if before.get("selector") != now.get("selector"):
        return f"{before.get('selector')} in the checkpoint, {now.get('selector')} in this run"
    return "; ".join(_changed_settings(before, now))


def _changed_settings(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Describe the settings of one selector that differ, also those of its scores and inner selectors."""
    changes = []
    for key in (key for key in {**before, **now} if before.get(key) != now.get(key)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += _changed_settings(old, new, f"{prefix}{key}.")
        else:
            changes.append(f"{prefix}{key}: {old} in the checkpoint, {new} in this run")
    return changes


def _paths_digest(spec: dict[str, Any]) -> str:
    """Return the SHA-256 of a selector's spec with the paths of its models and files, which stay private."""
    return hashlib.sha256(json.dumps(without_secrets(spec), sort_keys=True, default=str).encode()).hexdigest()


def tokens_digest(tokens: Dataset) -> str:
    """Return the SHA-256 of the token ids and labels of all rows in order."""
    digest = hashlib.sha256()
    view = tokens.select_columns(["input_ids", "labels"]).with_format("arrow")
    for table in view.iter(batch_size=10_000):
        for name in ("input_ids", "labels"):
            lists = table.column(name).combine_chunks()
            digest.update(np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64).tobytes())
            digest.update(np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.int64).tobytes())
    return digest.hexdigest()


# -- saved selections -------------------------------------------------------------------------------------------------
def save_selection(selection: Selection, output_dir: str, index: int) -> None:
    """Save the selection of a round, and remove those of later rounds, which an earlier run left in this folder."""
    selection.save(_selection_folder(output_dir, index))
    while (later := _selection_folder(output_dir, index := index + 1)).joinpath("selection.json").is_file():
        shutil.rmtree(later)


def load_selections(output_dir: str, records: list[StartedRound]) -> list[Selection]:
    """Return the saved selections of earlier rounds, and log a warning for each that no longer exists."""
    selections = []
    for index, record in enumerate(records):
        folder = _selection_folder(output_dir, index)
        if (folder / "selection.json").is_file():
            selection = Selection.load(folder)
            if np.array_equal(selection.indices, record.rows):
                selections.append(selection)
                continue
        logger.warning("%s is missing or of another run: trainer.selections lacks round %d.", folder, index)
    return selections


def _selection_folder(output_dir: str, index: int) -> Path:
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


def last_complete_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """Return the last complete checkpoint of a run, or None.

    A run that is killed while it saves a checkpoint leaves an incomplete one. `Trainer` writes its state last.
    """
    steps = {}
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdecimal() and path.is_dir():
            steps[int(step)] = path
    for _, path in sorted(steps.items(), reverse=True):
        if _is_complete(path):
            return str(path)
        logger.warning("%s is incomplete: the run ended while it was being saved. It is skipped.", path)
    return None


def _is_complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


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


def remove_stale_files(checkpoint: str) -> None:
    """Remove files that an earlier run left in the folder of a checkpoint, before a new one is saved there.

    They are an adapter, which would be loaded with the full model of the new one, and the state of the trainer, which
    would make an incomplete checkpoint look complete.
    """
    for name in (ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME, TRAINER_STATE_NAME):
        (Path(checkpoint) / name).unlink(missing_ok=True)


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
