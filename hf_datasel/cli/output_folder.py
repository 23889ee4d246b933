"""The output folder of a command: created before any expensive work, and removed if the command writes nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hf_datasel.errors import ConfigError

__all__ = ["create_output_folder", "no_empty_folders"]

_created: list[Path] = []
"""Outermost folder that this command created, with all that is in it."""


def create_output_folder(path: str) -> Path:
    """Create the output folder and check that it is writable, before any expensive work.

    Raises:
        ConfigError: If `path` is no path, or the folder cannot be created or written to.
    """
    try:
        folder = Path(path).absolute()
        missing = [new for new in (folder, *folder.parents) if not new.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        _created.extend(missing[-1:])
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError, TypeError) as error:  # a name with a null byte, a value that is no text
        problem = getattr(error, "strerror", None) or error
        raise ConfigError(f"output_dir={path!r} cannot be created or written to: {problem}.") from error
    return Path(path)


@contextmanager
def no_empty_folders() -> Iterator[None]:
    """Remove the folder that `create_output_folder` created if the command fails, as far as there is no file in it."""
    _created.clear()
    try:
        yield
    except BaseException:
        for folder, _, _ in (entry for new in _created for entry in os.walk(new, topdown=False)):
            with suppress(OSError):  # it is not empty
                os.rmdir(folder)
        raise
