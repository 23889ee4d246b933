"""Beginning again: from the base model, kept on disk, with a fresh optimizer; and from a checkpoint."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hf_datasel.errors import ResumeError

__all__ = ["Base", "FreshOptimizer", "cast_back"]

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
        for name, weight in _trainable(model).items():
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


def _trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


class FreshOptimizer:
    """What an optimizer was before its first update.

    Args:
        optimizer: that has made none.
        scheduler: of the user's own, which is as old; None: it has none yet.
    """

    def __init__(self, optimizer: Any, scheduler: Any = None):
        self._state = copy.deepcopy(optimizer.state_dict())
        self._scheduler = None if scheduler is None else copy.deepcopy(scheduler.state_dict())

    def restore(self, optimizer: Any, scheduler: Any) -> bool:
        """Make the optimizer that again, and the scheduler where it is the user's own; says whether it is."""
        optimizer.load_state_dict(copy.deepcopy(self._state))
        if self._scheduler is not None:
            scheduler.load_state_dict(copy.deepcopy(self._scheduler))
        return self._scheduler is not None


def cast_back(model: torch.nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give the weights that training changes the dtype that they had before a checkpoint was loaded.

    PEFT loads an adapter in float32, also where TRL trains it in bfloat16, so that its updates would be rounded
    otherwise from then on.

    Args:
        dtypes: by name of the weight.
    """
    for name, weight in _trainable(model).items():
        if name in dtypes and weight.dtype != dtypes[name]:
            weight.data = weight.data.to(dtypes[name])
