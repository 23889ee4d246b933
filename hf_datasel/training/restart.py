"""Restarts from the base model: its weights, stored on disk, and the initial state of the optimizer."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hf_datasel.atomic import failure_reason, write_file
from hf_datasel.errors import DataselError, ResumeError

__all__ = ["BaseWeights", "OptimizerSnapshot"]

_FOLDER = "_base_weights"  # folders that begin with "_" are not pushed with the model
_DIGEST = "sha256"
_BYTES_PER_FILE = 2 << 30
_RESTORE = "Restore them beside the checkpoint, or start without resume_from_checkpoint."


@dataclass(frozen=True)
class BaseWeights:
    """The trainable weights of a run as they were before its first update, in a folder of `output_dir`.

    Args:
        output_dir: Output folder of the run.
    """

    output_dir: str

    @property
    def folder(self) -> Path:
        """Folder of the weights."""
        return Path(self.output_dir) / _FOLDER

    @property
    def digest(self) -> str | None:
        """SHA-256 of the names and the weights; None if none are stored."""
        path = self.folder / _DIGEST
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def save(self, model: torch.nn.Module) -> None:
        """Store the trainable weights of a model in place of those of an earlier run.

        Raises:
            DataselError: They cannot be written, as on a full disk.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        shard: dict[str, torch.Tensor] = {}
        size, digest = 0, hashlib.sha256()
        for name, weight in _trainable(model).items():
            tensor = weight.detach().cpu().contiguous()
            _update(digest, name, tensor)
            if size and size + weight.nbytes > _BYTES_PER_FILE:
                self._write(shard)
                shard, size = {}, 0
            shard[name] = tensor
            size += weight.nbytes
        self._write(shard)
        write_file(self.folder / _DIGEST, digest.hexdigest())

    def _write(self, shard: dict[str, torch.Tensor]) -> None:
        path = self.folder / f"{len(list(self.folder.iterdir())):05}.safetensors"
        write_file(path, partial(_save_shard, shard))

    @classmethod
    def of_checkpoint(
        cls, checkpoint: str | os.PathLike[str], digest: str | None, model: torch.nn.Module
    ) -> BaseWeights:
        """Return the base weights of the run that a checkpoint belongs to.

        Args:
            checkpoint: Folder of the checkpoint.
            digest: Digest of the weights that the checkpoint recorded.
            model: The unwrapped model, whose weights have the same names in the same order.

        Raises:
            ResumeError: The weights no longer exist, are damaged, or another run has replaced them.
        """
        weights = cls(str(Path(checkpoint).parent))
        if weights.digest is None:
            raise ResumeError(
                f"{str(weights.folder)!r} no longer exists, but later rounds begin from the weights in it. Restore it "
                "beside the checkpoint, or start without resume_from_checkpoint."
            )
        if weights.digest != digest:
            raise ResumeError(
                f"{str(weights.folder)!r} holds the base weights of another run, which replaced those of the run of "
                f"{str(checkpoint)!r}. Start without resume_from_checkpoint."
            )
        weights._check(model)
        return weights

    def _check(self, model: torch.nn.Module) -> None:
        """Raise if the files do not hold the weights of the digest."""
        names, digest = list(_trainable(model)), hashlib.sha256()
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                stored = load_file(path)
            except SafetensorError as error:
                raise ResumeError(f"{str(path)!r} is damaged: {error}. {_RESTORE}") from error
            for name in (name for name in names if name in stored):
                _update(digest, name, stored[name])
        if digest.hexdigest() != self.digest:
            raise ResumeError(f"The files in {str(self.folder)!r} are not as they were saved. {_RESTORE}")

    def copy_from(self, source: BaseWeights) -> None:
        """Copy the weights of another folder into this one.

        Raises:
            DataselError: They cannot be written.
        """
        if source.folder.resolve() != self.folder.resolve():
            shutil.rmtree(self.folder, ignore_errors=True)
            try:
                shutil.copytree(source.folder, self.folder)
            except OSError as error:
                raise DataselError(f"Cannot write {str(self.folder)!r}: {failure_reason(error)}.") from error

    def store(
        self, model: torch.nn.Module, accelerator: Any, should_save: bool, checkpoint: str | None, digest: str | None
    ) -> None:
        """Store the base weights of a run that begins or resumes. Every process has to call it.

        Args:
            model: The unwrapped model.
            accelerator: Accelerator of the trainer.
            should_save: Whether this process writes files.
            checkpoint: Folder of the checkpoint that the run resumes from; None if it begins.
            digest: Digest of the weights that the checkpoint recorded.

        Raises:
            ResumeError: The weights of the checkpoint no longer exist, or are damaged.
        """
        source = None if checkpoint is None else self.of_checkpoint(checkpoint, digest, model)
        accelerator.wait_for_everyone()  # every process has read the digest that the main one may replace
        if should_save and source is not None:
            self.copy_from(source)
        elif should_save:
            self.save(model)
        accelerator.wait_for_everyone()

    def restore(self, model: torch.nn.Module) -> None:
        """Load the weights into a model.

        Raises:
            ResumeError: They are the weights of another model.
        """
        missing = _trainable(model)
        for path in sorted(self.folder.glob("*.safetensors")):
            for name, stored in load_file(path).items():
                weight = missing.pop(name, None)
                if weight is None or weight.shape != stored.shape:
                    raise ResumeError(f"{str(self.folder)!r} holds the weights of another model: {name!r}.")
                weight.data.copy_(stored)
        if missing:
            raise ResumeError(
                f"{str(self.folder)!r} lacks weights of this model, for example {next(iter(missing))!r}."
            )


def _save_shard(shard: dict[str, torch.Tensor], draft: Path) -> None:
    try:
        save_file(shard, draft)
    except SafetensorError as error:  # also of a full disk
        raise OSError(str(error)) from error


def _update(digest: Any, name: str, weight: torch.Tensor) -> None:
    digest.update(name.encode())
    digest.update(weight.flatten().view(torch.uint8).numpy().data)


def _trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the trainable weights by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


class OptimizerSnapshot:
    """State of an optimizer before its first update, with the scheduler and the gradient scaler.

    Args:
        optimizer: Optimizer that has made no update.
        scheduler: Learning-rate scheduler that the user passed; None if the trainer creates one later.
        scaler: Gradient scaler under fp16; None otherwise.
    """

    def __init__(self, optimizer: Any, scheduler: Any = None, scaler: Any = None):
        self._states = [
            None if part is None else copy.deepcopy(part.state_dict()) for part in (optimizer, scheduler, scaler)
        ]

    @property
    def has_scheduler(self) -> bool:
        """Whether the scheduler is the user's own."""
        return self._states[1] is not None

    def restore(self, optimizer: Any, scheduler: Any, scaler: Any) -> None:
        """Load the states into the optimizer, and into the scheduler and the scaler if there were any."""
        for part, state in zip((optimizer, scheduler, scaler), self._states, strict=True):
            if state is not None:
                part.load_state_dict(copy.deepcopy(state))
