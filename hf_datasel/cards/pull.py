"""Reading published selections."""

from __future__ import annotations

import re

from hf_datasel.cards.repository_files import read_selection, selection_folders
from hf_datasel.errors import PublishError, did_you_mean
from hf_datasel.hub.repository import Hub
from hf_datasel.selection import Selection

__all__ = ["pull_selection"]


def pull_selection(
    repo_id: str, *, config_name: str | None = None, revision: str | None = None, token: str | None = None
) -> Selection:
    """Read the selection of a configuration; see `Selection.from_hub`."""
    hub = Hub(repo_id, token, revision)
    folders = selection_folders(hub.pin())
    if not folders:
        raise PublishError(f"{repo_id!r} holds no selection: there is no selections/*/selection.json in it.")
    name = _default(list(folders), repo_id) if config_name is None else _last_round(list(folders), config_name)
    if name not in folders:
        raise PublishError(
            f"{repo_id!r} has no selection {name!r}.{did_you_mean(name, folders)} There are "
            f"{', '.join(sorted(folders))}."
        )
    folder = f"selections/{name}"
    return read_selection(
        hub.download(f"{folder}/selection.json"),
        hub.download(f"{folder}/indices.npy"),
        [hub.download(path) for path in folders[name]],
        f"{repo_id!r}",
    )


def _last_round(names: list[str], config_name: str) -> str:
    """Return the configuration, or the last of its rounds."""
    rounds = [name for name in names if re.fullmatch(rf"{re.escape(config_name)}-round-\d+", name)]
    if config_name in names or not rounds:
        return config_name
    return max(rounds, key=_round_number)


def _round_number(name: str) -> int:
    return int(name.rsplit("-", 1)[1])


def _default(names: list[str], repo_id: str) -> str:
    """Return the name that `load_dataset(repo_id)` uses: the only one, the default one or the last round."""
    if len(names) == 1:
        return names[0]
    if "default" in names:
        return "default"
    rounds = [name for name in names if re.fullmatch(r"round-\d+", name)]
    if not rounds:
        raise PublishError(f"{repo_id!r} has several selections: pass config_name, one of {', '.join(sorted(names))}.")
    return max(rounds, key=_round_number)
