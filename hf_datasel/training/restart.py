"""Beginning again from the base model: its weights, kept on disk, and a fresh optimizer."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hf_datasel.errors import ResumeError

__all__ = ["Base", "FreshOptimizer", "trainable"]

_FOLDER = "_base_weights"  # what begins with "_" is not pushed with the model
_DIGEST = "sha256"
_BYTES_PER_FILE = 2 << 30


@dataclass(frozen=True)
class Base:
    """The weights that training changes, as they were before the first update.

    Attributes:
        output_dir: of the run, which keeps them in a folder of its own.
    """

    output_dir: str

    @property
    def folder(self) -> Path:
        """Where they are."""
        return Path(self.output_dir) / _FOLDER

    @property
    def digest(self) -> str | None:
        """Of the names and the weights; None where none are kept."""
        path = self.folder / _DIGEST
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def save(self, model: torch.nn.Module) -> None:
        """Keep the trainable weights; those of an earlier run in the same place go."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        part: dict[str, torch.Tensor] = {}
        size, digest = 0, hashlib.sha256()
        for name, weight in trainable(model).items():
            kept = weight.detach().cpu().contiguous()
            digest.update(name.encode())
            digest.update(kept.flatten().view(torch.uint8).numpy().data)
            if size and size + weight.nbytes > _BYTES_PER_FILE:
                self._write(part)
                part, size = {}, 0
            part[name] = kept
            size += weight.nbytes
        self._write(part)
        (self.folder / _DIGEST).write_text(digest.hexdigest(), encoding="utf-8")

    def _write(self, part: dict[str, torch.Tensor]) -> None:
        save_file(part, self.folder / f"{len(list(self.folder.iterdir())):05}.safetensors")

    @classmethod
    def beside(cls, checkpoint: str | os.PathLike[str], digest: str | None) -> Base:
        """Those of the run that a checkpoint belongs to.

        Args:
            checkpoint: its folder.
            digest: that the checkpoint says they have.

        Raises:
            ResumeError: they are gone, or another run has put its own in their place.
        """
        theirs = cls(str(Path(checkpoint).parent))
        if theirs.digest is None:
            raise ResumeError(
                f"{str(theirs.folder)!r} is gone: it holds the weights that later rounds begin from. Put it back "
                "beside the checkpoint, or start without resume_from_checkpoint."
            )
        if theirs.digest != digest:
            raise ResumeError(
                f"{str(theirs.folder)!r} holds the weights that later rounds of another run begin from, and no longer "
                f"those of the run of {str(checkpoint)!r}. Start without resume_from_checkpoint."
            )
        return theirs

    def take_over(self, theirs: Base) -> None:
        """Use those of another folder."""
        if theirs.folder.resolve() != self.folder.resolve():
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.copytree(theirs.folder, self.folder)

    def restore(self, model: torch.nn.Module) -> None:
        """Put the weights back into the model.

        Raises:
            ResumeError: they are those of another model.
        """
        missing = trainable(model)
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


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The weights that training changes, by name."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


class FreshOptimizer:
    """What an optimizer was before its first update.

    Args:
        optimizer: that has made none.
        scheduler: of the user's own, which is as old; None: it has none yet.
        scaler: of the gradients under fp16, which has scaled none; None: there is none.
    """

    def __init__(self, optimizer: Any, scheduler: Any = None, scaler: Any = None):
        self._kept = [
            None if each is None else copy.deepcopy(each.state_dict()) for each in (optimizer, scheduler, scaler)
        ]

    @property
    def has_scheduler(self) -> bool:
        """Whether the scheduler is the user's own."""
        return self._kept[1] is not None

    def restore(self, optimizer: Any, scheduler: Any, scaler: Any) -> None:
        """Make them that again, as far as they were given."""
        for each, state in zip((optimizer, scheduler, scaler), self._kept, strict=True):
            if state is not None:
                each.load_state_dict(copy.deepcopy(state))
