"""Which checkpoint to resume from: whether one was saved completely, and whether its files are still as they were."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import xxhash
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME

from hf_datasel import __version__
from hf_datasel.atomic import write_file
from hf_datasel.errors import ResumeError

__all__ = [
    "STATE_ARRAYS",
    "STATE_JSON",
    "check_checkpoint",
    "check_run_exists",
    "last_complete_checkpoint",
    "read_json",
    "remove_stale_files",
    "save_digests",
]

logger = logging.getLogger(__name__)

STATE_JSON, STATE_ARRAYS = "selection_state.json", "selection_state.npz"
"""Files of the state of the selection."""
_DIGESTS = "checkpoint_digests.json"
_FIRST_WITH_DIGESTS = 5
"""Version of the state of the selection from which on every checkpoint has digests."""
_NOT_READ = ("README.md", "checkpoint-is-incomplete.txt")
"""Files that no resume reads: people edit the one, and `enable_jit_checkpoint` removes the other in the end."""


def save_digests(checkpoint: str | os.PathLike[str]) -> None:
    """Write the digests of all files of a checkpoint, after all other files.

    A checkpoint without them was not saved completely.

    Args:
        checkpoint: Folder of the checkpoint.
    """
    folder = Path(checkpoint)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (_DIGESTS, *_NOT_READ))
    digests = {path.relative_to(folder).as_posix(): _file_digest(path) for path in files}
    content = json.dumps({"hf_datasel": __version__, "xxh3_128": digests}, indent=2)
    write_file(folder / _DIGESTS, f"{content}\n")


def last_complete_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """Return the last checkpoint of a run to resume from, or None if the run has to begin again.

    Checkpoints that were not saved completely, and those with damaged files, are skipped with a warning.

    Args:
        output_dir: Output folder of the run.

    Raises:
        ResumeError: There is no run; or it ended without saving a checkpoint; or the files of its only complete
            checkpoints are damaged, so that beginning again is for the user to decide.
    """
    check_run_exists(output_dir)
    damaged = ""
    for path in _checkpoints(output_dir):
        if not _is_complete(path):
            logger.warning("%s is incomplete: the run ended while it was being saved. It is skipped.", path)
        elif (name := _changed_file(path)) is not None:
            damaged = damaged or f"{str(path / name)!r} is not as it was saved"
            logger.warning("%s is damaged: %s is missing or not as it was saved. It is skipped.", path, name)
        else:
            return str(path)
    if damaged:
        raise ResumeError(
            f"{str(output_dir)!r} has no other complete checkpoint: {damaged}. Restore the file, or start without "
            "resume_from_checkpoint."
        )
    logger.warning(
        "%s has no complete checkpoint: its run ended before the first one was saved. Training begins again.",
        output_dir,
    )
    return None


def check_run_exists(output_dir: str | os.PathLike[str]) -> None:
    """Raise if a folder holds nothing of a run that can be resumed or begun again.

    Args:
        output_dir: Output folder of the run.

    Raises:
        ResumeError: Says what the folder holds.
    """
    path = Path(output_dir)
    if _checkpoints(path):
        return
    if (path / STATE_JSON).is_file():
        raise ResumeError(
            f"The run in {str(path)!r} has saved its model, but has no checkpoint. Remove resume_from_checkpoint to "
            "start again."
        )
    if not path.is_dir() or not any(path.iterdir()):
        raise ResumeError(f"There is no run in {str(path)!r}. Remove resume_from_checkpoint to start one.")


def check_checkpoint(checkpoint: str | os.PathLike[str]) -> None:
    """Raise if a checkpoint is incomplete or damaged.

    Args:
        checkpoint: Folder of the checkpoint.

    Raises:
        ResumeError: Names the folder or the file.
    """
    path = Path(checkpoint)
    if not path.is_dir():
        raise ResumeError(f"resume_from_checkpoint={str(path)!r}: there is no such folder.")
    if not _is_complete(path):
        raise ResumeError(
            f"{str(path)!r} is no complete checkpoint: the run ended while it was being saved, or files are missing.",
            "Pass another checkpoint, or resume_from_checkpoint=True for the last complete one.",
            "Pass another checkpoint, or --resume_from_checkpoint true for the last complete one.",
        )
    if (name := _changed_file(path)) is not None:
        raise ResumeError(
            f"{str(path / name)!r} is missing or not as {_DIGESTS} records it. Restore the file, or resume from "
            "another checkpoint."
        )


def remove_stale_files(checkpoint: str) -> None:
    """Remove files that an earlier run left in the folder of a checkpoint, before a new one is saved there.

    They are what would make an incomplete checkpoint look complete, and an adapter, which would be loaded with the
    full model of the new checkpoint.
    """
    for name in (
        _DIGESTS,
        TRAINER_STATE_NAME,
        STATE_JSON,
        ADAPTER_CONFIG_NAME,
        ADAPTER_SAFE_WEIGHTS_NAME,
        ADAPTER_WEIGHTS_NAME,
    ):
        (Path(checkpoint) / name).unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of a checkpoint.

    Raises:
        ResumeError: It is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResumeError(f"{str(path)!r} cannot be read: {error}. Resume from another checkpoint.") from error
    if not isinstance(content, dict):
        raise ResumeError(f"{str(path)!r} is damaged: it holds no JSON object. Resume from another checkpoint.")
    return content


def _checkpoints(output_dir: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of the checkpoints of a run, the last one first."""
    steps = {}
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdecimal() and path.is_dir():
            steps[int(step)] = path
    return [path for _, path in sorted(steps.items(), reverse=True)]


def _is_complete(checkpoint: Path) -> bool:
    """Return whether all files were written: where there are no digests, `Trainer` writes its own state last."""
    if (checkpoint / _DIGESTS).is_file():
        return True
    try:
        if (checkpoint / STATE_JSON).is_file() and read_json(checkpoint / STATE_JSON)[
            "version"
        ] >= _FIRST_WITH_DIGESTS:
            return False
        read_json(checkpoint / TRAINER_STATE_NAME)
    except (ResumeError, KeyError, TypeError):
        return False
    return True


def _changed_file(checkpoint: Path) -> str | None:
    """Return the name of the first file that is missing or not as it was saved."""
    if not (checkpoint / _DIGESTS).is_file():  # of a release that wrote no digests
        return None
    try:
        digests = read_json(checkpoint / _DIGESTS)["xxh3_128"].items()
    except (ResumeError, KeyError, AttributeError):
        return _DIGESTS
    paths = ((name, checkpoint / name, digest) for name, digest in digests)
    return next((name for name, path, digest in paths if not path.is_file() or _file_digest(path) != digest), None)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
