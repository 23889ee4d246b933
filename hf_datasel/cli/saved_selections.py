"""Saved selections that commands are called with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_datasel.errors import ConfigError, SelectionError

if TYPE_CHECKING:
    from hf_datasel.selection import Selection

__all__ = ["load_selection", "load_selections"]


def load_selection(folder: str | Path) -> Selection:
    """Load a saved selection.

    Raises:
        SelectionError: If the folder does not contain a selection. For the folder of a training run, the message
            names one of its selections.
    """
    from hf_datasel.selection import Selection

    path = Path(folder).expanduser()
    parents = [parent for parent in (path, path / "selections") if not (path / "selection.json").is_file()]
    rounds = [file.parent for parent in parents for file in parent.glob("round-*/selection.json")]
    if rounds:
        last = max(rounds, key=lambda round_folder: (len(round_folder.name), round_folder.name))
        count = f"{len(rounds):,} round{'' if len(rounds) == 1 else 's'}"
        raise SelectionError(f"{str(path)!r} is a run with {count}, each with its own selection: name one, as {last}.")
    return Selection.load(path)


def load_selections(folders: Any, key: str) -> dict[str, Selection]:
    """Return saved selections, each by a unique name of its method.

    Args:
        folders: List of folders.
        key: Name of the flag or key, for messages.

    Raises:
        ConfigError: It is no list.
        SelectionError: A folder does not contain a selection.
    """
    from hf_datasel.analysis.unique_names import selection_names

    if not isinstance(folders, list):
        raise ConfigError(f"{key} has to be a list of folders, and is {folders!r}.")
    selections = [load_selection(str(folder)) for folder in folders]
    names = selection_names([selection.provenance for selection in selections])
    return dict(zip(names, selections, strict=True))
