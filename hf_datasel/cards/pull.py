"""Reading published selections and evaluation results."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hf_datasel.cards.evaluation_files import evaluation_folder, publications
from hf_datasel.cards.facts import Result
from hf_datasel.cards.report import read_results
from hf_datasel.cards.repository_files import read_selection, selection_folders
from hf_datasel.errors import PublishError, did_you_mean
from hf_datasel.hub.repository import Hub
from hf_datasel.selection import Selection

__all__ = ["PublishedEvaluation", "pull_evaluation", "pull_selection"]


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


@dataclass(frozen=True)
class PublishedEvaluation:
    """Evaluation results of a published selection.

    Args:
        results: Results as they were published, with the keys of `Result`.
        items: Name -> downloaded Parquet file with the result of every question; `load` of the results in
            `hf_datasel.evaluation` reads it.
    """

    results: list[Result]
    items: dict[str, Path]


def pull_evaluation(
    repo_id: str, *, config_name: str | None = None, revision: str | None = None, token: str | None = None
) -> PublishedEvaluation:
    """Load the evaluation results that were published with a selection.

    Args:
        repo_id: Id of the dataset repository.
        config_name: `config_name` of the push; by default the only one with results, or else `"default"`.
        revision: Commit, branch or tag.
        token: Token for a private repository; by default the one that is logged in.

    Raises:
        PublishError: The repository does not exist, has no such results, or they are damaged.
    """
    hub = Hub(repo_id, token, revision)
    files = hub.pin()
    names = publications(files)
    if not names:
        raise PublishError(f"{repo_id!r} holds no evaluation results: there is no evaluation/*/results.json in it.")
    name = config_name or (names[0] if len(names) == 1 else "default")
    if name not in names:
        raise PublishError(
            f"{repo_id!r} has no evaluation results of {name!r}.{did_you_mean(name, names)} There are those of "
            f"{', '.join(sorted(names))}.",
            hint="Pass config_name.",
        )
    folder = f"{evaluation_folder(name)}/"
    return PublishedEvaluation(
        read_results(hub.download(f"{folder}results.json")),
        {
            path.removeprefix(folder).removesuffix(".parquet"): hub.download(path)
            for path in sorted(files)
            if path.startswith(folder) and path.endswith(".parquet")
        },
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
