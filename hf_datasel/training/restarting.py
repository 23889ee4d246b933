"""Beginning again from the base model: its weights, kept on disk, and a fresh optimizer."""

from __future__ import annotations

import copy
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

    def save(self, model: torch.nn.Module) -> None:
        """Keep the trainable weights; those of an earlier run in the same place go."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        part: dict[str, torch.Tensor] = {}
        size = 0
        for name, weight in trainable(model).items():
            if size and size + weight.nbytes > _BYTES_PER_FILE:
                self._write(part)
                part, size = {}, 0
            part[name] = weight.detach().cpu().contiguous()
            size += weight.nbytes
        self._write(part)

    def _write(self, part: dict[str, torch.Tensor]) -> None:
        save_file(part, self.folder / f"{len(list(self.folder.iterdir())):05}.safetensors")

    def take_over(self, checkpoint: str | os.PathLike[str]) -> None:
        """Use those of the run that a checkpoint belongs to.

        Raises:
            ResumeError: they are gone.
        """
        theirs = Path(checkpoint).parent / _FOLDER
        if not theirs.is_dir():
            raise ResumeError(
                f"{str(theirs)!r} is gone: it holds the weights that later rounds begin from. Put it back beside the "
                "checkpoint, or start without resume_from_checkpoint."
            )
        if theirs.resolve() != self.folder.resolve():
            shutil.copytree(theirs, self.folder, dirs_exist_ok=True)

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
